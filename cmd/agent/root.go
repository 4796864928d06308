package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tharsis-backup/tharsis/agent"
	"github.com/tharsis-backup/tharsis/agent/home"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
)

// homeEnv names the home where --home does not.
const homeEnv = "THARSIS_HOME"

// seams are set by this package's tests alone, in their own process.
var seams struct {
	kdf  key.KDFParams                         // zero: the default costs of a passphrase
	wrap func(backend.Backend) backend.Backend // nil: the backend as it is
	now  func() time.Time                      // nil: the system's clock
	// sleep stands for waiting; nil: as long as it takes.
	sleep func(context.Context, time.Duration) error
}

// stdio is what a command reads and writes.
type stdio struct {
	in       *os.File
	out, err io.Writer
}

// app is what all subcommands share: the global flags and the output.
type app struct {
	in  *os.File
	out *output
	err io.Writer

	vault    string
	homeDir  string
	quiet    bool
	json     bool
	logLevel string
	log      *slog.Logger

	expect     string
	expectHead *log.Head

	// given is the passphrase or recovery key that was given; "" where none was yet.
	given      string
	secretFile string // where it is to be read from; "" for the environment or the terminal
}

// run is the whole command: it parses args, does the work and returns the exit code.
func run(ctx context.Context, args []string, std stdio) int {
	a := &app{in: std.in, out: newOutput(std.out), err: std.err, given: takeSecret()}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(std.in)
	root.SetOut(a.out)
	root.SetErr(std.err)
	err := root.ExecuteContext(ctx)
	if ferr := a.out.Flush(); err == nil {
		err = ferr
	}
	return report(std.err, err)
}

// The groups of commands in the help.
const (
	groupUse   = "use"
	groupVault = "vault"
)

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "agent",
		Short: "Encrypted, incremental backups that restore exactly",
		Long: `agent backs folders up to an encrypted vault, each time only what changed,
and restores any point of them exactly.

Exit codes: 0 done, 1 error, 3 done but for some files, 10 no vault there,
11 another job is running, 12 wrong passphrase or recovery key, 130 interrupted.`,
		Example: `  agent backup-now ~/documents
  agent points
  agent restore --point latest --target /tmp/back`,
		Version:           agent.Version,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		PersistentPreRunE: func(c *cobra.Command, _ []string) error { return a.checkFlags(c) },
	}
	f := root.PersistentFlags()
	f.StringVar(&a.vault, "vault", "", "the vault's `URL`: a path, file:///path, or scheme://... (default: the one that the home remembers)")
	f.StringVar(&a.secretFile, "passphrase-file", "", "read the passphrase, or the recovery key, from this `file` (default: "+passphraseEnv+", or the terminal)")
	f.StringVar(&a.homeDir, "home", "", "the `folder` of this machine's identity, keys and cache (default: "+homeEnv+", or the system's place for it)")
	f.BoolVarP(&a.quiet, "quiet", "q", false, "say nothing but results, warnings and errors")
	f.BoolVar(&a.json, "json", false, "write JSON lines to stdout, the last of them a summary")
	f.StringVar(&a.expect, "expect-head", "", "use the vault only if its log holds this `head`: a receipt, or SEQ:HASH, of agent status")
	f.StringVar(&a.logLevel, "log-level", "", "log to stderr from this `level` on: debug, info, warn or error")
	root.AddGroup(&cobra.Group{ID: groupUse, Title: "Back up and restore:"}, &cobra.Group{ID: groupVault, Title: "Vault and machine:"})
	add(root, groupUse, a.backupCommand(), a.pointsCommand(), a.lsCommand(), a.findCommand(), a.diffCommand(), a.catCommand(), a.restoreCommand(),
		a.forgetCommand(), a.undeleteCommand(), a.holdCommand(), a.unholdCommand())
	add(root, groupVault, a.initCommand(), a.verifyCommand(), a.repairCommand(), a.pruneCommand(), a.keyCommand(), a.vaultCommand(), a.cacheCommand(), a.statusCommand())
	add(root, "", a.versionCommand(), a.completionCommand(root))
	root.SetHelpCommand(helpCommand(root))
	root.SetVersionTemplate(versionLine() + "\n")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return withHint(err, "see: %s --help", c.CommandPath())
	})
	return family(root, (*cobra.Command).Help)
}

func add(to *cobra.Command, group string, commands ...*cobra.Command) {
	for _, c := range commands {
		c.GroupID = group
		to.AddCommand(c)
	}
}

// family makes of c a command that has only subcommands: bare is what happens
// without one, and an unknown one is an error.
func family(c *cobra.Command, bare func(*cobra.Command) error) *cobra.Command {
	c.Args = cobra.ArbitraryArgs
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return bare(c)
		}
		return unknownCommand(c, args[0])
	}
	return c
}

func unknownCommand(c *cobra.Command, name string) error {
	err := fmt.Errorf("unknown command %q", c.CommandPath()+" "+name)
	c.SuggestionsMinimumDistance = 2
	if s := c.SuggestionsFor(name); len(s) > 0 {
		return withHint(err, "did you mean: %s %s", c.CommandPath(), s[0])
	}
	return withHint(err, "see: %s --help", c.CommandPath())
}

// missingCommand is what a family does that has nothing to show by itself.
func missingCommand(c *cobra.Command) error {
	return withHint(fmt.Errorf("which %q command was not said", c.CommandPath()), "see: %s --help", c.CommandPath())
}

func helpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Help about a command",
		RunE: func(_ *cobra.Command, args []string) error {
			c, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return unknownCommand(root, strings.Join(args, " "))
			}
			c.InitDefaultHelpFlag()
			return c.Help()
		},
	}
}

// checkFlags refuses global flags that can't be meant, before anything is done:
// an empty --vault is a script's unset variable, and not the default.
func (a *app) checkFlags(c *cobra.Command) (err error) {
	c.Flags().Visit(func(f *pflag.Flag) {
		if err == nil && f.Value.Type() == "string" && f.Value.String() == "" {
			err = withHint(fmt.Errorf("--%s is empty", f.Name), "give it a value, or leave it out")
		}
	})
	if err != nil {
		return err
	}
	if a.expect != "" {
		head, err := log.ParseHead(a.expect)
		if err != nil {
			return withHint(fmt.Errorf("--expect-head: %w", err), "copy it from: agent status --receipt")
		}
		a.expectHead = &head
	}
	if a.secretFile != "" {
		if a.given, err = fileSecret(a.secretFile); err != nil {
			return withHint(err, "check the name given to --passphrase-file")
		}
	}
	a.log, err = a.logger()
	return err
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
	return slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: level})), nil
}

// openHome opens the home that the flags and the environment name.
func (a *app) openHome() (*home.Home, error) {
	dir := a.homeDir
	if dir == "" {
		dir = os.Getenv(homeEnv)
	}
	if dir == "" {
		var err error
		if dir, err = home.DefaultDir(); err != nil {
			return nil, err
		}
	}
	h, err := home.Open(dir)
	return h, withHint(err, "name another folder with --home or %s", homeEnv)
}

// environment is what the engine is given, with reports going to r.
func (a *app) environment(r agent.Reporter) agent.Environment {
	return agent.Environment{
		Log: a.log, Report: r, Secret: a.secret, Wrap: seams.wrap, Clock: seams.now, Sleep: seams.sleep, ExpectHead: a.expectHead,
		IndexMemory: func(n int64) { debug.SetMemoryLimit(memoryGoalBytes + 2*n) },
	}
}

// absolute makes command-line paths absolute and clean, without following symlinks.
func absolute(paths []string) ([]string, error) {
	out := make([]string, len(paths))
	for i, p := range paths {
		if p == "" {
			return nil, withHint(errors.New("an empty path was given"), "name a folder or a file")
		}
		abs, err := filepath.Abs(p)
		if err != nil {
			return nil, fmt.Errorf("path %q: %w", p, err)
		}
		out[i] = abs
	}
	return out, nil
}

// absoluteAll makes single paths absolute in place; empty ones stay so.
func absoluteAll(paths ...*string) error {
	for _, p := range paths {
		if *p == "" {
			continue
		}
		abs, err := absolute([]string{*p})
		if err != nil {
			return err
		}
		*p = abs[0]
	}
	return nil
}

// wantArgs takes as many arguments as there are names; one in brackets may be
// left out.
func wantArgs(names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		switch {
		case len(args) > len(names):
			return withHint(fmt.Errorf("unexpected argument %q", args[len(names)]), "see: %s --help", c.CommandPath())
		case len(args) < len(names) && !strings.HasPrefix(names[len(args)], "["):
			return withHint(fmt.Errorf("%s is missing", names[len(args)]), "see: %s --help", c.CommandPath())
		}
		return nil
	}
}

// onlyOne refuses flags that contradict each other.
func onlyOne(c *cobra.Command, names ...string) error {
	var given []string
	for _, n := range names {
		if c.Flags().Changed(n) {
			given = append(given, "--"+n)
		}
	}
	if len(given) > 1 {
		return withHint(fmt.Errorf("%s contradict each other", strings.Join(given, " and ")), "give only one of them")
	}
	return nil
}
