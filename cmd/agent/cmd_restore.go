package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tharsis-backup/tharsis/agent"
)

func (a *app) restoreCommand() *cobra.Command {
	var o agent.RestoreOptions
	c := &cobra.Command{
		Use:   "restore --point ID|latest|TIME [PATH...]",
		Short: "Restore a point, or some paths of it",
		Long: `Restore a point. With --target everything goes below that folder under its full
original path; without it, to where it was.

--point is "latest" (this machine's newest), a time (RFC 3339, 2006-01-02 or
"2006-01-02 15:04" in local time: the newest point at or before the end of that
day or minute), or the first 4 or more digits of a point's ID.

What is already there with equal content is left, whatever --conflict says. Else
"copy" restores beside it as "name (restored DATE TIME).ext", "overwrite"
replaces it, "skip" leaves it, and "newer" replaces it if it is older.
A restore that was interrupted can be run again.`,
		Example: `  agent restore --point latest --target /tmp/back
  agent restore --point 2026-11-23 --conflict overwrite ~/documents/report.odt`,
		RunE: func(c *cobra.Command, args []string) error {
			var err error
			if o.Paths, err = absolute(args); err != nil {
				return err
			}
			for _, p := range []*string{&o.Target, &o.Source} {
				if *p == "" {
					continue
				}
				abs, err := absolute([]string{*p})
				if err != nil {
					return err
				}
				*p = abs[0]
			}
			return a.restore(c, o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.Point, "point", "", "which point (required)")
	f.StringVar(&o.Machine, "machine", "", "of this machine: its name, or a start of its ID")
	f.StringVar(&o.Source, "source", "", "only this source of the point")
	f.StringVar(&o.Target, "target", "", "restore below this folder")
	f.StringArrayVar(&o.Includes, "include", nil, "restore only what matches this pattern")
	f.StringArrayVar(&o.Excludes, "exclude", nil, "leave out what matches this pattern")
	f.StringVar(&o.Conflict, "conflict", "copy", "what to do about what is there: copy, overwrite, skip or newer")
	f.BoolVar(&o.DryRun, "dry-run", false, "say what would be restored, and write nothing")
	return c
}

func (a *app) restore(c *cobra.Command, o agent.RestoreOptions) error {
	if o.Point == "" {
		return withHint(fmt.Errorf("which point to restore was not said"), "give --point latest, or list them with: agent points")
	}
	if !agent.ValidConflict(o.Conflict) {
		return withHint(fmt.Errorf("unknown conflict rule %q", o.Conflict), "use copy, overwrite, skip or newer")
	}
	return a.with(c.Context(), func(s *agent.Session, r *reporter) error {
		res, err := s.Restore(c.Context(), o)
		r.done()
		if err != nil {
			return err
		}
		if err := a.showRestore(res, o.DryRun); err != nil {
			return err
		}
		if res.Status == agent.CompletedWithWarnings {
			return errPartial
		}
		return nil
	})
}

func (a *app) showRestore(res agent.RestoreResult, dryRun bool) error {
	if a.json {
		return (&lines{w: a.std.out}).write("summary", map[string]any{
			"point": res.Point, "status": res.Status, "restored": res.Restored, "skipped": res.Skipped,
			"failed": res.Failed, "bytes_written": res.Bytes, "notes": res.Notes,
			"duration_s": res.Duration.Seconds(), "dry_run": dryRun,
		})
	}
	if a.quiet {
		return nil
	}
	verb := "restored"
	if dryRun {
		verb = "would restore"
	}
	fmt.Fprintf(a.std.out, "%s %s of point %s (%s), skipped %d, failed %d, in %s\n", verb, count(res.Restored, "entry"),
		res.Point[:12], size(res.Bytes), res.Skipped, res.Failed, seconds(res.Duration))
	return nil
}
