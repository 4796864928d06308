package main

import (
	"context"

	"github.com/tharsis-backup/tharsis/agent"
)

// with opens the vault for a command that only reads it, runs fn, and lets the
// home remember the vault if it had none.
func (a *app) with(ctx context.Context, fn func(*agent.Session, *reporter) error) error {
	h, err := a.openHome()
	if err != nil {
		return err
	}
	r := a.reporter()
	defer r.done()
	env, err := a.environment(r)
	if err != nil {
		return err
	}
	s, err := agent.Open(ctx, env, h, a.vault)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := fn(s, r); err != nil {
		return err
	}
	return s.Remember(ctx)
}
