package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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

In a home without a vault and without --vault, a vault is made in the home: good
for a first try, but move it and its keys elsewhere before you rely on it.

Exclusions are patterns as in .gitignore. A folder may hold its own in a file
.tharsisignore; a folder with a CACHEDIR.TAG is left out but for the tag.`,
		Example: `  agent backup-now ~/documents ~/photos --exclude '*.tmp'
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
			return a.backup(c.Context(), o)
		},
	}
	f := c.Flags()
	f.StringArrayVar(&o.Excludes, "exclude", nil, "leave out what matches this pattern")
	f.StringArrayVar(&o.ExcludeFiles, "exclude-file", nil, "read such patterns from a file")
	f.BoolVar(&o.CrossMounts, "cross-mounts", false, "go into other file systems that are mounted below a path")
	f.StringArrayVar(&tags, "tag", nil, "attach KEY=VALUE to the point")
	f.StringArrayVar(&o.AcceptSources, "accept-source", nil, "take this source as it is now, though it was emptied or is on another file system")
	f.BoolVar(&o.DryRun, "dry-run", false, "say what would be read, and store nothing")
	return c
}

func parseTags(tags []string) (map[string]string, error) {
	m := map[string]string{}
	for _, t := range tags {
		k, v, ok := strings.Cut(t, "=")
		if !ok || k == "" {
			return nil, withHint(fmt.Errorf("tag %q has no key and value", t), "write it as --tag KEY=VALUE")
		}
		m[k] = v
	}
	return m, nil
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
	r := a.reporter()
	env, err := a.environment(r)
	if err != nil {
		return err
	}
	if err := a.ensureVault(ctx, env, h, o); err != nil {
		return err
	}
	s, err := agent.Open(ctx, env, h, a.vault)
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

// ensureVault makes the embedded vault of a home that has none, which only a
// backup of named paths does. Its secrets are files in the home, written before
// the vault: a run that was killed in between goes on with the same ones.
func (a *app) ensureVault(ctx context.Context, env agent.Environment, h *home.Home, o agent.BackupOptions) error {
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
		return withHint(agent.ErrNoVault, "a dry run makes no vault; run it without --dry-run, or make one with: agent init")
	}
	passphrase, err := keptSecret(h, "passphrase.txt", func() (string, error) { return key.GeneratePassphrase(nil) })
	if err != nil {
		return err
	}
	text, err := keptSecret(h, "recovery-key.txt", func() (string, error) {
		k, err := key.NewRecoveryKey(nil)
		return k.String(), err
	})
	if err != nil {
		return err
	}
	recovery, err := key.ParseRecoveryKey(text)
	if err != nil {
		return fmt.Errorf("read %s: %w", h.File("recovery-key.txt"), err)
	}
	res, err := agent.Init(ctx, env, h, agent.InitOptions{
		Vault: h.File("vault"), Passphrase: passphrase, Recovery: recovery, AdoptExisting: true,
	})
	if err != nil {
		return err
	}
	if !a.quiet {
		fmt.Fprintf(a.std.err, `note: made a vault on this machine: %s
note: its passphrase is in %s
note: its recovery key is in %s
note: move the vault to another disk, and keep the two files somewhere else than this machine
`, res.URL, h.File("passphrase.txt"), h.File("recovery-key.txt"))
	}
	return nil
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
		return (&lines{w: a.std.out}).write("summary", map[string]any{
			"point": res.Point, "status": res.Status,
			"files_new": res.FilesNew, "files_changed": res.FilesChanged, "files_unmodified": res.FilesUnmodified,
			"files_gone": res.FilesGone, "bytes_read": res.BytesRead, "bytes_added": res.BytesAdded,
			"bytes_stored": res.BytesStored, "duration_s": res.Duration.Seconds(), "warnings": res.Warnings,
			"resumed": res.Resumed, "dry_run": dryRun,
		})
	}
	if a.quiet {
		return nil
	}
	w := a.std.out
	fmt.Fprintf(w, "%s: %d new, %d changed, %d gone, %d unmodified\n",
		count(res.FilesNew+res.FilesChanged+res.FilesUnmodified, "file"), res.FilesNew, res.FilesChanged, res.FilesGone, res.FilesUnmodified)
	if dryRun {
		fmt.Fprintf(w, "%s would be read; nothing was stored\n", size(res.BytesRead))
		return nil
	}
	fmt.Fprintf(w, "read %s, new %s, stored %s\n", size(res.BytesRead), size(res.BytesAdded), size(res.BytesStored))
	fmt.Fprintf(w, "point %s: %s in %s", res.Point, res.Status, seconds(res.Duration))
	if res.Warnings > 0 {
		fmt.Fprintf(w, ", %s", count(res.Warnings, "warning"))
	}
	fmt.Fprintln(w)
	return nil
}
