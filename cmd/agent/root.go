package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tharsis-backup/tharsis/agent"
	"github.com/tharsis-backup/tharsis/agent/home"
)

// stdio is what a command reads and writes.
type stdio struct {
	in       *os.File
	out, err io.Writer
}

// app is what all subcommands share: the global flags and the output.
type app struct {
	std      stdio
	vault    string
	homeDir  string
	quiet    bool
	json     bool
	logLevel string
}

// run is the whole command: it parses args, does the work and returns the exit code.
func run(ctx context.Context, args []string, std stdio) int {
	a := &app{std: std}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(std.in)
	root.SetOut(std.out)
	root.SetErr(std.err)
	return report(std.err, root.ExecuteContext(ctx))
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "agent",
		Short: "Encrypted, incremental backups that restore exactly",
		Long: `agent backs folders up to an encrypted vault, each time only what changed,
and restores any point of them exactly.

Exit codes: 0 ok, 1 error, 3 done but some files could not be read,
10 no vault there, 11 busy, 12 wrong key, 130 interrupted.`,
		Example: `  agent backup-now ~/documents
  agent points
  agent restore --point latest --target /tmp/back`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	f := root.PersistentFlags()
	f.StringVar(&a.vault, "vault", "", "the vault: a path, file:///path, or scheme://... (default: the one that the home remembers)")
	f.StringVar(&a.homeDir, "home", "", "folder of this machine's identity, keys and cache (env THARSIS_HOME)")
	f.BoolVarP(&a.quiet, "quiet", "q", false, "say nothing but errors and warnings")
	f.BoolVar(&a.json, "json", false, "write JSON lines to stdout")
	f.StringVar(&a.logLevel, "log-level", "", "log to stderr: debug, info, warn or error")
	root.AddCommand(
		a.initCommand(), a.backupCommand(), a.pointsCommand(), a.lsCommand(), a.findCommand(),
		a.diffCommand(), a.catCommand(), a.restoreCommand(), a.verifyCommand(), a.cacheCommand(),
		a.keyCommand(), a.statusCommand(), a.versionCommand(), a.completionCommand(root),
	)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return withHint(err, "see: %s --help", c.CommandPath())
	})
	return root
}

// logger is the log that --log-level asks for.
func (a *app) logger() (*slog.Logger, error) {
	if a.logLevel == "" {
		return slog.New(slog.DiscardHandler), nil
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(a.logLevel)); err != nil {
		return nil, withHint(fmt.Errorf("unknown log level %q", a.logLevel), "use debug, info, warn or error")
	}
	return slog.New(slog.NewTextHandler(a.std.err, &slog.HandlerOptions{Level: level})), nil
}

// openHome opens the home that the flags and the environment name.
func (a *app) openHome() (*home.Home, error) {
	dir := a.homeDir
	if dir == "" {
		dir = os.Getenv("THARSIS_HOME")
	}
	if dir == "" {
		var err error
		if dir, err = home.DefaultDir(); err != nil {
			return nil, err
		}
	}
	return home.Open(dir)
}

// environment is what the engine is given, with reports going to r.
func (a *app) environment(r agent.Reporter) (agent.Environment, error) {
	log, err := a.logger()
	if err != nil {
		return agent.Environment{}, err
	}
	return agent.Environment{Log: log, Report: r, Secret: a.secret}, nil
}

// absolute makes command-line paths absolute and clean, without following symlinks.
func absolute(paths []string) ([]string, error) {
	out := make([]string, len(paths))
	for i, p := range paths {
		if p == "" {
			return nil, withHint(fmt.Errorf("an empty path was given"), "name a folder or a file")
		}
		abs, err := filepath.Abs(p)
		if err != nil {
			return nil, fmt.Errorf("path %q: %w", p, err)
		}
		out[i] = abs
	}
	return out, nil
}

// exactArgs is cobra.ExactArgs with the names of what is missing.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return withHint(fmt.Errorf("%s is missing", strings.Join(names[len(args):], " and ")), "see: %s --help", c.CommandPath())
		case len(args) > len(names):
			return withHint(fmt.Errorf("unexpected argument %q", args[len(names)]), "see: %s --help", c.CommandPath())
		}
		return nil
	}
}
