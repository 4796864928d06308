package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
	"github.com/tharsis-backup/tharsis/vault/manifest"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// toldTime gives probes the test's time, so that no --confirm is needed for clocks.
type toldTime struct {
	backend.Backend
	now func() time.Time
	put func(name string) error // before each Put
	get func(name string) error // before each Get
}

func (b *toldTime) List(ctx context.Context, prefix string) iter.Seq2[backend.Info, error] {
	return func(yield func(backend.Info, error) bool) {
		for info, err := range b.Backend.List(ctx, prefix) {
			if strings.HasPrefix(info.Name, "probe/") {
				info.Modified = b.now()
			}
			if !yield(info, err) {
				return
			}
		}
	}
}

func (b *toldTime) Put(ctx context.Context, name string, body io.ReaderAt, size int64) error {
	if b.put != nil {
		if err := b.put(name); err != nil {
			return err
		}
	}
	return b.Backend.Put(ctx, name, body, size)
}

func (b *toldTime) Get(ctx context.Context, name string, off, length int64) (io.ReadCloser, error) {
	if b.get != nil {
		if err := b.get(name); err != nil {
			return nil, err
		}
	}
	return b.Backend.Get(ctx, name, off, length)
}

// timed makes the store tell the test's time.
func (p *pruneWorld) timed(put, get func(string) error) {
	p.wrap = func(b backend.Backend) backend.Backend {
		return &toldTime{b, func() time.Time { return p.now }, put, get}
	}
}

// newTimedWorld is newPruneWorld with a store that tells the test's time.
func newTimedWorld(t *testing.T) *pruneWorld {
	t.Helper()
	p := newPruneWorld(t)
	p.timed(nil, nil)
	return p
}

// deletes soft-deletes points, notes that by a prune, and lets their period pass.
func (p *pruneWorld) deletes(t *testing.T, o PruneOptions, points ...string) {
	t.Helper()
	p.forgets(t, points...)
	p.must(t, o)
	p.passes(t, 15)
}

// killedAtIndex leaves the packs of a job that was killed before its index run.
func (p *pruneWorld) killedAtIndex(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	p.timed(func(name string) error {
		if strings.HasPrefix(name, "index/") {
			cancel()
			return context.Canceled
		}
		return nil
	}, nil)
	if _, err := p.backup(ctx, p.r.src); err == nil {
		t.Fatal("no error")
	}
}

// passes lets days pass in which now and then something harmless is written.
func (p *pruneWorld) passes(t *testing.T, days int) {
	t.Helper()
	for range days {
		p.later(24 * time.Hour)
		err := p.session(t.Context(), true, func(s *Session) error {
			return s.asAdmin(t.Context(), t, p.faultWorld, &log.Unforget{Points: []log.PointID{{1}}})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// peer is another machine of the same vault with the same clock.
func (p *pruneWorld) peer(name string) *pruneWorld {
	f := &faultWorld{home: filepath.Join(p.r.root, "home-"+name), vault: p.vault, host: name}
	q := &pruneWorld{faultWorld: f, r: p.r, now: p.now}
	f.clock = func() time.Time { p.now = p.now.Add(time.Millisecond); return p.now }
	f.wrap = func(b backend.Backend) backend.Backend {
		return &toldTime{b, func() time.Time { return p.now }, nil, nil}
	}
	return q
}

func (p *pruneWorld) must(t *testing.T, o PruneOptions) PruneResult {
	t.Helper()
	res, err := p.prune(t.Context(), o)
	if err != nil {
		t.Fatalf("prune: %v", err)
	}
	return res
}

func (p *pruneWorld) usable(t *testing.T, point string) error {
	return p.session(t.Context(), false, func(s *Session) error { return usesOnlyUsable(t.Context(), s, point) })
}

func (p *pruneWorld) remove(ids []chunk.ID) {
	(&fenceTest{w: p.faultWorld}).delete(ids)
}

// A chunk lies in two packs, of two machines that stored it at the same time. The
// one of the newer run is lost. The prune has a listing that says so, and condemns
// and deletes the other.
func TestPrunedLastWholeCopy(t *testing.T) {
	for _, how := range []string{"missing", "damaged"} {
		t.Run(how, func(t *testing.T) {
			ctx := t.Context()
			p := newPruneWorld(t)
			p.timed(nil, nil)
			// something else, so that it stays below 30 %
			big := filepath.Join(p.r.root, "big")
			if err := os.Mkdir(big, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(big, "x"), []byte(randomText(2_000_000)), 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := p.backup(ctx, big); err != nil {
				t.Fatal(err)
			}
			state := p.r.fresh(0, 200_000)
			p.r.edit(state)
			other := p.peer("other")
			if _, err := other.backup(ctx, big); err != nil { // enrolled
				t.Fatal(err)
			}
			var before, theirs []chunk.ID
			var once sync.Once
			p.timed(func(name string) error {
				if strings.HasPrefix(name, "index/") {
					once.Do(func() {
						p.beside(t, func(ctx context.Context, s *Session) (err error) {
							before, err = packsOfType(ctx, s, key.TypeDataPack)
							return err
						})
						if _, err := other.backup(ctx, p.r.src); err != nil {
							t.Error(err)
						}
						p.beside(t, func(ctx context.Context, s *Session) (err error) {
							theirs, err = packsOfType(ctx, s, key.TypeDataPack)
							return err
						})
					})
				}
				return nil
			}, nil)
			res, err := p.backup(ctx, p.r.src)
			if err != nil {
				t.Fatal(err)
			}
			p.timed(nil, nil)
			var all []chunk.ID
			p.beside(t, func(ctx context.Context, s *Session) (err error) {
				all, err = packsOfType(ctx, s, key.TypeDataPack)
				return err
			})
			known := map[chunk.ID]bool{}
			for _, id := range append(before, theirs...) {
				known[id] = true
			}
			var mine []chunk.ID
			for _, id := range all {
				if !known[id] {
					mine = append(mine, id)
				}
			}
			if len(mine) == 0 || len(theirs) == len(before) {
				t.Fatalf("%d %d %d", len(mine), len(theirs), len(before))
			}
			for _, id := range mine {
				name := filepath.Join(p.vault, pack.Name(id))
				if how == "missing" {
					os.Remove(name)
					continue
				}
				b, err := os.ReadFile(name)
				if err != nil {
					t.Fatal(err)
				}
				for i := 60; i < len(b)-4000; i += 1000 {
					b[i] ^= 1
				}
				os.Chmod(name, 0o600)
				if err := os.WriteFile(name, b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := p.restoresTo(ctx, t, res.Point, p.r.src, p.r.want[state]); err != nil {
				t.Fatalf("before any prune: %v", err)
			}
			r1 := p.must(t, PruneOptions{})
			p.passes(t, 4)
			r2 := p.must(t, PruneOptions{})
			t.Logf("condemned %d, swept %d", r1.Condemned, r2.Swept)
			if err := p.restoresTo(ctx, t, res.Point, p.r.src, p.r.want[state]); err != nil {
				t.Errorf("after two prunes without --confirm: %v", err)
			}
		})
	}
}

func randomText(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return string(b)
}

// A merge by another machine between mark and CONDEMN takes the marks of its runs
// along. The pages that name their chunks are in a run that stays, and count as seen.
func TestPrunedMergeForgetsMarks(t *testing.T) {
	ctx := t.Context()
	p := newTimedWorld(t)
	tree := faultTree{".": {kind: 'd', mode: 0o755, tick: 1}}
	var old []log.PointID
	for i := range 7 {
		next := faultTree{}
		for k, n := range tree {
			next[k] = n
		}
		next[fmt.Sprintf("big%d", i)] = faultNode{kind: 'f', data: randomText(400_000), mode: 0o644, tick: 100 + i}
		tree = next
		id := p.backs(t, p.r.add(tree))
		p.session(ctx, false, func(s *Session) error {
			info, err := s.vault.Log.State().PointByPrefix(id)
			old = append(old, info.Point.ID)
			return err
		})
	}
	many := faultTree{}
	for k, n := range tree {
		many[k] = n
	}
	for i := range 400 {
		many[fmt.Sprintf("m%03d", i)] = faultNode{kind: 'f', data: fmt.Sprint("file ", i), mode: 0o644, tick: 5000 + i}
	}
	state := p.r.add(many)
	last := p.backs(t, state) // the eighth run, the largest
	other := p.peer("other")
	small := filepath.Join(p.r.root, "small")
	os.Mkdir(small, 0o755)
	os.WriteFile(filepath.Join(small, "x"), []byte("x"), 0o644)
	err := p.session(ctx, true, func(s *Session) error {
		return errors.Join(
			s.asAdmin(ctx, t, p.faultWorld, &log.Forget{Points: old}),
			s.asAdmin(ctx, t, p.faultWorld, &log.Purge{Points: old}))
	})
	if err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	p.timed(func(name string) error {
		if strings.HasPrefix(name, "log/") { // the CONDEMN
			once.Do(func() {
				// A plain backup: its tidy merges, since there are nine runs now.
				if _, err := other.backup(ctx, small); err != nil {
					t.Error(err)
				}
			})
		}
		return nil
	}, nil)
	res, err := p.prune(ctx, PruneOptions{MaxRepack: -1})
	p.timed(nil, nil)
	t.Logf("%+v %v", res, err)
	if err == nil && res.CondemnedBytes*100 > 30*res.PackBytes {
		t.Errorf("it condemned %d of %d bytes unasked", res.CondemnedBytes, res.PackBytes)
	}
	if err := p.refsUsable(t, last); err != nil {
		t.Errorf("live point: %v", err)
	}
}

// refsUsable is usesOnlyUsable without the question whether bases stand.
func (p *pruneWorld) refsUsable(t *testing.T, point string) error {
	ctx := t.Context()
	return p.session(ctx, false, func(s *Session) error {
		info, err := s.vault.Log.State().PointByPrefix(point)
		if err != nil {
			return err
		}
		x, err := s.vault.OpenIndex(ctx, vault.IndexOptions{})
		if err != nil {
			return err
		}
		bad, all := 0, 0
		for _, src := range info.Point.Sources {
			err := manifest.Pages(ctx, s.pages(x), src.Root, nil, func(ref manifest.Ref) error {
				ok, err := x.Usable(ctx, ref.ID)
				if all++; !ok {
					bad++
				}
				return err
			})
			if err != nil {
				return err
			}
		}
		if bad > 0 {
			return fmt.Errorf("%d of its %d references lie only in condemned packs", bad, all)
		}
		return nil
	})
}

// Somebody brings a point back just before the PURGE. It is not purged, and its
// packs are condemned all the same.
func TestPrunedUnforgottenIsNoRoot(t *testing.T) {
	for _, what := range []string{"UNFORGET", "HOLD"} {
		ctx := t.Context()
		p := newPruneWorld(t)
		first := p.backs(t, p.r.fresh(0, 300_000))
		p.backs(t, p.r.fresh(1, 200_000))
		p.backs(t, 2)
		p.forgets(t, first)
		p.must(t, PruneOptions{Confirm: true})
		p.later(15 * 24 * time.Hour)
		p.wrap = func(b backend.Backend) backend.Backend {
			return oncePut(b, "log/", func() {
				p.beside(t, func(ctx context.Context, s *Session) error {
					info, err := s.vault.Log.State().PointByPrefix(first)
					if err != nil {
						return err
					}
					ids := []log.PointID{info.Point.ID}
					if what == "HOLD" {
						return s.asAdmin(ctx, t, p.faultWorld, &log.Hold{Points: ids, Reason: "court"})
					}
					return s.asAdmin(ctx, t, p.faultWorld, &log.Unforget{Points: ids})
				})
			})
		}
		res, err := p.prune(ctx, PruneOptions{Confirm: true})
		p.wrap = nil
		t.Logf("%s: %+v %v", what, res, err)
		if err := p.usable(t, first); err != nil {
			t.Errorf("%s: the point: %v", what, err)
		}
	}
}

// A merge is held up for over a week before its INDEX. Its run is condemned as an
// orphan. The INDEX then supersedes the old runs and adds nothing.
func TestPrunedMergeOfCondemnedRun(t *testing.T) {
	ctx := t.Context()
	p := newTimedWorld(t)
	point := p.backs(t, 0)
	other := p.peer("other")
	if _, err := other.backup(ctx, p.r.src); err != nil {
		t.Fatal(err)
	}
	runs := 0
	hooked := false
	p.timed(func(name string) error {
		if !hooked && strings.HasPrefix(name, "log/") { // the run is stored, its INDEX not yet
			hooked = true
			for range 9 {
				p.later(24 * time.Hour)
				if _, err := other.backup(ctx, p.r.src); err != nil {
					t.Error(err)
				}
			}
			res, err := other.prune(ctx, PruneOptions{MaxRepack: -1, Confirm: true})
			t.Logf("beside: %+v %v", res, err)
		}
		return nil
	}, nil)
	err := p.session(ctx, true, func(s *Session) error {
		x, err := s.vault.OpenIndex(ctx, s.indexOptions(true))
		if err != nil {
			return err
		}
		runs = len(x.Runs())
		return s.mergeInto(ctx, x.Runs(), s.machine.Key)
	})
	t.Logf("merge of %d runs: %v", runs, err)
	p.session(ctx, false, func(s *Session) error {
		t.Logf("%d live runs", len(s.vault.Log.State().Runs()))
		return nil
	})
	if err := p.restoresTo(ctx, t, point, p.r.src, p.r.want[0]); err != nil {
		t.Errorf("%v", err)
	}
	if v, err := p.verify(ctx); err != nil {
		t.Errorf("verify: %v, %d hurt", err, v.Hurt)
	}
}

// fewOfMany makes a point of 40 files and one of 8 of them: 80 % of the bytes die.
func (p *pruneWorld) fewOfMany(t *testing.T) (first, second string, few int) {
	t.Helper()
	tree := faultTree{".": {kind: 'd', mode: 0o755, tick: 1}}
	for i := range 40 {
		tree[fmt.Sprintf("f%02d", i)] = faultNode{kind: 'f', data: randomText(30_000), mode: 0o644, tick: 100 + i}
	}
	rest := faultTree{".": {kind: 'd', mode: 0o755, tick: 2}}
	for i := range 8 {
		name := fmt.Sprintf("f%02d", 5*i)
		rest[name] = tree[name]
	}
	full := p.r.add(tree)
	few = p.r.add(rest)
	return p.backs(t, full), p.backs(t, few), few
}

// 80 % of all bytes go, unasked: what was repacked does not count.
func TestPrunedGuardByRepack(t *testing.T) {
	p := newTimedWorld(t)
	first, _, _ := p.fewOfMany(t)
	p.deletes(t, PruneOptions{}, first)
	before := p.vaultBytes(t)
	res, err := p.prune(t.Context(), PruneOptions{})
	if errors.Is(err, ErrConfirm) {
		return
	}
	p.passes(t, 4)
	r2 := p.must(t, PruneOptions{})
	t.Errorf("unasked: %+v %v; then freed %d of %d bytes", res, err, r2.FreedBytes, before)
}

// The question comes when the points are already purged, for good.
func TestPrunedConfirmAfterPurge(t *testing.T) {
	p := newTimedWorld(t)
	p.backs(t, 0)
	first := p.backs(t, p.r.fresh(0, 3_000_000))
	p.backs(t, 1)
	p.backs(t, 2)
	p.deletes(t, PruneOptions{}, first)
	_, err := p.prune(t.Context(), PruneOptions{})
	if !errors.Is(err, ErrConfirm) {
		t.Fatal(err)
	}
	p.session(t.Context(), false, func(s *Session) error {
		id, err2 := s.vault.Log.State().PointByPrefix(first)
		if err2 != nil {
			t.Errorf("%q was returned (\"Nothing was changed\"), and the point is purged: %v %v", err, id.Purged, err2)
		}
		return nil
	})
}

// One damaged record in a pack that is mostly dead: no prune ever frees anything.
func TestPrunedDamageBlocksRepack(t *testing.T) {
	p := newTimedWorld(t)
	first, _, _ := p.fewOfMany(t)
	p.backs(t, 0)
	other := p.backs(t, p.r.fresh(0, 500_000)) // wholly dead later
	p.backs(t, 1)
	p.forgets(t, first, other)
	p.must(t, PruneOptions{Confirm: true})
	p.passes(t, 15)
	var ids []chunk.ID
	p.beside(t, func(ctx context.Context, s *Session) (err error) {
		ids, err = packsOfType(ctx, s, key.TypeDataPack)
		return err
	})
	for _, id := range ids {
		name := filepath.Join(p.vault, pack.Name(id))
		b, _ := os.ReadFile(name)
		if len(b) > 1_100_000 && len(b) < 1_400_000 { // that of the 40 files
			for i := 60; i < len(b)-8000; i += 1000 {
				b[i] ^= 1
			}
			os.Chmod(name, 0o600)
			if err := os.WriteFile(name, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 3 {
		res, err := p.prune(t.Context(), PruneOptions{Confirm: true})
		t.Logf("%+v %v", res, err)
		p.passes(t, 4)
		if err != nil && p.condemned(t) == 0 {
			t.Errorf("nothing is condemned, nothing freed: %v", err)
		}
	}
}

// The store is full. What was condemned long ago would make room, but repack comes
// first.
func TestPrunedFullStore(t *testing.T) {
	p := newTimedWorld(t)
	dead := p.backs(t, p.r.fresh(0, 1_000_000))
	p.backs(t, 1)
	p.deletes(t, PruneOptions{Confirm: true}, dead)
	r1 := p.must(t, PruneOptions{Confirm: true, MaxRepack: -1})
	t.Logf("condemned %d bytes", r1.CondemnedBytes)
	first, _, _ := p.fewOfMany(t)
	p.deletes(t, PruneOptions{Confirm: true, MaxRepack: -1}, first)
	// again something to sweep
	res := p.must(t, PruneOptions{DryRun: true})
	t.Logf("dry: %+v", res)
	full := func(name string) error {
		if strings.HasPrefix(name, "packs/") || strings.HasPrefix(name, "index/") {
			return syscall.ENOSPC // log entries of some hundred bytes still fit
		}
		return nil
	}
	p.must(t, PruneOptions{Confirm: true, MaxRepack: -1}) // purges and condemns what is wholly dead
	dead2 := p.backs(t, p.r.fresh(0, 1_000_000))
	p.backs(t, 1)
	p.deletes(t, PruneOptions{Confirm: true, MaxRepack: -1}, dead2)
	p.must(t, PruneOptions{Confirm: true, MaxRepack: -1})
	p.passes(t, 4)
	res = p.must(t, PruneOptions{DryRun: true})
	t.Logf("could be freed now: %d bytes; %+v", res.FreedBytes, res)
	p.timed(full, nil)
	res, err := p.prune(t.Context(), PruneOptions{Confirm: true})
	if err != nil && res.FreedBytes == 0 {
		t.Errorf("on a full store: freed nothing: %v", err)
	}
}

// Sweep was interrupted after its SWEPT, and not a byte is free: deleting needs no
// byte, but the probe does.
func TestPrunedFullStoreSwept(t *testing.T) {
	p := newTimedWorld(t)
	dead := p.backs(t, p.r.fresh(0, 1_000_000))
	p.backs(t, 1)
	p.deletes(t, PruneOptions{Confirm: true}, dead)
	p.must(t, PruneOptions{Confirm: true})
	p.passes(t, 4)
	p.session(t.Context(), true, func(s *Session) error { // a prune killed after its SWEPT
		var ids []chunk.ID
		for _, r := range s.vault.Log.State().PendingPacks() {
			ids = append(ids, r.ID)
		}
		return s.asAdmin(t.Context(), t, p.faultWorld, &log.Swept{Packs: ids})
	})
	dry := p.must(t, PruneOptions{DryRun: true})
	p.timed(func(string) error { return syscall.ENOSPC }, nil)
	res, err := p.prune(t.Context(), PruneOptions{Confirm: true})
	if res.FreedBytes != dry.FreedBytes {
		t.Errorf("the dry run said that %d bytes would be freed, and %d were: %v", dry.FreedBytes, res.FreedBytes, err)
	}
}
