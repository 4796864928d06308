package agent

import (
	"errors"
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
	for _, typ := range []uint8{key.TypeDataPack, key.TypeManifestPack} {
		for _, pack := range r.packs(typ) {
			for _, how := range []string{"missing", "flip", "directory"} {
				t.Run(filepath.Base(pack)[:8]+" "+how, func(t *testing.T) {
					p := r.fork()
					p.t = t
					file := p.vault + pack[len(r.vault):]
					info, err := os.Stat(file)
					noErr(t, err)
					switch how {
					case "missing":
						noErr(t, os.Remove(file))
					case "flip":
						spoil(t, file, 100)
					case "directory":
						spoil(t, file, int(info.Size())-30)
					}
					o := VerifyOptions{ReadData: true, Quarantine: true}
					_, res := p.hurt(second, o)
					if res.Damaged != 1 || res.Quarantined != 1 || len(p.quarantined()) != 1 {
						t.Fatalf("%+v", res)
					}
					if _, again := p.hurt(second, o); again.Quarantined != 0 || again.Hurt != res.Hurt {
						t.Errorf("again: %+v, at first: %+v", again, res)
					}
					made := p.backup(BackupOptions{})
					if typ == key.TypeDataPack && (made.Status != Completed || made.BytesRead == 0 || made.BytesAdded == 0) {
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
						if harmless != (res.Hurt == 0) || harmless != (res.Harmless == 1) || !harmless && typ == key.TypeDataPack {
							t.Errorf("%+v: %+v", depth, res)
						}
					}
					p.restored(second)
					if typ == key.TypeDataPack {
						p.restore(first)
					}
				})
			}
		}
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
	for _, how := range []string{"missing", "cut"} {
		for _, pack := range slices.Concat(r.packs(key.TypeDataPack), r.packs(key.TypeManifestPack)) {
			p := r.fork()
			p.t = t
			p.clean() // lists
			file := p.vault + pack[len(r.vault):]
			if how == "cut" {
				noErr(t, os.Truncate(file, 300))
			} else {
				noErr(t, os.Remove(file))
			}
			p.backup(BackupOptions{})
			if len(p.quarantined()) != 0 || p.notes.has(Info, "", "missing") {
				t.Errorf("listed twice in a day: %s", p.notes)
			}
			p.ahead.Add(int64(listEvery))
			made := p.backup(BackupOptions{})
			if len(p.quarantined()) != 1 || !p.notes.has(Info, "", "1 of the vault's packs are missing or cut") {
				t.Errorf("%s %s: %+v: %s", how, pack, made, p.notes)
			}
			p.usable(made.Point)
			p.restored(made.Point)
			if slices.Contains(r.packs(key.TypeDataPack), pack) {
				p.restored(second)
				p.restore(first)
			}
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
