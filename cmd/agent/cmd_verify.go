package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tharsis-backup/tharsis/agent"
)

func (a *app) verifyCommand() *cobra.Command {
	var o agent.VerifyOptions
	var sample string
	c := &cobra.Command{
		Use:   "verify",
		Short: "Check that the vault is whole",
		Long: `Check that every object that the vault's log names is there, and that every
file of every point can be found. With --read-data every byte of the vault is
read and checked; with --sample a part of the content: what this machine has
never read before, then what it read longest ago, so that a small sample each day
comes round to all of it. It reads the vault itself, not the cache.

What is damaged is named, with the files of the points that it hurts; then it
exits with 1, and so it does until what is damaged was healed or given up, and
pruned away. It changes nothing but with --quarantine: then packs that are
damaged or missing count as absent, so that the next backup of each machine
stores again what it still has of them. A damaged index is mended by agent
repair.`,
		Example: `  agent verify
  agent verify --sample 5%
  agent verify --read-data --quarantine
  agent verify --read-data --point latest`,
		Args: wantArgs(),
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if err := onlyOne(c, "read-data", "sample"); err != nil {
				return err
			}
			if err := onlyOne(c, "point", "sample"); err != nil {
				return err
			}
			if sample != "" {
				if o.Sample, err = parseShare(sample); err != nil {
					return err
				}
			}
			return a.verify(c.Context(), o)
		},
	}
	c.Flags().BoolVar(&o.ReadData, "read-data", false, "read and check every byte of the vault")
	c.Flags().StringVar(&sample, "sample", "", "read and check this `share` of the content, as 5%")
	c.Flags().StringVar(&o.Point, "point", "", "check only what this `point` needs")
	c.Flags().BoolVar(&o.Quarantine, "quarantine", false, "let what is damaged or missing count as absent, so that backups heal it")
	return c
}

// parseShare reads a percentage above 0; its sign may be left out.
func parseShare(s string) (float64, error) {
	p, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(s, "%")), 64)
	if err != nil || math.IsNaN(p) || p <= 0 || p > 100 {
		return 0, withHint(fmt.Errorf("the sample %q is not a share above 0%% and up to 100%%", s), "write it as --sample 5%%")
	}
	return p, nil
}

func (a *app) verify(ctx context.Context, o agent.VerifyOptions) error {
	with := a.with
	if o.Quarantine {
		with = a.withLock
	}
	return with(ctx, func(s *agent.Session, r *reporter) error {
		res, err := s.Verify(ctx, o)
		r.done()
		if err != nil && !errors.Is(err, agent.ErrDamaged) {
			return err
		}
		if serr := a.showVerify(res, o); serr != nil {
			return serr
		}
		return withHint(err, "%s", nextStep(res, o))
	})
}

// nextStep is what is to be done about damage.
func nextStep(res agent.VerifyResult, o agent.VerifyOptions) string {
	switch {
	case res.Damaged+res.Hurt == 0:
		return ""
	case res.DamagedRuns > 0:
		return "mend the index with: agent repair; what is not named above can still be restored"
	case res.Damaged == res.Harmless && res.Hurt == 0:
		return "nothing needs what is damaged: agent prune removes it"
	case res.Damaged > res.Harmless && !o.Quarantine && o.Point == "":
		return "what is not named above can still be restored; to heal what the sources still have, run it with --quarantine, and then a backup"
	case res.Quarantined > 0:
		return "what is not named above can still be restored; now back up, on each machine: that heals what the sources still have"
	}
	return "what is not named above can still be restored"
}

func (a *app) showVerify(res agent.VerifyResult, o agent.VerifyOptions) error {
	for _, d := range res.Damage {
		if err := a.showDamage(d); err != nil {
			return err
		}
	}
	if a.json {
		return a.summary(fields{
			"objects": res.Objects, "bytes_read": res.Bytes, "points": res.Points, "damaged": res.Damaged,
			"damaged_unneeded": res.Harmless, "damaged_index_runs": res.DamagedRuns, "quarantined": res.Quarantined,
			"files_hurt": res.Hurt, "points_hurt": res.HurtPoints, "bytes_lost": res.LostBytes, "unnamed": res.Unnamed,
			"read_data": o.ReadData, "sample_percent": o.Sample, "pack_bytes": res.Read.Total, "pack_bytes_covered": res.Read.Bytes,
			"covered_s": res.Read.Since.Seconds(), "duration_s": res.Duration.Seconds(),
		})
	}
	if n := res.Damaged + res.Hurt - int64(len(res.Damage)); n > 0 {
		fmt.Fprintf(a.out, "and %s more that are not listed\n", thousands(n))
	}
	if res.Unnamed > 0 && res.DamagedRuns == 0 { // else a lost run may have named them
		a.say("%s left by interrupted jobs, which do no harm", count(res.Unnamed, "object"))
	}
	if o.Sample > 0 && res.Read.Total > 0 {
		a.say("%s", coverage(res.Read))
	}
	if res.Quarantined > 0 {
		a.say("put %s into quarantine", count(res.Quarantined, "pack"))
	}
	read := ""
	if o.ReadData || o.Sample > 0 {
		read = ", read " + size(res.Bytes)
	}
	verdict := "all whole"
	if res.Damaged > 0 || res.Hurt > 0 {
		verdict = count(res.Damaged, "object") + " damaged or missing, " + count(res.Hurt, "file") + " hurt"
	}
	return a.say("checked %s of %s%s, in %s: %s", count(res.Objects, "object"), count(res.Points, "point"), read, seconds(res.Duration), verdict)
}

// coverage says how much of a vault was read within which time.
func coverage(c agent.ReadCoverage) string {
	days := int64(c.Since/(24*time.Hour)) + 1
	within := "the last " + count(days, "day")
	if days == 1 {
		within = "the last day"
	}
	share := float64(c.Bytes) / float64(c.Total) * 100
	if c.Bytes < c.Total {
		share = min(share, 99.9)
	}
	return fmt.Sprintf("this machine has read %.1f%% of the vault's content (%s of %s) within %s", share, size(c.Bytes), size(c.Total), within)
}

// showDamage is shown with --quiet too: it is what a check is for.
func (a *app) showDamage(d agent.Damage) error {
	var err error
	point := "point"
	if d.Unfinished {
		point = "unfinished point"
	}
	switch {
	case a.json:
		err = a.out.line("damage", fields{
			"object": d.Object, "point": d.Point, "unfinished": d.Unfinished, "path": jsonText(d.Path), "text": d.Text,
		})
	case d.Object != "":
		_, err = fmt.Fprintf(a.out, "damaged: %s: %s\n", quote(d.Object), plain(d.Text))
	default:
		_, err = fmt.Fprintf(a.out, "hurt: %s %s: %s: %s\n", point, shortPoint(d.Point), quote(d.Path), plain(d.Text))
	}
	return err
}
