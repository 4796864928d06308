package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/tharsis-backup/tharsis/agent"
)

func (a *app) holdCommand() *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:   "hold POINT... --reason TEXT",
		Short: "Keep points from being deleted",
		Long: `Keep points, named by their IDs or the first 4 or more digits, from being deleted
until agent unhold. A point that is deleted already stays so, but its content is
kept for as long as it is held. Points of other machines need the vault's
passphrase, unless this machine keeps the admin key.`,
		Example: "  agent hold 3fc9a4b24817 --reason 'the state before the migration'",
		Args:    wantSome("POINT"),
		RunE: func(c *cobra.Command, args []string) error {
			if reason == "" {
				return withHint(errors.New("why to hold them was not said"), "give --reason TEXT: whoever is refused to delete them reads it")
			}
			return a.withLock(c.Context(), func(s *agent.Session, _ *reporter) error {
				points, err := s.Hold(c.Context(), args, reason)
				if err != nil {
					return err
				}
				return a.showChanged(points, "held", nil)
			})
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "say why: this `text` is shown to whoever is refused to delete them")
	return c
}

func (a *app) unholdCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "unhold POINT...",
		Short:   "End what keeps points from being deleted",
		Example: "  agent unhold 3fc9a4b24817",
		Args:    wantSome("POINT"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withLock(c.Context(), func(s *agent.Session, _ *reporter) error {
				points, err := s.Unhold(c.Context(), args)
				if err != nil {
					return err
				}
				return a.showChanged(points, "unheld", nil)
			})
		},
	}
}
