package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// step is one thing that a tool is measured at.
type step string

// The steps, in the order in which they are done in each round.
const (
	stepFirst   step = "first"         // first backup into an empty vault
	stepSame    step = "same"          // the next backup, nothing new
	stepEdit    step = "edit"          // the next backup, 1 % edited
	stepRestore step = "restore"       // the newest point, whole, into an empty folder
	stepTmpfs   step = "restore-tmpfs" // the same, into memory
	stepVerify  step = "verify"        // of all data in the vault
)

var allSteps = []step{stepFirst, stepSame, stepEdit, stepRestore, stepTmpfs, stepVerify}

func joinSteps(steps []step) string {
	names := make([]string, len(steps))
	for i, s := range steps {
		names[i] = string(s)
	}
	return strings.Join(names, ",")
}

// restores tells whether a step writes the corpus to a folder.
func (s step) restores() bool { return s == stepRestore || s == stepTmpfs }

// command is a program to run: no shell is between, unless it is named.
type command struct {
	argv []string
	env  []string // added to the plain one of place.env
	dir  string   // working folder
}

// place is where one tool works on one corpus: folders of its own, new in each
// round.
type place struct {
	src   string // the corpus
	vault string // what is counted as the vault's size
	home  string // cache, configuration and keys
	tmp   string // temporary files
	dst   string // of a restore; an empty folder before it
	last  step   // the newest backup that was made
}

// env is all that a tool sees of the environment: the user's own settings,
// caches and keys stay out of it.
func (p place) env() []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + p.home, "TMPDIR=" + p.tmp, "LC_ALL=C.UTF-8",
		"XDG_CACHE_HOME=" + filepath.Join(p.home, "cache"), "XDG_CONFIG_HOME=" + filepath.Join(p.home, "config"),
	}
}

// tool is a program to be measured, or a limit of the machine.
type tool struct {
	name  string
	limit bool // not a backup: no vault, no verdict about its restores
	ours  bool
	// version is what the program calls itself.
	version func(ctx context.Context) (string, error)
	// prepare makes the vault, unmeasured.
	prepare func(p place) ([]command, error)
	// command is what does a step; none where the tool has no such step.
	command func(s step, p place) (command, bool)
	// restored is the corpus below p.dst after a restore.
	restored func(p place) string
	// warned is an exit code that means a success with warnings, if not 0.
	warned int
	// note is what a reader of the table has to know.
	note string

	seen string // the version found
}

// benchSecret is every vault's passphrase: 16 characters and more.
const benchSecret = "bench passphrase, 32 characters."

// tools are all that are known, ours first.
func tools(agent string) []*tool {
	return []*tool{ours(agent), restic(), borg(), kopia(), limitWalk(), limitStream(), limitCopy()}
}

func toolNames() []string {
	var names []string
	for _, t := range tools("") {
		names = append(names, t.name)
	}
	return names
}

// openTools returns the tools to run. A tool that was asked for by name must be
// there; the others are used where they are.
func openTools(ctx context.Context, o *options) ([]*tool, error) {
	asked := len(o.tools) > 0
	wanted := func(t *tool) bool { return !asked || slices.Contains(o.tools, t.name) }
	if wanted(ours("")) && o.agent == "" {
		o.agent = filepath.Join(o.work, "agent")
		if err := buildAgent(ctx, o.agent); err != nil {
			return nil, err
		}
	}
	var open []*tool
	for _, t := range tools(o.agent) {
		if !wanted(t) {
			continue
		}
		seen, err := t.version(ctx)
		switch {
		case err == nil:
			t.seen = seen
			open = append(open, t)
		case asked || t.ours || !errors.Is(err, exec.ErrNotFound):
			return nil, fmt.Errorf("tool %s: %w", t.name, err)
		default:
			logf("%s isn't on the PATH: left out", t.name)
		}
	}
	return open, nil
}

// buildAgent builds our binary as a release would.
func buildAgent(ctx context.Context, path string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", path, "github.com/tharsis-backup/tharsis/cmd/agent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the agent: %w\n%s", err, out)
	}
	return nil
}

// versionOf runs a program and returns the first line that it prints.
func versionOf(argv ...string) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).Output()
		first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		return first, err
	}
}

// underFullPath is where a tool restores to that keeps the source's full path.
func underFullPath(p place) string { return filepath.Join(p.dst, p.src) }

// versions lists what was found, for the report.
func versions(tools []*tool) map[string]string {
	found := map[string]string{}
	for _, t := range tools {
		found[t.name] = t.seen
	}
	return found
}
