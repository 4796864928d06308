package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/log"
)

// pruneWorld is a machine with a clock of its own, over a vault that others may
// have too.
type pruneWorld struct {
	*faultWorld
	r   *faultRig
	now time.Time
}

func newPruneWorld(t *testing.T) *pruneWorld {
	t.Helper()
	r := newFaultRig(t)
	p := &pruneWorld{faultWorld: r.world("box"), r: r, now: faultStart}
	p.clock = func() time.Time { p.now = p.now.Add(time.Millisecond); return p.now }
	if err := p.init(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *pruneWorld) later(d time.Duration) { p.now = p.now.Add(d) }

func (p *pruneWorld) prune(ctx context.Context, o PruneOptions) (res PruneResult, err error) {
	err = p.session(ctx, true, func(s *Session) (err error) {
		res, err = s.Prune(ctx, o)
		return err
	})
	return res, err
}

// backs makes a point of a state.
func (p *pruneWorld) backs(t *testing.T, state int) string {
	t.Helper()
	p.r.edit(state)
	p.later(time.Hour)
	res, err := p.backup(t.Context(), p.r.src)
	if err != nil {
		t.Fatal(err)
	}
	return res.Point
}

// forgets soft-deletes points, and notes that.
func (p *pruneWorld) forgets(t *testing.T, ids ...string) {
	t.Helper()
	err := p.session(t.Context(), true, func(s *Session) error {
		var points []log.PointID
		for _, id := range ids {
			info, err := s.vault.Log.State().PointByPrefix(id)
			if err != nil {
				return err
			}
			points = append(points, info.Point.ID)
		}
		return s.asAdmin(t.Context(), t, p.faultWorld, &log.Forget{Points: points})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// holds checks that the vault is whole and that points restore to states.
func (p *pruneWorld) whole(t *testing.T, points map[string]int) {
	t.Helper()
	if v, err := p.verify(t.Context()); err != nil {
		t.Fatalf("verify: %v: %+v", err, v.Damage)
	}
	for id, state := range points {
		if err := p.restoresTo(t.Context(), t, id, p.r.src, p.r.want[state]); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPrune takes points through the whole of their end: deleted, purged, their
// packs condemned and swept, with the others whole at each step.
func TestPrune(t *testing.T) {
	ctx := t.Context()
	p := newPruneWorld(t)
	first := p.backs(t, p.r.fresh(0, 300_000))
	second := p.backs(t, p.r.fresh(1, 200_000))
	third := p.backs(t, 2)
	p.forgets(t, first, second)
	yes := PruneOptions{Confirm: true}
	res, err := p.prune(ctx, yes)
	if err != nil || res.Purged+res.Condemned+res.Swept != 0 {
		t.Fatalf("%+v %v", res, err)
	}
	p.later(14*24*time.Hour - time.Hour)
	if res, err = p.prune(ctx, yes); err != nil || res.Purged != 0 {
		t.Fatalf("an hour early: %+v %v", res, err)
	}
	p.later(2 * time.Hour)
	dry, err := p.prune(ctx, PruneOptions{DryRun: true})
	if err != nil || dry.Purged != 2 || dry.Condemned == 0 || dry.CondemnedBytes+dry.RepackedBytes < 500_000 {
		t.Fatalf("dry run: %+v %v", dry, err)
	}
	if _, err = p.prune(ctx, PruneOptions{}); !errors.Is(err, ErrConfirm) {
		t.Fatalf("without --confirm: %v", err)
	}
	if res, err = p.prune(ctx, yes); err != nil || res.Purged != 2 || res.Condemned < dry.Condemned || res.Swept != 0 {
		t.Fatalf("%+v after %+v: %v", res, dry, err)
	}
	p.whole(t, map[string]int{third: 2})
	before := p.vaultBytes(t)
	p.later(71 * time.Hour)
	if res, err = p.prune(ctx, yes); err != nil || res.Swept != 0 || res.Waiting == 0 {
		t.Fatalf("within the grace: %+v %v", res, err)
	}
	p.later(2 * time.Hour)
	if res, err = p.prune(ctx, yes); err != nil || res.Swept == 0 || res.FreedBytes < 400_000 {
		t.Fatalf("%+v %v", res, err)
	}
	if after := p.vaultBytes(t); before-after < 400_000 {
		t.Errorf("%d bytes before, %d after", before, after)
	}
	p.whole(t, map[string]int{third: 2})
	if err := p.restoresTo(ctx, t, first, p.r.src, p.r.want[0]); !errors.Is(err, ErrNoPoint) {
		t.Errorf("a purged point: %v", err)
	}
	fourth := p.backs(t, 0)
	p.whole(t, map[string]int{third: 2, fourth: 0})
}

// vaultBytes is the size of all objects.
func (p *pruneWorld) vaultBytes(t *testing.T) (n int64) {
	t.Helper()
	err := p.session(t.Context(), false, func(s *Session) error {
		for info, err := range s.backend.List(t.Context(), "") {
			if err != nil {
				return err
			}
			n += info.Size
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestPruneRepack lets most of a pack die: its rest is written anew.
func TestPruneRepack(t *testing.T) {
	ctx := t.Context()
	p := newPruneWorld(t)
	rng := rand.New(rand.NewPCG(1, 1))
	noise := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return string(b)
	}
	tree := faultTree{".": {kind: 'd', mode: 0o755, tick: 1}}
	for i := range 40 {
		tree[fmt.Sprintf("f%02d", i)] = faultNode{kind: 'f', data: noise(30_000), mode: 0o644, tick: 100 + i}
	}
	rest := faultTree{".": {kind: 'd', mode: 0o755, tick: 2}}
	for i := range 8 {
		name := fmt.Sprintf("f%02d", 5*i)
		rest[name] = tree[name]
	}
	full, few := p.r.add(tree), p.r.add(rest)
	first := p.backs(t, full)
	second := p.backs(t, few)
	p.forgets(t, first)
	yes := PruneOptions{Confirm: true}
	if _, err := p.prune(ctx, yes); err != nil {
		t.Fatal(err)
	}
	p.later(15 * 24 * time.Hour)
	if res, err := p.prune(ctx, PruneOptions{Confirm: true, MaxRepack: -1}); err != nil || res.Repacked != 0 {
		t.Fatalf("%+v %v", res, err)
	}
	res, err := p.prune(ctx, yes)
	if err != nil || res.Repacked == 0 || res.WrittenBytes < 8*30_000 || res.WrittenBytes > 10*30_000 {
		t.Fatalf("%+v %v", res, err)
	}
	p.whole(t, map[string]int{second: few})
	p.later(73 * time.Hour)
	if res, err = p.prune(ctx, yes); err != nil || res.FreedBytes < 31*30_000 {
		t.Fatalf("%+v %v", res, err)
	}
	if n := p.vaultBytes(t); n > 12*30_000 {
		t.Errorf("the vault has %d bytes", n)
	}
	p.whole(t, map[string]int{second: few})
	if res, err = p.prune(ctx, yes); err != nil || res.Repacked+res.Condemned+res.Swept != 0 {
		t.Errorf("once more: %+v %v", res, err)
	}
}

// TestPruneUnsure breaks each read of a prune in turn: nothing is condemned then.
func TestPruneUnsure(t *testing.T) {
	ctx := t.Context()
	p := newPruneWorld(t)
	first := p.backs(t, p.r.fresh(0, 50_000))
	second := p.backs(t, 1)
	p.forgets(t, first)
	if _, err := p.prune(ctx, PruneOptions{Confirm: true}); err != nil {
		t.Fatal(err)
	}
	p.later(15 * 24 * time.Hour)
	failed := 0
	for n := 1; ; n++ {
		f := p.r.world("broken")
		faultImage(t, p.faultWorld, f)
		b := &pruneWorld{faultWorld: f, r: p.r, now: p.now}
		b.clock = func() time.Time { b.now = b.now.Add(time.Millisecond); return b.now }
		if err := wipeCache(f); err != nil {
			t.Fatal(err)
		}
		hit := false
		f.wrap = failingReads(n, &hit)
		_, err := b.prune(ctx, PruneOptions{Confirm: true})
		f.wrap = nil
		if !hit {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		if err != nil {
			failed++
			if cond := b.condemned(t); cond > 0 && strings.Contains(err.Error(), "nothing was condemned") {
				t.Fatalf("read %d: %d packs were condemned all the same: %v", n, cond, err)
			}
		}
		b.whole(t, map[string]int{second: 1})
		(&faultScript{r: p.r, w: f}).drop()
	}
	if failed < 5 {
		t.Errorf("only %d reads failed", failed)
	}
}

func (p *pruneWorld) condemned(t *testing.T) (n int) {
	t.Helper()
	err := p.session(t.Context(), false, func(s *Session) error {
		n = len(s.vault.Log.State().PendingPacks())
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// failingReads fails the nth Get or List, in its stream where it has begun.
func failingReads(n int, hit *bool) func(backend.Backend) backend.Backend {
	left := &atomic.Int64{}
	left.Store(int64(n))
	return func(b backend.Backend) backend.Backend { return &readFailer{b, left, hit} }
}

type readFailer struct {
	backend.Backend
	left *atomic.Int64
	hit  *bool
}

var errNoRead = errors.New("the store does not answer")

func (f *readFailer) Get(ctx context.Context, name string, off, length int64) (io.ReadCloser, error) {
	if f.left.Add(-1) == 0 {
		*f.hit = true
		return nil, errNoRead
	}
	return f.Backend.Get(ctx, name, off, length)
}

func (f *readFailer) List(ctx context.Context, prefix string) iter.Seq2[backend.Info, error] {
	if f.left.Add(-1) != 0 {
		return f.Backend.List(ctx, prefix)
	}
	*f.hit = true
	return func(yield func(backend.Info, error) bool) {
		for info, err := range f.Backend.List(ctx, prefix) { // part of it, then the error
			if !yield(info, err) {
				return
			}
			break
		}
		yield(backend.Info{}, errNoRead)
	}
}

func wipeCache(w *faultWorld) error { return os.RemoveAll(filepath.Join(w.home, "cache")) }
