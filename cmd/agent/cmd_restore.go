package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tharsis-backup/tharsis/agent"
)

func (a *app) restoreCommand() *cobra.Command {
	var o agent.RestoreOptions
	c := &cobra.Command{
		Use:   "restore --point ID|latest|TIME [PATH...]",
		Short: "Restore a point, or some paths of it",
		Long: `Restore a point, or only the given paths of it. With --target everything goes
below that folder under its full original path; without it, to where it was.

--point is "latest" (this machine's newest), a time (RFC 3339, 2006-01-02 or
"2006-01-02 15:04" in local time: the newest point at or before the end of that
day or minute), or the first 4 or more digits of a point's ID.

What is already there with equal content is left, whatever --conflict says. Else
"copy" restores beside it as "name (restored DATE TIME).ext", "overwrite"
replaces it, "skip" leaves it, and "newer" replaces it if it is older. A restore
that was interrupted can be run again. It exits with 3 if something could not be
restored, which is then named.`,
		Example: `  agent restore --point latest --target /tmp/back
  agent restore --point 2026-11-23 --conflict overwrite ~/documents/report.odt
  agent restore --point latest --machine laptop --target /tmp/laptop --include '*.odt'`,
		RunE: func(c *cobra.Command, args []string) error {
			var err error
			if o.Paths, err = absolute(args); err != nil {
				return err
			}
			if err := absoluteAll(&o.Target, &o.Source); err != nil {
				return err
			}
			return a.restore(c, o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.Point, "point", "", "which `point` (required)")
	f.StringVar(&o.Machine, "machine", "", "a point of this machine: its `name`, or a start of its ID")
	f.StringVar(&o.Source, "source", "", "only the source `PATH` of the point")
	f.StringVar(&o.Target, "target", "", "restore below this `folder`; it is made where it is missing")
	f.StringArrayVar(&o.Includes, "include", nil, "restore only what matches this `pattern`; may be repeated")
	f.StringArrayVar(&o.Excludes, "exclude", nil, "leave out what matches this `pattern`; may be repeated")
	f.StringVar(&o.Conflict, "conflict", "copy", "the `rule` for what is there already: copy, overwrite, skip or newer")
	f.BoolVar(&o.DryRun, "dry-run", false, "say what would be restored, and write nothing")
	return c
}

func (a *app) restore(c *cobra.Command, o agent.RestoreOptions) error {
	if o.Point == "" {
		return withHint(errors.New("which point to restore was not said"), "give --point latest, or list them with: agent points")
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
		return a.summary(fields{
			"point": res.Point, "status": res.Status, "restored": res.Restored, "skipped": res.Skipped,
			"failed": res.Failed, "bytes_written": res.Bytes, "notes": res.Notes,
			"duration_s": res.Duration.Seconds(), "dry_run": dryRun,
		})
	}
	point := shortPoint(res.Point)
	if dryRun {
		return a.say("would restore %s of point %s, %s; nothing was written", count(res.Restored, "entry"), point, size(res.Bytes))
	}
	return a.say("restored %s of point %s, wrote %s; %s skipped, %s failed; in %s", count(res.Restored, "entry"), point,
		size(res.Bytes), thousands(res.Skipped), thousands(res.Failed), seconds(res.Duration))
}
