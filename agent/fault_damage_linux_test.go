package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/tharsis-backup/tharsis/vault/backend/fault"
	"github.com/tharsis-backup/tharsis/vault/key"
)

// healCommand is a command that contains or heals damage. Another one at any moment
// of it must go on with what it left.
type healCommand struct {
	name string
	run  func(ctx context.Context, w *faultWorld, src string) error
}

var healCommands = []healCommand{
	{"verify with quarantine", func(ctx context.Context, w *faultWorld, _ string) error {
		err := w.session(ctx, true, func(s *Session) error {
			_, err := s.Verify(ctx, VerifyOptions{ReadData: true, Quarantine: true})
			return err
		})
		if errors.Is(err, ErrDamaged) {
			return nil
		}
		return err
	}},
	{"repair", func(ctx context.Context, w *faultWorld, _ string) error {
		return w.session(ctx, true, func(s *Session) error {
			_, err := s.Repair(ctx, RepairOptions{})
			return err
		})
	}},
	{"backup that lists", func(ctx context.Context, w *faultWorld, src string) error {
		_, err := w.backup(ctx, src)
		return err
	}},
}

// healWorld is a machine with two points, and a vault that lost one of its index runs,
// the pack with most content, and all but the start of the smallest pack.
func healWorld(t *testing.T, r *faultRig) *faultWorld {
	ctx := t.Context()
	w := r.world("hurt")
	w.clock = func() time.Time { return faultClock().Add(2 * listEvery) }
	now := &faultWorld{home: w.home, vault: w.vault}
	if err := now.init(ctx); err != nil {
		t.Fatal(err)
	}
	for state := range 2 {
		r.edit(state)
		if _, err := now.backup(ctx, r.src); err != nil {
			t.Fatal(err)
		}
	}
	runs, err := filepath.Glob(filepath.Join(w.vault, "index", "*"))
	if err != nil || len(runs) != 2 {
		t.Fatalf("%v, %v", runs, err)
	}
	packs, err := filepath.Glob(filepath.Join(w.vault, "packs", "*", "*"))
	if err != nil || len(packs) < 4 {
		t.Fatalf("%v, %v", packs, err)
	}
	size := func(f string) int64 {
		info, err := os.Stat(f)
		noErr(t, err)
		return info.Size()
	}
	slices.SortFunc(packs, func(a, b string) int { return int(size(b) - size(a)) })
	for _, f := range []string{runs[0], packs[0]} {
		noErr(t, os.Remove(f))
	}
	noErr(t, os.Truncate(packs[len(packs)-1], 60))
	return w
}

// healed checks that a machine goes on with what a command left: with the same command
// again, or without it.
func (c *healCommand) healed(ctx context.Context, t *testing.T, r *faultRig, w *faultWorld, again bool) error {
	if again {
		if err := c.run(ctx, w, r.src); err != nil {
			return fmt.Errorf("again: %w", err)
		}
	}
	res, err := w.backup(ctx, r.src)
	if err != nil {
		return fmt.Errorf("the next backup: %w", err)
	}
	if err := w.restoresTo(ctx, t, res.Point, r.src, r.want[r.at]); err != nil {
		return err
	}
	return w.session(ctx, false, func(s *Session) error {
		// An index run may still be missing, which only a repair changes.
		if err := usesOnlyUsable(ctx, s, res.Point); err != nil && !errors.Is(err, key.ErrDamaged) {
			return err
		}
		_, err := s.Verify(ctx, VerifyOptions{ReadData: true, Point: res.Point})
		return err
	})
}

// fork is a copy of a world as it lies on the disk.
func (w *faultWorld) fork(r *faultRig, name string) *faultWorld {
	f := r.world(name)
	f.clock = w.clock
	faultImage(r.t, w, f)
	return f
}

func (w *faultWorld) drop() { os.RemoveAll(filepath.Dir(w.home)) }

// healEach calls fn for each command, with the number of moments that it has.
func healEach(t *testing.T, fn func(c *healCommand, r *faultRig, hurt *faultWorld, moments int)) {
	r := newFaultRig(t)
	hurt := healWorld(t, r)
	for i := range healCommands {
		c := &healCommands[i]
		w := hurt.fork(r, "count")
		m := &faultMoments{}
		stop := m.watch(w)
		err := c.run(t.Context(), w, r.src)
		stop()
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		for _, again := range []bool{false, true} {
			if err := c.healed(t.Context(), t, r, w, again); err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
		}
		w.drop()
		fn(c, r, hurt, m.n)
	}
}

// TestFaultHealKilled stops each command at every moment, and goes on with what a death
// there would leave.
func TestFaultHealKilled(t *testing.T) {
	total, cases := 0, 0
	healEach(t, func(c *healCommand, r *faultRig, hurt *faultWorld, moments int) {
		total += moments
		chosen := faultSample(moments, 14)
		w := hurt.fork(r, "killed")
		defer w.drop()
		m := &faultMoments{}
		m.at = func(n int, what string) error {
			if !slices.Contains(chosen, n) && os.Getenv(faultAllEnv) == "" {
				return nil
			}
			cases++
			image := w.fork(r, "image")
			if err := c.healed(t.Context(), t, r, image, n%2 == 0); err != nil {
				t.Errorf("%s, killed at moment %d, %s: %v", c.name, n, what, err)
			}
			image.drop()
			return nil
		}
		stop := m.watch(w)
		err := c.run(t.Context(), w, r.src)
		stop()
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
	})
	t.Logf("%d deaths of %d", cases, total)
}

// TestFaultHealOnce lets each operation and durable step fail once.
func TestFaultHealOnce(t *testing.T) {
	total, cases := 0, 0
	healEach(t, func(c *healCommand, r *faultRig, hurt *faultWorld, moments int) {
		total += moments
		for _, n := range faultSample(moments, 10) {
			cases++
			w := hurt.fork(r, "case")
			m := &faultMoments{at: func(at int, _ string) error {
				if at == n {
					return fault.ErrInjected
				}
				return nil
			}}
			stop := m.watch(w)
			err := faultWatch(t, c.name, func() error { return c.run(t.Context(), w, r.src) })
			stop()
			if herr := c.healed(t.Context(), t, r, w, n%2 == 0); herr != nil {
				t.Errorf("%s, moment %d fails (%v): %v", c.name, n, err, herr)
			}
			w.drop()
		}
	})
	t.Logf("%d failures of %d", cases, total)
}
