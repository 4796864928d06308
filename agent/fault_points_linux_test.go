package agent

import (
	"context"
	"fmt"
)

// forgets soft-deletes a machine's oldest point, and undeletes brings it back.
func (w *faultWorld) forgets(ctx context.Context) error {
	return w.withOldest(ctx, func(s *Session, id string) error {
		_, err := s.Forget(ctx, []string{id}, ForgetOptions{Reason: "a test"})
		return err
	})
}

func (w *faultWorld) undeletes(ctx context.Context) error {
	return w.withOldest(ctx, func(s *Session, id string) error {
		_, err := s.Undelete(ctx, []string{id})
		return err
	})
}

func (w *faultWorld) withOldest(ctx context.Context, fn func(s *Session, id string) error) error {
	return w.session(ctx, true, func(s *Session) error {
		return fn(s, s.vault.Log.State().Points()[0].Point.ID.String())
	})
}

// life checks that a deletion or its end, wherever it died, can be made again: the
// point is deleted, and noted, and comes back.
func (w *faultWorld) life(ctx context.Context) error {
	for _, deleted := range []bool{true, false} {
		run := w.undeletes
		if deleted {
			run = w.forgets
		}
		if err := run(ctx); err != nil {
			return fmt.Errorf("the next one, deleted %v: %w", deleted, err)
		}
		err := w.withOldest(ctx, func(s *Session, id string) error {
			st := s.vault.Log.State()
			p, err := st.PointByPrefix(id)
			if err != nil {
				return err
			}
			if _, runs := st.PurgeableFrom(p.Point.ID); (p.Forgotten != 0) != deleted || runs != deleted {
				return fmt.Errorf("the point is deleted: %v, its period runs: %v, want %v", p.Forgotten != 0, runs, deleted)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
