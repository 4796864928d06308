package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tharsis-backup/tharsis/agent"
)

func (a *app) forgetCommand() *cobra.Command {
	var o agent.ForgetOptions
	c := &cobra.Command{
		Use:   "forget POINT...",
		Short: "Delete points, so that they can still be brought back for a time",
		Long: `Delete points, named by their IDs or the first 4 or more digits: all of them, or
none where one may not be deleted. They are not listed any more, and "latest" is
none of them, but nothing of them is gone yet: agent points --deleted lists them,
agent restore restores them by their ID, and agent undelete brings them back. What
can free their space does so after the vault's soft-delete period at the earliest:
14 days, or what agent status says.

The newest good point of a source is deleted only with --last, and a held one not
at all. Points of other machines need the vault's passphrase, unless this machine
keeps the admin key.`,
		Example: `  agent forget 3fc9a4b24817
  agent forget 3fc9 06c2 --reason 'made by mistake'`,
		Args: wantSome("POINT"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withLock(c.Context(), func(s *agent.Session, _ *reporter) error {
				return a.forget(c.Context(), s, args, o)
			})
		},
	}
	c.Flags().StringVar(&o.Reason, "reason", "", "keep this `text` with the deleted points")
	c.Flags().BoolVar(&o.Last, "last", false, "also delete the newest good point of a source")
	return c
}

func (a *app) forget(ctx context.Context, s *agent.Session, names []string, o agent.ForgetOptions) error {
	res, err := s.Forget(ctx, names, o)
	if err != nil {
		return err
	}
	if a.json {
		return a.showChanged(res.Points, "deleted", fields{"noted": res.Noted})
	}
	if err := a.showChanged(res.Points, "deleted", nil); err != nil || len(res.Points) == 0 {
		return err
	}
	from := res.Points[0].PurgeFrom
	if from.IsZero() {
		return a.say("agent undelete brings back what was deleted; the time for it begins when a machine with the admin key notes it")
	}
	return a.say("agent undelete brings back what was deleted, until %s at least", clock(from))
}

func (a *app) undeleteCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "undelete POINT...",
		Short: "Bring deleted points back",
		Long: `Bring points back that were deleted with agent forget and that agent points
--deleted lists, named by their IDs or the first 4 or more digits. Points of other
machines need the vault's passphrase, unless this machine keeps the admin key.`,
		Example: `  agent points --deleted
  agent undelete 3fc9a4b24817`,
		Args: wantSome("POINT"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withLock(c.Context(), func(s *agent.Session, _ *reporter) error {
				points, err := s.Undelete(c.Context(), args)
				if errors.Is(err, agent.ErrNoPoint) {
					return withHint(err, "list what can be brought back with: agent points --deleted")
				}
				if err != nil {
					return err
				}
				return a.showChanged(points, "undeleted", nil)
			})
		},
	}
}

// showChanged tells what a command did to points: a line each, and with JSON a
// summary of their number and of what more says.
func (a *app) showChanged(points []agent.PointInfo, did string, more fields) error {
	for _, p := range points {
		if a.json {
			if err := a.out.line("point", pointFields(p)); err != nil {
				return err
			}
			continue
		}
		if err := a.say("%s point %s of %s, %s: %s", did, shortPoint(p.ID.String()), clock(p.Time), quote(p.Machine), sourceWords(p.Sources)); err != nil {
			return err
		}
	}
	if !a.json {
		return nil
	}
	all := fields{did: len(points)}
	for k, v := range more {
		all[k] = v
	}
	return a.summary(all)
}

// wantSome takes one argument or more.
func wantSome(name string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return withHint(fmt.Errorf("%s is missing", name), "see: %s --help", c.CommandPath())
		}
		return nil
	}
}
