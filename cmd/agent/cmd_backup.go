package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tharsis-backup/tharsis/agent"
	"github.com/tharsis-backup/tharsis/agent/home"
	"github.com/tharsis-backup/tharsis/vault/key"
)

func (a *app) backupCommand() *cobra.Command {
	var o agent.BackupOptions
	var tags []string
	c := &cobra.Command{
		Use:   "backup-now [PATH...]",
		Short: "Back folders up now",
		Long: `Back up the given folders and files, each under its absolute path; without
PATH those of this machine's newest point. Only what changed since then is read
and stored; the point is complete all the same.

In a home without a vault and without --vault, a vault is made in the home, with
its passphrase and recovery key as files beside it: good for a first try. For
more, make a vault on another disk with agent init.

Exclusions are patterns as in .gitignore. A folder may hold its own in a file
.tharsisignore; of a folder with a CACHEDIR.TAG only the tag is kept.

A job that was interrupted or killed is taken up by the next one. It exits with
3 if something could not be read: what it was is said, and kept from the point
before.`,
		Example: `  agent backup-now ~/documents ~/photos --exclude '*.tmp'
  agent backup-now --vault /mnt/disk/vault /home --tag why=before-upgrade
  agent backup-now`,
		RunE: func(c *cobra.Command, args []string) error {
			var err error
			if o.Paths, err = absolute(args); err != nil {
				return err
			}
			if o.AcceptSources, err = absolute(o.AcceptSources); err != nil {
				return err
			}
			if o.Tags, err = parseTags(tags); err != nil {
				return err
			}
			if err := checkPatternFiles(o.ExcludeFiles); err != nil {
				return err
			}
			return a.backup(c.Context(), o)
		},
	}
	f := c.Flags()
	f.StringArrayVar(&o.Excludes, "exclude", nil, "leave out what matches this `pattern`; may be repeated")
	f.StringArrayVar(&o.ExcludeFiles, "exclude-file", nil, "read such patterns from a `file`, one a line; may be repeated")
	f.BoolVar(&o.CrossMounts, "cross-mounts", false, "go into other file systems that are mounted below a path")
	f.StringArrayVar(&tags, "tag", nil, "attach `KEY=VALUE` to the point; may be repeated")
	f.StringArrayVar(&o.AcceptSources, "accept-source", nil, "take the source `PATH` as it is now, though it was emptied or is on another file system")
	f.BoolVar(&o.DryRun, "dry-run", false, "say what would be read, and store nothing")
	return c
}

func parseTags(tags []string) (map[string]string, error) {
	m := map[string]string{}
	for _, t := range tags {
		k, v, ok := strings.Cut(t, "=")
		if !ok || k == "" {
			return nil, withHint(fmt.Errorf("the tag %q has no key and value", t), "write it as --tag KEY=VALUE")
		}
		m[k] = v
	}
	return m, nil
}

// checkPatternFiles refuses what cannot be read once for each source: a missing
// list of exclusions must not make every source fail, nor a pipe be empty for
// the second one.
func checkPatternFiles(names []string) error {
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil {
			return withHint(fmt.Errorf("exclude file %s: %w", name, errors.Unwrap(err)), "check the name given to --exclude-file")
		}
		if !info.Mode().IsRegular() {
			return withHint(fmt.Errorf("exclude file %s is not a regular file", name), "write the patterns to a file, or give them with --exclude")
		}
	}
	return nil
}

func (a *app) backup(ctx context.Context, o agent.BackupOptions) error {
	h, err := a.openHome()
	if err != nil {
		return err
	}
	if err := h.Lock(); err != nil {
		return err
	}
	defer h.Unlock()
	if err := a.ensureVault(ctx, h, o); err != nil {
		return err
	}
	r := a.reporter()
	defer r.done()
	s, err := agent.Open(ctx, a.environment(r), h, a.vault)
	if err != nil {
		return err
	}
	defer s.Close()
	res, err := s.Backup(ctx, o)
	r.done()
	if err != nil {
		return err
	}
	if err := s.Remember(ctx); err != nil {
		return err
	}
	if err := a.showBackup(res, o.DryRun); err != nil {
		return err
	}
	if res.Status == agent.CompletedWithWarnings {
		return errPartial
	}
	return nil
}

// The secrets of the embedded vault, as files of the home.
const (
	passphraseFileName  = "passphrase.txt"
	recoveryKeyFileName = "recovery-key.txt"
)

// ensureVault makes the embedded vault of a home that has none, which only a
// backup of named paths does. Its secrets are files in the home, written before
// the vault: a run that was killed in between goes on with the same ones.
func (a *app) ensureVault(ctx context.Context, h *home.Home, o agent.BackupOptions) error {
	if _, ok, err := h.Vault(); ok || err != nil || a.vault != "" {
		return err
	}
	if len(o.Paths) == 0 {
		return withHint(agent.ErrNoSources, "name the folders: agent backup-now PATH...")
	}
	if err := agent.CheckPaths(o.Paths); err != nil {
		return err
	}
	if o.DryRun {
		return withHint(fmt.Errorf("%w: the home %s has none yet, and a dry run makes none", agent.ErrNoVault, h.Dir),
			"run it without --dry-run, or make a vault with: agent init --vault PLACE")
	}
	passphrase, err := keptSecret(h, passphraseFileName, func() (string, error) { return key.GeneratePassphrase(nil) })
	if err != nil {
		return err
	}
	text, err := keptSecret(h, recoveryKeyFileName, func() (string, error) {
		k, err := key.NewRecoveryKey(nil)
		return k.String(), err
	})
	if err != nil {
		return err
	}
	recovery, err := key.ParseRecoveryKey(text)
	if err != nil {
		return fmt.Errorf("read %s: %w", h.File(recoveryKeyFileName), err)
	}
	res, err := agent.Init(ctx, a.environment(nil), h, agent.InitOptions{
		Vault: h.File("vault"), Passphrase: passphrase, Recovery: recovery, KDF: seams.kdf, AdoptExisting: true,
	})
	if err != nil {
		return err
	}
	return a.tellEmbedded(h, res)
}

// tellEmbedded says where the embedded vault and its keys are.
func (a *app) tellEmbedded(h *home.Home, res agent.InitResult) error {
	if a.json {
		return a.out.line("vault", fields{
			"vault": res.URL, "vault_id": res.VaultID,
			"passphrase_file": h.File(passphraseFileName), "recovery_key_file": h.File(recoveryKeyFileName),
		})
	}
	if a.quiet {
		return nil
	}
	_, err := fmt.Fprintf(a.err, `note: made a vault on this machine: %s
note: its passphrase is in %s
note: its recovery key is in %s
note: move these two files to another place: without one of them nobody can open the vault elsewhere
note: a vault on the same disk is good for a try; for more make one on another disk, see: agent init --help
`, quote(res.URL), quote(h.File(passphraseFileName)), quote(h.File(recoveryKeyFileName)))
	return err
}

// keptSecret reads a secret file of the home, or makes it.
func keptSecret(h *home.Home, name string, draw func() (string, error)) (string, error) {
	s, err := fileSecret(h.File(name))
	if !errors.Is(err, fs.ErrNotExist) {
		return s, err
	}
	if s, err = draw(); err != nil {
		return "", err
	}
	return s, h.WriteSecret(name, s)
}

func (a *app) showBackup(res agent.BackupResult, dryRun bool) error {
	if a.json {
		return a.summary(fields{
			"point": res.Point, "status": res.Status,
			"files_new": res.FilesNew, "files_changed": res.FilesChanged, "files_unmodified": res.FilesUnmodified,
			"bytes_read": res.BytesRead, "bytes_added": res.BytesAdded, "bytes_stored": res.BytesStored,
			"duration_s": res.Duration.Seconds(), "warnings": res.Warnings,
			"head": headFields(res.Head),
		})
	}
	if res.Resumed {
		a.say("took up the work of a job that had been interrupted")
	}
	a.say("%s: %s new, %s changed, %s unmodified; %s gone",
		count(res.FilesNew+res.FilesChanged+res.FilesUnmodified, "file"),
		thousands(res.FilesNew), thousands(res.FilesChanged), thousands(res.FilesUnmodified), thousands(res.FilesGone))
	if dryRun {
		return a.say("%s would be read; nothing was stored", size(res.BytesRead))
	}
	a.say("read %s, %s of it new; stored %s", size(res.BytesRead), size(res.BytesAdded), size(res.BytesStored))
	warnings := ""
	if res.Warnings > 0 {
		warnings = ", " + count(res.Warnings, "warning")
	}
	return a.say("point %s: %s in %s%s", res.Point, res.Status, seconds(res.Duration), warnings)
}
