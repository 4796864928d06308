package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tharsis-backup/tharsis/agent"
	"github.com/tharsis-backup/tharsis/vault/key"
)

func (a *app) pruneCommand() *cobra.Command {
	var o agent.PruneOptions
	var repack string
	c := &cobra.Command{
		Use:   "prune",
		Short: "Free the space of deleted points",
		Long: `End the points that were deleted longer ago than the vault's period, and free
the space of what no point needs any more. Packs of which most is dead are
written anew, small.

What is to be deleted is announced first, and deleted by a prune at least
72 hours later, so that nothing is taken from a backup or a restore under way.
Other machines can go on meanwhile. A prune may be interrupted; the next one, of
any machine, goes on.

A prune that would delete over 30 % of the vault's bytes or end over half of its
points, or whose clock may be wrong, asks for --confirm.`,
		Example: `  agent prune --dry-run
  agent prune
  agent prune --max-repack 10GiB`,
		Args: wantArgs(),
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if o.MaxRepack, err = parseLimit(c.Flags().Changed("max-repack"), repack); err != nil {
				return err
			}
			return a.withLock(c.Context(), func(s *agent.Session, r *reporter) error {
				res, err := s.Prune(c.Context(), o)
				r.done()
				if errors.Is(err, key.ErrDamaged) {
					err = withHint(err, "mend the index with agent repair; let a backup heal what is lost (agent verify --read-data --quarantine); or delete a point that is hurt for good (agent forget)")
				}
				if err != nil {
					return err
				}
				return a.showPrune(res, o.DryRun)
			})
		},
	}
	c.Flags().BoolVarP(&o.DryRun, "dry-run", "n", false, "change nothing, and say what would go")
	c.Flags().BoolVar(&o.Confirm, "confirm", false, "go on where a guard rail would stop it")
	c.Flags().StringVar(&repack, "max-repack", "", "write at most packs of this `SIZE` anew, as 500MiB; 0 for none (default: no limit)")
	return c
}

// parseLimit makes of --max-repack what the engine takes.
func parseLimit(given bool, s string) (int64, error) {
	if !given {
		return 0, nil
	}
	n, err := parseSize(s)
	if err != nil {
		return 0, err
	}
	if n == 0 {
		return -1, nil
	}
	return n, nil
}

var sizeUnits = []struct {
	suffix string
	bytes  float64
}{
	{"KIB", 1 << 10}, {"MIB", 1 << 20}, {"GIB", 1 << 30}, {"TIB", 1 << 40},
	{"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12},
	{"K", 1 << 10}, {"M", 1 << 20}, {"G", 1 << 30}, {"T", 1 << 40}, {"B", 1}, {"", 1},
}

// parseSize reads a number of bytes, with a unit.
func parseSize(s string) (int64, error) {
	text := strings.ToUpper(strings.TrimSpace(s))
	for _, u := range sizeUnits {
		digits, ok := strings.CutSuffix(text, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(digits), 64)
		if err != nil || !(n >= 0 && n*u.bytes < 1<<62) {
			break
		}
		return int64(n * u.bytes), nil
	}
	return 0, withHint(fmt.Errorf("%q is not a size", s), "write it as 500MiB or 10GiB")
}

func (a *app) showPrune(res agent.PruneResult, dry bool) error {
	if a.json {
		f := fields{
			"dry_run": dry, "points_purged": res.Purged, "packs_condemned": res.Condemned, "bytes_condemned": res.CondemnedBytes,
			"packs_repacked": res.Repacked, "bytes_repacked": res.RepackedBytes, "bytes_written": res.WrittenBytes,
			"objects_deleted": res.Swept, "bytes_freed": res.FreedBytes, "waiting": res.Waiting,
			"bytes_live": res.LiveBytes, "bytes_packs": res.PackBytes, "duration_s": res.Duration.Seconds(),
		}
		if !res.NextSweep.IsZero() {
			f["next_sweep"] = res.NextSweep.Format(time.RFC3339)
		}
		return a.summary(f)
	}
	would := func(done, todo string) string {
		if dry {
			return todo
		}
		return done
	}
	a.say("points: %s %s", thousands(res.Purged), would("ended", "would end"))
	a.say("packs: %s %s %s, of which nothing is needed", thousands(res.Condemned)+" ("+size(res.CondemnedBytes)+")", would("were", "would be"), "announced for deletion")
	if res.Repacked > 0 {
		a.say("packs: %s (%s) %s written anew", thousands(res.Repacked), size(res.RepackedBytes), would("were", "would be"))
	}
	if err := a.say("freed: %s in %s%s", size(res.FreedBytes), count(res.Swept, "object"), would("", ", could be now")); err != nil {
		return err
	}
	if res.Waiting > 0 {
		return a.say("%s announced; a prune from %s on can delete them", count(res.Waiting, "object"), clock(res.NextSweep))
	}
	return nil
}
