package main

import (
	"context"
	"fmt"

	"github.com/tharsis-backup/tharsis/agent"
	"github.com/tharsis-backup/tharsis/agent/home"
)

// with opens the vault for a command that only reads it, runs fn, and lets the
// home remember the vault if it had none.
func (a *app) with(ctx context.Context, fn func(*agent.Session, *reporter) error) error {
	h, err := a.openHome()
	if err != nil {
		return err
	}
	return a.withHome(ctx, h, fn)
}

// withLock is with for a command that writes: no other may at the same time.
func (a *app) withLock(ctx context.Context, fn func(*agent.Session, *reporter) error) error {
	h, err := a.openHome()
	if err != nil {
		return err
	}
	if err := h.Lock(); err != nil {
		return err
	}
	defer h.Unlock()
	return a.withHome(ctx, h, fn)
}

func (a *app) withHome(ctx context.Context, h *home.Home, fn func(*agent.Session, *reporter) error) error {
	if err := a.wantVault(h); err != nil {
		return err
	}
	r := a.reporter()
	defer r.done()
	s, err := agent.Open(ctx, a.environment(r), h, a.vault)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := fn(s, r); err != nil {
		return err
	}
	return s.Remember(ctx)
}

// wantVault is an error where neither the home nor --vault names a vault.
func (a *app) wantVault(h *home.Home) error {
	if _, ok, err := h.Vault(); ok || err != nil || a.vault != "" {
		return err
	}
	return withHint(fmt.Errorf("%w: the home %s has none yet", agent.ErrNoVault, h.Dir),
		"give --vault for one that is there, or make one with: agent init --vault PLACE")
}
