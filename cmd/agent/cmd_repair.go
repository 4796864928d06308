package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tharsis-backup/tharsis/agent"
)

func (a *app) repairCommand() *cobra.Command {
	var o agent.RepairOptions
	c := &cobra.Command{
		Use:   "repair",
		Short: "Mend the vault's index, and say what remains lost",
		Long: `Make the vault's index anew where it is damaged or missing, from the directories
that the packs have themselves; let packs that are missing, or whose directories
are damaged, count as absent, so that the next backup of each machine stores
again what it still has of them; and say what remains lost.

Nothing is deleted. It can be run again at any time, and on any machine that
backs up to the vault. It reads the index and every pack's directory, but no
content: agent verify --read-data does that.

It exits with 3 if something of the points remains lost.`,
		Example: `  agent repair --dry-run
  agent repair`,
		Args: wantArgs(),
		RunE: func(c *cobra.Command, _ []string) error { return a.repair(c.Context(), o) },
	}
	c.Flags().BoolVar(&o.DryRun, "dry-run", false, "say what would be done, and change nothing")
	return c
}

func (a *app) repair(ctx context.Context, o agent.RepairOptions) error {
	with := a.withLock
	if o.DryRun {
		with = a.with
	}
	var res agent.RepairResult
	err := with(ctx, func(s *agent.Session, r *reporter) (err error) {
		res, err = s.Repair(ctx, o)
		r.done()
		if err != nil {
			return err
		}
		return a.showRepair(res, o)
	})
	if err == nil && res.Points > 0 {
		return errPartial
	}
	return err
}

func (a *app) showRepair(res agent.RepairResult, o agent.RepairOptions) error {
	for _, d := range res.Damage {
		if err := a.showDamage(d); err != nil {
			return err
		}
	}
	if a.json {
		return a.summary(fields{
			"index_runs": res.Runs, "packs_indexed": res.Packs, "quarantined": res.Quarantined, "points_hurt": res.Points,
			"files_hurt": res.Files, "bytes_lost": res.Bytes, "dry_run": o.DryRun, "duration_s": res.Duration.Seconds(),
		})
	}
	would := func(did, would string) string {
		if o.DryRun {
			return would
		}
		return did
	}
	if res.Runs > 0 || res.Packs > 0 {
		a.say("%s the index for %s, in place of %s that %s damaged or missing", would("made", "would make"),
			count(res.Packs, "pack"), count(res.Runs, "index run"), isAre(res.Runs))
		a.say("their content was not read: check it with: agent verify --read-data --quarantine")
	}
	if res.Quarantined > 0 {
		a.say("%s %s into quarantine: the next backup of each machine stores again what it still has of them",
			would("put", "would put"), count(res.Quarantined, "pack"))
	}
	lost := "nothing of the points is lost"
	if res.Points > 0 {
		lost = fmt.Sprintf("lost: %s of %s", count(res.Files, "file"), count(res.Points, "point"))
		if res.Bytes > 0 {
			lost += ", which lack " + size(res.Bytes)
		}
	}
	return a.say("%s, in %s", lost, seconds(res.Duration))
}

func isAre(n int64) string {
	if n == 1 {
		return "is"
	}
	return "are"
}
