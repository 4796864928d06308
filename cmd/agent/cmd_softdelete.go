package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/tharsis-backup/tharsis/agent"
	"github.com/tharsis-backup/tharsis/vault/log"
)

func (a *app) softDeleteCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "soft-delete DAYS",
		Short: "Change for how long deleted points can be brought back",
		Long: `Change for how many days, 14 to 180, a deleted point can be brought back. It
counts for what is deleted already too.

To raise it needs the vault's passphrase, unless this machine keeps the admin key.
To lower it needs the recovery key: whoever has taken a machine over must not be
able to shorten the time in which deletions can be undone.`,
		Example: `  agent vault soft-delete 60
  agent vault soft-delete 14 --passphrase-file ~/recovery.txt`,
		Args: wantArgs("DAYS"),
		RunE: func(c *cobra.Command, args []string) error {
			days, err := parseDays(args[0])
			if err != nil {
				return err
			}
			return a.setSoftDelete(c.Context(), days)
		},
	}
	return c
}

func (a *app) setSoftDelete(ctx context.Context, days int) error {
	return a.withLock(ctx, func(s *agent.Session, _ *reporter) error {
		before, err := s.SetSoftDelete(ctx, days)
		if err != nil {
			return err
		}
		if a.json {
			return a.summary(fields{"days": days, "before": before})
		}
		if days == before {
			return a.say("deleted points can be brought back for %d days already", days)
		}
		return a.say("deleted points can be brought back for %d days; it was %d", days, before)
	})
}

func parseDays(s string) (int, error) {
	days, err := strconv.Atoi(s)
	if err != nil {
		return 0, withHint(fmt.Errorf("%q is not a number of days", s), "give %d to %d", log.MinSoftDeleteDays, log.MaxSoftDeleteDays)
	}
	return days, checkDays(days)
}

func checkDays(days int) error {
	return withHint(log.CheckSoftDeleteDays(days), "give %d to %d", log.MinSoftDeleteDays, log.MaxSoftDeleteDays)
}
