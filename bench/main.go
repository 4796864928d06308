// Bench runs the agent against restic, borg and kopia, and against what the
// machine can do at best, on the same data in one run, and prints the medians
// as Markdown tables. README.md beside this file tells how to run it, what each
// figure means and which traps it avoids.
//
// In the order of reading: corpus.go (what is backed up), edit.go (what changes
// between two backups), tools.go and one file a tool (how each is called),
// launch_linux.go (how one call is measured), run.go (the order of all calls),
// table.go (what comes out). It runs on Linux; elsewhere it only builds.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
)

// options are the flags.
type options struct {
	work, agent, out, tmpfs string
	corpora, tools          []string
	steps                   []step
	rounds                  int
	scale                   float64
	seed                    uint64
	cold, buildOnly         bool
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == launchWord {
		os.Exit(launch(os.Args[2:]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		err = run(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

// parse reads the flags.
func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.work, "work", filepath.Join(os.TempDir(), "tharsis-bench"), "folder for corpora (kept between runs), vaults and restores")
	flags.StringVar(&o.agent, "agent", "", "our binary (default: built from ./cmd/agent)")
	flags.StringVar(&o.out, "out", "", "write the tables to this file too, and the raw results beside it as .json")
	flags.StringVar(&o.tmpfs, "tmpfs", "", "restore a second time below this folder, such as /dev/shm")
	flags.IntVar(&o.rounds, "rounds", 3, "how often each step is measured; the table has the medians")
	flags.Float64Var(&o.scale, "scale", 1, "size of the corpora; each scale has corpora of its own")
	flags.Uint64Var(&o.seed, "seed", 1, "which 1 % is edited, and how")
	flags.BoolVar(&o.cold, "cold", false, "drop the page cache before each measured command (needs root)")
	flags.BoolVar(&o.buildOnly, "build-only", false, "make the corpora, measure nothing")
	corpora := flags.String("corpus", strings.Join(corpusNames, ","), "what to back up")
	tools := flags.String("tools", "", "which tools, limits included (default: all that are there, of "+strings.Join(toolNames(), ",")+")")
	steps := flags.String("steps", joinSteps(allSteps), "which steps; the first backup is always made")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	o.corpora, o.tools = words(*corpora), words(*tools)
	for _, w := range words(*steps) {
		o.steps = append(o.steps, step(w))
	}
	return o, check(o, flags.Args())
}

// check refuses what can't be run.
func check(o options, rest []string) error {
	switch {
	case len(rest) > 0:
		return fmt.Errorf("unknown argument %q", rest[0])
	case o.rounds < 1 || o.scale <= 0 || o.scale > 10:
		return errors.New("rounds must be at least 1, and scale above 0 and at most 10")
	}
	for _, name := range o.corpora {
		if !slices.Contains(corpusNames, name) {
			return fmt.Errorf("unknown corpus %q, of %v", name, corpusNames)
		}
	}
	for _, name := range o.tools {
		if !slices.Contains(toolNames(), name) {
			return fmt.Errorf("unknown tool %q, of %v", name, toolNames())
		}
	}
	for _, s := range o.steps {
		if !slices.Contains(allSteps, s) {
			return fmt.Errorf("unknown step %q, of %s", s, joinSteps(allSteps))
		}
	}
	return nil
}

// words splits a comma separated flag.
func words(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}

// run makes the corpora, measures, and writes the tables.
func run(ctx context.Context, o options) error {
	if runtime.GOOS != "linux" {
		return fmt.Errorf("measure: only on Linux: %w", errors.ErrUnsupported)
	}
	// Tools print and are given paths, so each must be absolute.
	var err error
	if o.work, err = filepath.Abs(o.work); err != nil {
		return err
	}
	corpora, err := openCorpora(ctx, o)
	if err != nil || o.buildOnly {
		return err
	}
	tools, err := openTools(ctx, &o)
	if err != nil {
		return err
	}
	b := &bench{o: o, tools: tools}
	report := report{Machine: describeMachine(o.work), Seed: o.seed, Scale: o.scale, Cold: o.cold, Versions: versions(tools)}
	for _, c := range corpora {
		report.Corpora = append(report.Corpora, c.info)
		if err = b.corpus(ctx, c); err != nil {
			break // what was measured is worth having
		}
	}
	report.Samples = b.samples
	return errors.Join(err, report.write(o.out, os.Stdout), b.verdict())
}

// logf tells the person at the terminal what goes on.
func logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...)
}
