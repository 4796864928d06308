package agent

import (
	"context"
	"errors"
	"syscall"
)

// reserve is what a store offers that can fill up: room that is given free for a
// prune to write the few entries by which it frees more.
type reserve interface {
	Release() error
	Restock() error
}

// restock makes the reserve again. A store without one, or one that is full, does
// without.
func (s *Session) restock() {
	if s.reserve == nil {
		return
	}
	if err := s.reserve.Restock(); err != nil {
		s.log.Warn("make the reserve", "err", err)
	}
}

// withRoom does something small that writes to the vault. Where the store is full
// it gives the reserve free and does it again.
func (s *Session) withRoom(ctx context.Context, do func(context.Context) error) error {
	err := do(ctx)
	if s.reserve == nil || !errors.Is(err, syscall.ENOSPC) {
		return err
	}
	s.full = true
	if rerr := s.reserve.Release(); rerr != nil {
		return errors.Join(err, rerr)
	}
	return do(ctx)
}
