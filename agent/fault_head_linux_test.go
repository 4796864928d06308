package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tharsis-backup/tharsis/agent/home"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/backend/fault"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
)

// headRig is a machine with a vault of several entries, and what the vault and the
// machine were after each of them.
type headRig struct {
	*faultRig
	w      *faultWorld
	after  []*faultWorld  // by entry: the world as it was once that was there
	points map[string]int // state of the source by point
}

// newHeadRig lives through a script: backups, a PARTIAL, a change of keys.
func newHeadRig(t *testing.T) *headRig {
	t.Helper()
	ctx := t.Context()
	h := &headRig{faultRig: newFaultRig(t), points: map[string]int{}}
	h.w = h.world("box")
	h.w.wrap = func(b backend.Backend) backend.Backend {
		return fault.New(b, func(op fault.Op) fault.Action {
			if op.Kind == fault.Put && op.After && strings.HasPrefix(op.Name, "log/") {
				image := h.world(fmt.Sprint("after-", len(h.after)))
				faultImage(t, h.w, image)
				h.after = append(h.after, image)
			}
			return fault.Action{}
		})
	}
	must(t, h.w.init(ctx))
	check := partialCheck
	partialCheck = 8
	defer func() { partialCheck = check }()
	for i, state := range []int{0, 1, 2} {
		h.w.partial = 0
		if i == 1 {
			h.w.partial = 1
		}
		h.backup(h.w, state)
	}
	must(t, h.w.changePassphrase(ctx, faultPass, faultNewPass))
	h.w.partial, h.w.wrap = 0, nil
	if n := len(h.after); n < 6 {
		t.Fatalf("only %d entries", n)
	}
	return h
}

func (h *headRig) backup(w *faultWorld, state int) {
	h.t.Helper()
	h.edit(state)
	res, err := w.backup(h.t.Context(), h.src)
	must(h.t, err)
	h.points[res.Point] = state
}

// machine is a copy of the box with another vault in the place of its own.
func (h *headRig) machine(vault string) *faultWorld {
	h.t.Helper()
	m := h.world("machine")
	must(h.t, os.RemoveAll(filepath.Dir(m.home)))
	faultImage(h.t, h.w, m)
	must(h.t, os.RemoveAll(m.vault))
	must(h.t, faultCopy(vault, m.vault, true))
	return m
}

// forget takes from a machine some of what it remembers.
func forget(t *testing.T, m *faultWorld, what string) {
	t.Helper()
	for _, dir := range []string{"cache", "heads"} {
		if strings.Contains(what, "no "+dir) {
			must(t, os.RemoveAll(filepath.Join(m.home, dir)))
		}
	}
}

// memories are what a machine may have left of what it saw.
var memories = []string{"all", "no cache", "no heads"}

// accept is agent.AcceptHead, as the command does it.
func (w *faultWorld) accept(ctx context.Context) (c HeadChange, err error) {
	err = w.locked(func(h *home.Home) error {
		c, err = AcceptHead(ctx, w.env(), h, "", func(HeadChange) error { return nil })
		return err
	})
	return c, err
}

// refuses checks that no command does anything with the machine's vault.
func (h *headRig) refuses(what string, m *faultWorld, want ...error) {
	h.t.Helper()
	before := faultFiles(h.t, m.vault)
	for name, command := range refused(h.t.Context(), h.faultRig, m) {
		err := command()
		if !slices.ContainsFunc(want, func(w error) bool { return errors.Is(err, w) }) {
			h.t.Errorf("%s: %s: %v, want one of %v", what, name, err, want)
		}
	}
	declined := errors.New("declined")
	err := m.locked(func(hm *home.Home) error {
		_, err := AcceptHead(h.t.Context(), m.env(), hm, "", func(HeadChange) error { return declined })
		return err
	})
	if err != declined {
		h.t.Errorf("%s: declined: %v", what, err)
	}
	if _, err := m.points(h.t.Context()); err == nil {
		h.t.Errorf("%s: what was declined was accepted", what)
	}
	if !equalObjects(before, faultFiles(h.t, m.vault)) {
		h.t.Errorf("%s: the vault was changed", what)
	}
}

// goesOn checks that a machine works with its vault: it has the points of the vault
// alone, its next backups are right, and all points restore.
func (h *headRig) goesOn(what string, m *faultWorld) {
	h.t.Helper()
	ctx := h.t.Context()
	fail := func(err error) {
		h.t.Helper()
		if err != nil {
			h.t.Errorf("%s: %v", what, err)
		}
	}
	before, err := m.points(ctx)
	fail(err)
	notes := &faultNotes{}
	m.notes = notes
	res, err := m.backup(ctx, h.src)
	fail(err)
	if err == nil && res.Status != Completed {
		h.t.Errorf("%s: the next backup is %s: %s", what, res.Status, notes.text())
	}
	again, err := m.backup(ctx, h.src)
	fail(err)
	if again.BytesAdded != 0 || again.FilesUnmodified == 0 {
		h.t.Errorf("%s: the backup after: %+v", what, again)
	}
	v, err := m.verify(ctx)
	if err != nil {
		h.t.Errorf("%s: verify: %v: %+v", what, err, v.Damage)
	}
	states := map[string]int{res.Point: h.at, again.Point: h.at}
	for _, p := range before {
		states[p.ID.String()] = h.points[p.ID.String()]
	}
	points, err := m.points(ctx)
	fail(err)
	if len(points) != len(states) {
		h.t.Errorf("%s: %d points, want %d", what, len(points), len(states))
	}
	for _, p := range points {
		state, ok := states[p.ID.String()]
		if !ok {
			h.t.Errorf("%s: point %s is nobody's", what, p.ID)
			continue
		}
		fail(m.restoresTo(ctx, h.t, p.ID.String(), h.src, h.want[state]))
	}
	if strings.Contains(notes.text(), "copy") || strings.Contains(notes.text(), "older") {
		h.t.Errorf("%s: taken for another machine: %s", what, notes.text())
	}
}

// lost counts the points of the box that a vault lacks.
func (h *headRig) lost(vault *faultWorld) int {
	h.t.Helper()
	all, err := h.w.points(h.t.Context())
	must(h.t, err)
	fresh := &faultWorld{home: filepath.Join(h.t.TempDir(), "home"), vault: vault.vault, host: "fresh", secret: vault.secret}
	ids := map[log.PointID]bool{}
	points, err := fresh.points(h.t.Context())
	if errors.Is(err, key.ErrWrongKey) {
		fresh.secret = faultNewPass
		points, err = fresh.points(h.t.Context())
	}
	must(h.t, err)
	for _, p := range points {
		ids[p.ID] = true
	}
	n := 0
	for _, p := range all {
		if !ids[p.ID] {
			n++
		}
	}
	return n
}

// TestFaultAcceptOlder rolls the vault back to each earlier entry.
func TestFaultAcceptOlder(t *testing.T) {
	h := newHeadRig(t)
	n := (len(h.after) - 1) * len(memories)
	cases := faultSample(n, 7)
	for _, i := range cases {
		seq, memory := i/len(memories), memories[i%len(memories)]
		what := fmt.Sprintf("back to entry %d, %s", seq, memory)
		old := h.world("old") // the fresh machine of lost writes to it
		faultImage(t, h.after[seq], old)
		want := h.lost(old)
		must(t, os.RemoveAll(filepath.Dir(old.home)))
		m := h.machine(h.after[seq].vault)
		forget(t, m, memory)
		h.refuses(what, m, log.ErrRollback)
		c, err := m.accept(t.Context())
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if memory == "no cache" {
			want = 0
		}
		if c.Kind != ChangeOlder || c.Found.Seq != uint64(seq) || c.Known.Seq != uint64(len(h.after)-1) ||
			c.Seen != (memory != "no cache") || len(c.Lost) != want || c.LostOwn != want || c.Seen && c.Common != c.Found {
			t.Errorf("%s: %+v, want %d points lost", what, c, want)
		}
		if c, err = m.accept(t.Context()); err != nil || c.Kind != "" {
			t.Errorf("%s: accepted again: %+v, %v", what, c, err)
		}
		h.goesOn(what, m)
	}
	t.Logf("%d cases of %d", len(cases), n)
}

// TestFaultAcceptForked lets another machine go on from each earlier entry, less far
// than the box and further.
func TestFaultAcceptForked(t *testing.T) {
	h := newHeadRig(t)
	n := (len(h.after) - 1) * 2 * len(memories)
	cases := faultSample(n, 7)
	for _, i := range cases {
		seq, far, memory := i/len(memories)/2, i/len(memories)%2 == 1, memories[i%len(memories)]
		what := fmt.Sprintf("forked at entry %d, far %v, %s", seq, far, memory)
		fork := h.world("fork")
		must(t, os.RemoveAll(filepath.Dir(fork.home)))
		must(t, faultCopy(h.after[seq].vault, fork.vault, true))
		fork.host = "fork"
		for len(faultFiles(t, filepath.Join(fork.vault, "log"))) <= seq+2 || far && len(faultFiles(t, filepath.Join(fork.vault, "log"))) <= len(h.after) {
			h.backup(fork, (h.at+1)%3)
		}
		h.edit(2)
		m := h.machine(fork.vault)
		forget(t, m, memory)
		h.refuses(what, m, log.ErrRollback, log.ErrForked)
		c, err := m.accept(t.Context())
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		// Without the log as it was seen, a shorter one cannot be told from an older.
		kind := ChangeForked
		if memory == "no cache" && c.Found.Seq < c.Known.Seq {
			kind = ChangeOlder
		}
		if c.Kind != kind || c.Seen && c.Common.Seq != uint64(seq) {
			t.Errorf("%s: %+v", what, c)
		}
		h.goesOn(what, m)
		must(t, os.RemoveAll(filepath.Dir(fork.home)))
	}
	t.Logf("%d cases of %d", len(cases), n)
}

// TestFaultAcceptOther puts another vault in the place of the machine's, and then
// its own one back.
func TestFaultAcceptOther(t *testing.T) {
	ctx := t.Context()
	h := newHeadRig(t)
	other := h.world("other")
	must(t, other.init(ctx))
	h.backup(other, 0)
	for _, memory := range memories {
		m := h.machine(other.vault)
		forget(t, m, memory)
		h.refuses(memory, m, log.ErrForked)
		m.secret = "not the passphrase of either"
		if _, err := m.accept(ctx); !errors.Is(err, key.ErrWrongKey) {
			t.Errorf("%s: with a wrong passphrase: %v", memory, err)
		}
		m.secret = ""
		c, err := m.accept(ctx)
		if err != nil || c.Kind != ChangeOther || c.VaultID == c.KnownID || len(c.Lost) != map[bool]int{true: 0, false: 3}[memory == "no cache"] {
			t.Errorf("%s: %+v, %v", memory, c, err)
		}
		h.edit(1)
		h.goesOn(memory, m)
		// The one before comes back.
		must(t, os.RemoveAll(m.vault))
		must(t, faultCopy(h.w.vault, m.vault, true))
		m.secret = "not needed"
		h.refuses(memory+", back again", m, log.ErrForked)
		if c, err := m.accept(ctx); err != nil || c.Kind != ChangeOther {
			t.Errorf("%s, back again: %+v, %v", memory, c, err)
		}
		h.goesOn(memory+", back again", m)
	}
}

// TestFaultReplacedEntry puts an entry of a fork in the place of a single one. A
// machine that has seen the right one goes by that; for others the log is damaged,
// and there is nothing to accept.
func TestFaultReplacedEntry(t *testing.T) {
	ctx := t.Context()
	h := newHeadRig(t)
	fork := h.world("fork")
	must(t, faultCopy(h.after[0].vault, fork.vault, true))
	fork.host = "fork"
	for len(faultFiles(t, filepath.Join(fork.vault, "log"))) <= len(h.after) {
		h.backup(fork, (h.at+1)%3)
	}
	h.edit(2)
	theirs := faultFiles(t, filepath.Join(fork.vault, "log"))
	names := slices.Sorted(maps.Keys(faultFiles(t, filepath.Join(h.w.vault, "log"))))
	for i, name := range names[1:] {
		for _, memory := range memories {
			what := fmt.Sprintf("entry %d replaced, %s", i+1, memory)
			m := h.machine(h.w.vault)
			forget(t, m, memory)
			path := filepath.Join(m.vault, "log", name)
			must(t, os.Remove(path))
			faultWrite(t, path, theirs[name])
			if memory == "no cache" {
				for name, command := range refused(ctx, h.faultRig, m) {
					if err := command(); !errors.Is(err, key.ErrDamaged) {
						t.Errorf("%s: %s: %v", what, name, err)
					}
				}
				if c, err := m.accept(ctx); !errors.Is(err, key.ErrDamaged) {
					t.Errorf("%s: accepted: %+v, %v", what, c, err)
				}
				continue
			}
			last := i+2 == len(names)
			points, err := m.points(ctx)
			if last != errors.Is(err, log.ErrForked) || !last && (err != nil || len(points) != 3) {
				t.Errorf("%s: %d points, %v", what, len(points), err)
			}
			if _, err := m.verify(ctx); err == nil {
				t.Errorf("%s: not found by a check", what)
			}
		}
	}
}

// TestFaultAcceptKilled stops accept-head at every moment, and lets its next run go
// on with what a death there leaves.
func TestFaultAcceptKilled(t *testing.T) {
	ctx := t.Context()
	h := newHeadRig(t)
	other := h.world("other")
	must(t, other.init(ctx))
	h.backup(other, 0)
	fork := h.world("fork")
	must(t, faultCopy(h.after[3].vault, fork.vault, true))
	fork.host = "fork"
	for range 5 {
		h.backup(fork, (h.at+1)%3)
	}
	total, cases, refusing := 0, 0, 0
	for name, vault := range map[string]string{"older": h.after[3].vault, "forked": fork.vault, "another": other.vault} {
		count := &faultMoments{}
		m := h.machine(vault)
		stop := count.watch(m)
		_, err := m.accept(ctx)
		stop()
		must(t, err)
		total += count.n
		chosen := faultSample(count.n, 8)
		m = h.machine(vault)
		moments := &faultMoments{at: func(n int, what string) error {
			if !slices.Contains(chosen, n) {
				return nil
			}
			cases++
			image := h.world("image")
			faultImage(t, m, image)
			defer os.RemoveAll(filepath.Dir(image.home))
			what = fmt.Sprintf("%s, killed at moment %d, %s", name, n, what)
			if _, err := image.points(ctx); errors.Is(err, log.ErrRollback) || errors.Is(err, log.ErrForked) {
				refusing++
				if _, err := image.accept(ctx); err != nil {
					t.Errorf("%s: accept again: %v", what, err)
				}
			} else if err != nil {
				t.Errorf("%s: %v", what, err)
			}
			h.goesOn(what, image)
			return nil
		}}
		stop = moments.watch(m)
		_, err = m.accept(ctx)
		stop()
		must(t, err)
		h.goesOn(name, m)
	}
	if refusing == 0 {
		t.Error("no death came before the end")
	}
	t.Logf("%d deaths of %d, %d of them with the vault refused after", cases, total, refusing)
}
