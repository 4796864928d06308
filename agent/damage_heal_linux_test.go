package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/backend/fault"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// quarantined are the packs in quarantine.
func (r *rig) quarantined() (ids []chunk.ID) {
	r.t.Helper()
	noErr(r.t, r.session(r.t.Context(), func(s *Session) error {
		ids = s.vault.Log.State().Quarantined()
		return nil
	}))
	return ids
}

// usable checks that a point refers to nothing in quarantine.
func (r *rig) usable(point string) {
	r.t.Helper()
	noErr(r.t, r.session(r.t.Context(), func(s *Session) error { return usesOnlyUsable(r.t.Context(), s, point) }))
}

// What a check puts into quarantine counts as absent: the next backup stores it
// again, though nothing changed, and old points are whole again by that.
func TestQuarantineHeals(t *testing.T) {
	r, first, second := twoJobs(t)
	for _, c := range r.packCases(5, "missing", "flip", "directory") {
		t.Run(c.String(), func(t *testing.T) {
			p := r.fork()
			p.t = t
			p.fail(c)
			o := VerifyOptions{ReadData: true, Quarantine: true}
			_, res := p.hurt(second, o)
			if res.Damaged != 1 || res.Quarantined != 1 || len(p.quarantined()) != 1 {
				t.Fatalf("%+v", res)
			}
			if _, again := p.hurt(second, o); again.Quarantined != 0 || again.Hurt != res.Hurt {
				t.Errorf("again: %+v, at first: %+v", again, res)
			}
			made := p.backup(BackupOptions{})
			if c.typ == key.TypeDataPack && (made.Status != Completed || made.BytesRead == 0 || made.BytesAdded == 0) {
				t.Errorf("%+v: %s", made, p.notes)
			}
			p.usable(made.Point)
			p.restored(made.Point)
			if hurt, res := p.hurt(made.Point, VerifyOptions{ReadData: true, Point: made.Point}); res.Damaged+res.Hurt != 0 {
				t.Errorf("the new point: %+v, %v", res, hurt)
			}
			for _, depth := range []VerifyOptions{{}, {ReadData: true}, {Sample: 1}} {
				hurt, res := p.hurt(second, depth)
				if res.Damaged != 1 || len(hurt) > 0 {
					t.Errorf("%+v: %+v, %v", depth, res, hurt)
				}
				// What only an older point had of a list of files is lost for good.
				harmless := strings.HasSuffix(res.Damage[0].Text, "it is in quarantine, "+sweptBy)
				if harmless != (res.Hurt == 0) || harmless != (res.Harmless == 1) || !harmless && c.typ == key.TypeDataPack {
					t.Errorf("%+v: %+v", depth, res)
				}
			}
			p.restored(second)
			if c.typ == key.TypeDataPack {
				p.restore(first)
			}
		})
	}
}

// An error of ours, or a list that is behind, puts nothing into quarantine.
func TestQuarantineNeedsProof(t *testing.T) {
	r, _, _ := twoJobs(t)
	injected := map[string]func(fault.Op) fault.Action{
		"reads fail": func(op fault.Op) fault.Action {
			if op.Kind == fault.Get && strings.HasPrefix(op.Name, "packs/") && !op.After {
				return fault.Fail(fault.ErrInjected)
			}
			return fault.Action{}
		},
		"lists are behind": func(op fault.Op) fault.Action {
			if op.Kind == fault.List && !op.After && (op.Name == "" || strings.HasPrefix(op.Name, "packs/")) {
				return fault.EmptyList()
			}
			return fault.Action{}
		},
		"lists fail": func(op fault.Op) fault.Action {
			if op.Kind == fault.List && !op.After && (op.Name == "" || strings.HasPrefix(op.Name, "packs/")) {
				return fault.Fail(fault.ErrInjected)
			}
			return fault.Action{}
		},
	}
	for name, plan := range injected {
		t.Run(name, func(t *testing.T) {
			p := r.fork()
			p.t = t
			p.env.Wrap = func(b backend.Backend) backend.Backend { return fault.New(b, plan) }
			err := p.session(t.Context(), func(s *Session) error {
				_, err := s.Verify(t.Context(), VerifyOptions{ReadData: true, Quarantine: true})
				return err
			})
			if err == nil || errors.Is(err, ErrDamaged) != (name == "lists are behind") {
				t.Errorf("verify: %v", err)
			}
			p.ahead.Add(int64(48 * time.Hour)) // the packs are listed again
			if name != "reads fail" {
				p.write("new", "content")
				if res := p.clean(); p.notes.has(Info, "", "missing") {
					t.Errorf("%+v: %s", res, p.notes)
				}
			}
			p.env.Wrap = nil
			if ids := p.quarantined(); len(ids) > 0 {
				t.Errorf("in quarantine: %v", ids)
			}
		})
	}
}

// Once a day a backup notices that a pack is missing or cut, and heals it in the
// same job.
func TestDailyList(t *testing.T) {
	r, first, second := twoJobs(t)
	for _, c := range r.packCases(4, "missing", "cut") {
		p := r.fork()
		p.t = t
		p.clean() // lists
		p.fail(c)
		p.backup(BackupOptions{})
		if len(p.quarantined()) != 0 || p.notes.has(Info, "", "missing") {
			t.Errorf("listed twice in a day: %s", p.notes)
		}
		p.ahead.Add(int64(listEvery))
		made := p.backup(BackupOptions{})
		if len(p.quarantined()) != 1 || !p.notes.has(Info, "", "1 pack of the vault is missing or cut") {
			t.Errorf("%v: %+v: %s", c, made, p.notes)
		}
		p.usable(made.Point)
		p.restored(made.Point)
		if c.typ == key.TypeDataPack {
			p.restored(second)
			p.restore(first)
		}
	}
}

// The packs are listed once in 24 hours by the job's own clock; what is remembered of
// that is believed only if it is this machine's, and not of a time to come.
func TestDailyListTime(t *testing.T) {
	r := newRig(t)
	r.write("a", "1")
	var lists atomic.Int64
	r.env.Wrap = func(b backend.Backend) backend.Backend {
		return fault.New(b, func(op fault.Op) fault.Action {
			if op.Kind == fault.List && op.Name == "packs/" && !op.After {
				lists.Add(1)
			}
			return fault.Action{}
		})
	}
	memo := func() string {
		files, err := filepath.Glob(filepath.Join(r.home, "cache", "*", listedMemo))
		if err != nil || len(files) != 1 {
			t.Fatalf("%v, %v", files, err)
		}
		return files[0]
	}
	steps := []struct {
		what   string
		do     func()
		listed int64
	}{
		{"the first job", func() {}, 1},
		{"the next", func() {}, 0},
		{"a little less than a day later", func() { r.ahead.Add(int64(listEvery - time.Minute)) }, 0},
		{"a day later", func() { r.ahead.Add(int64(2 * time.Minute)) }, 1},
		{"the clock is set back", func() { r.ahead.Add(int64(-time.Hour)) }, 1},
		{"the memo is spoilt", func() { spoil(t, memo(), 3) }, 1},
		{"the cache is gone", r.wipe, 1},
		{"the next", func() {}, 0},
	}
	for _, step := range steps {
		step.do()
		lists.Store(0)
		r.clean()
		if n := lists.Load(); n != step.listed {
			t.Errorf("%s: listed %d times", step.what, n)
		}
	}
	if _, err := r.try(t.Context(), BackupOptions{DryRun: true}); err != nil {
		t.Fatal(err)
	}
}

// What an unfinished job has stored is checked as points are, and is healed as they
// are.
func TestVerifyUnfinished(t *testing.T) {
	r, w := partialWorld(t)
	w.partial = time.Nanosecond
	w.dies(t, r, "log/", 3)
	look := func() (res VerifyResult) {
		t.Helper()
		err := w.session(t.Context(), true, func(s *Session) (err error) {
			if len(s.vault.Log.State().Partials()) == 0 {
				t.Error("there is no unfinished job")
			}
			res, err = s.Verify(t.Context(), VerifyOptions{Quarantine: true})
			return err
		})
		if errors.Is(err, ErrDamaged) != (res.Damaged+res.Hurt > 0) {
			t.Errorf("%v, %+v", err, res)
		}
		return res
	}
	if res := look(); res.Damaged != 0 || res.Points != 0 {
		t.Fatalf("%+v", res)
	}
	noErr(t, w.session(t.Context(), false, func(s *Session) error {
		packs, err := packsOfType(t.Context(), s, key.TypeDataPack)
		if err != nil || len(packs) == 0 {
			return fmt.Errorf("%d packs, %w", len(packs), err)
		}
		return os.Remove(filepath.Join(w.vault, pack.Name(packs[0])))
	}))
	res := look()
	if res.Damaged != 1 || res.Hurt == 0 || res.Quarantined != 1 || !slices.ContainsFunc(res.Damage, func(d Damage) bool { return d.Unfinished && d.Path != "" }) {
		t.Errorf("%+v", res)
	}
	w.partial = 0
	made, err := w.backup(t.Context(), r.src)
	noErr(t, err)
	noErr(t, w.restoresTo(t.Context(), t, made.Point, r.src, r.src))
}
