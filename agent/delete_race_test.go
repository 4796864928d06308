package agent

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/tharsis-backup/tharsis/vault/backend"
)

// overtaken is a backend before whose Puts to the log another is faster: each of
// the functions is called before one.
type overtaken struct {
	backend.Backend
	by []func()
}

func (b *overtaken) Put(ctx context.Context, name string, body io.ReaderAt, size int64) error {
	if strings.HasPrefix(name, "log/") && len(b.by) > 0 {
		first := b.by[0]
		b.by = b.by[1:]
		first()
	}
	return b.Backend.Put(ctx, name, body, size)
}

// Whoever is overtaken between looking and writing looks again: the rules hold for
// the state that the entry continues.
func TestPointsRace(t *testing.T) {
	type world struct {
		*lifeRig
		one, two, three string // of machine 1; three is the newest
	}
	ctx := t.Context()
	must := func(w *world) func(any, error) {
		return func(_ any, err error) { w.t.Helper(); noErr(w.t, err) }
	}
	forget := func(machine int, last bool, ids ...func(*world) string) func(*world) error {
		return func(w *world) error {
			var names []string
			for _, id := range ids {
				names = append(names, id(w))
			}
			_, err := w.machines[machine].Forget(ctx, names, ForgetOptions{Last: last})
			return err
		}
	}
	one := func(w *world) string { return w.one }
	two := func(w *world) string { return w.two }
	three := func(w *world) string { return w.three }
	undelete := func(w *world) error { _, err := w.machines[1].Undelete(ctx, []string{w.one}); return err }
	for _, test := range []struct {
		name    string
		setup   func(*world)
		does    func(*world) error
		by      func(*world) // what overtakes it
		is      error
		entries uint64 // written by does
		deleted string // of one, two and three, at the end
	}{
		{
			name: "forget, held meanwhile", does: forget(1, false, one, two), is: ErrHeld,
			by: func(w *world) { must(w)(w.machines[0].Hold(ctx, []string{w.two}, "wait")) },
		},
		{
			name: "forget, forgotten meanwhile", does: forget(1, false, one), deleted: "1",
			by: func(w *world) { noErr(w.t, forget(0, false, one)(w)) },
		},
		{
			name: "forget, partly forgotten meanwhile", does: forget(1, false, one, two), entries: 1, deleted: "12",
			by: func(w *world) { noErr(w.t, forget(0, false, one)(w)) },
		},
		{
			name: "forget, the newest meanwhile", does: forget(1, false, one, two), is: ErrNewest, deleted: "3",
			by: func(w *world) { noErr(w.t, forget(0, true, three)(w)) },
		},
		{
			name: "forget, not the newest any more", does: forget(1, false, one), is: ErrNewest, deleted: "23",
			setup: func(w *world) { noErr(w.t, forget(1, true, three)(w)) },
			by:    func(w *world) { noErr(w.t, forget(0, true, two)(w)) },
		},
		{
			name: "forget, a newer one meanwhile", does: forget(1, false, one), entries: 1, deleted: "1",
			by: func(w *world) { w.commitOf(w.rigs[1].opened()) },
		},
		{
			name: "forget, purged meanwhile", does: forget(1, false, one), is: ErrNoPoint,
			by: func(w *world) { noErr(w.t, forget(0, false, one)(w)); w.purge(w.one) },
		},
		{
			name: "undelete, purged meanwhile", does: undelete, is: ErrNoPoint,
			setup: func(w *world) { noErr(w.t, forget(1, false, one)(w)) },
			by:    func(w *world) { w.purge(w.one) },
		},
		{
			name: "undelete, undeleted meanwhile", does: undelete,
			setup: func(w *world) { noErr(w.t, forget(1, false, one)(w)) },
			by:    func(w *world) { must(w)(w.machines[0].Undelete(ctx, []string{w.one})) },
		},
		{
			name: "hold, deleted meanwhile", entries: 1, deleted: "1",
			does: func(w *world) error { _, err := w.machines[1].Hold(ctx, []string{w.one}, "x"); return err },
			by:   func(w *world) { noErr(w.t, forget(0, false, one)(w)) },
		},
		{
			name:  "unhold, done meanwhile",
			setup: func(w *world) { must(w)(w.machines[1].Hold(ctx, []string{w.one}, "x")) },
			does:  func(w *world) error { _, err := w.machines[1].Unhold(ctx, []string{w.one}); return err },
			by:    func(w *world) { must(w)(w.machines[0].Unhold(ctx, []string{w.one})) },
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := &world{lifeRig: newLifeRig(t, 1)}
			w.one, w.two, w.three = w.commit(1), w.commit(1), w.commit(1)
			if test.setup != nil {
				test.setup(w)
			}
			var after uint64
			w.overtake(1, func() { test.by(w); after = w.entries() })
			if err := test.does(w); !errors.Is(err, test.is) {
				t.Fatalf("%v, want %v", err, test.is)
			}
			if after == 0 {
				t.Fatal("nothing was faster")
			}
			if n := w.entries() - after; n != test.entries {
				t.Errorf("%d entries, want %d", n, test.entries)
			}
			deleted := ""
			for i, id := range []string{w.one, w.two, w.three} {
				if p := w.state(id); p.Forgotten != 0 && !p.Purged {
					deleted += string(rune('1' + i))
				}
			}
			if deleted != test.deleted {
				t.Errorf("deleted are %q, want %q", deleted, test.deleted)
			}
		})
	}
}

// overtake gives a machine a new session before whose Puts to the log the
// functions are called.
func (l *lifeRig) overtake(machine int, by ...func()) {
	l.t.Helper()
	r := *l.rigs[machine]
	r.env.Wrap = func(b backend.Backend) backend.Backend { return &overtaken{b, by} }
	l.machines[machine].Close()
	l.machines[machine] = r.opened()
}

// One that takes several entries says how far it came.
func TestPointsRaceOfMany(t *testing.T) {
	l := newLifeRig(t, 1)
	var ids []string
	for range 6 {
		ids = append(ids, l.commit(1))
	}
	l.overtake(1, func() {}, func() {
		_, err := l.machines[0].Hold(t.Context(), ids[4:5], "wait")
		noErr(t, err)
	})
	res, err := l.forget(1, ForgetOptions{}, ids[:5]...)
	if !errors.Is(err, ErrHeld) || !strings.Contains(err.Error(), "3 of 5 points are done") || len(res.Points) != 3 {
		t.Fatalf("%v, %d points", err, len(res.Points))
	}
	l.lists(ids[3:], ids[:3])
}

// The same for the soft-delete period: who raises it does not lower it.
func TestSoftDeleteRace(t *testing.T) {
	l := newLifeRig(t, 0)
	other := l.rig.opened()
	for _, test := range []struct {
		days, theirs int
		is           error
		want         int
	}{{20, 30, ErrNeedsRecovery, 30}, {40, 40, nil, 40}, {60, 50, nil, 60}} {
		l.overtake(0, func() {
			_, err := other.SetSoftDelete(t.Context(), test.theirs)
			noErr(t, err)
		})
		before, err := l.machines[0].SetSoftDelete(t.Context(), test.days)
		if !errors.Is(err, test.is) || before != test.theirs {
			t.Errorf("%d after %d: before %d, %v", test.days, test.theirs, before, err)
		}
		if got := l.machines[0].vault.Log.State().SoftDeleteDays(); got != test.want {
			t.Errorf("%d after %d: %d", test.days, test.theirs, got)
		}
	}
}

// A recovery key that was taken out of use meanwhile lowers nothing.
func TestSoftDeleteRaceOfKeys(t *testing.T) {
	l := newLifeRig(t, 0)
	ctx, other := t.Context(), l.rig.opened()
	_, err := other.SetSoftDelete(ctx, 30)
	noErr(t, err)
	recovery, err := other.RecoveryKey(ctx, testPassphrase)
	noErr(t, err)
	l.rigs[0].env.Secret = func(context.Context) (string, error) { return recovery.String(), nil }
	l.overtake(0, func() {
		for _, k := range other.Keys() {
			if k.Kind == "recovery key" {
				noErr(t, other.RemoveKey(ctx, testPassphrase, k.ID))
			}
		}
	})
	if _, err := l.machines[0].SetSoftDelete(ctx, 14); err == nil || !strings.Contains(err.Error(), "taken out of use") {
		t.Error(err)
	}
	if got := l.machines[0].vault.Log.State().SoftDeleteDays(); got != 30 {
		t.Errorf("%d days", got)
	}
}
