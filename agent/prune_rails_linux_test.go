package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/index"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// A home that never made a backup, and has the passphrase, prunes.
func TestPrunedPruneUnenrolled(t *testing.T) {
	p := newTimedWorld(t)
	dead := p.backs(t, p.r.fresh(0, 1_000_000))
	p.backs(t, 1)
	p.forgets(t, dead)
	admin := p.peer("admin")
	if _, err := admin.prune(t.Context(), PruneOptions{Confirm: true}); err != nil {
		t.Errorf("note: %v", err)
	}
	os.RemoveAll(admin.home)
	p.passes(t, 15)
	p.must(t, PruneOptions{Confirm: true})
	p.passes(t, 4)
	admin.secret = faultPass
	for range 2 {
		os.RemoveAll(admin.home) // as after `agent prune` in a container
		res, err := admin.prune(t.Context(), PruneOptions{Confirm: true})
		t.Logf("%+v %v", res, err)
		if err != nil {
			t.Errorf("%v", err)
		}
	}
}

// A dry run does not see orphans.
func TestPrunedDryRunOrphans(t *testing.T) {
	p := newTimedWorld(t)
	p.backs(t, p.r.fresh(0, 3_000_000))
	p.r.edit(p.r.fresh(1, 300_000))
	p.killedAtIndex(t)
	os.RemoveAll(filepath.Join(p.home, "cache"))
	p.timed(nil, nil)
	p.passes(t, 9)
	dry := p.must(t, PruneOptions{DryRun: true})
	res := p.must(t, PruneOptions{})
	if dry.Condemned != res.Condemned || dry.CondemnedBytes != res.CondemnedBytes {
		t.Errorf("dry run: %d packs, %d bytes; done: %d packs, %d bytes", dry.Condemned, dry.CondemnedBytes, res.Condemned, res.CondemnedBytes)
	}
	p.passes(t, 1)
	again := p.must(t, PruneOptions{})
	if again.PackBytes >= res.PackBytes && res.CondemnedBytes > 0 {
		t.Logf("PackBytes (\"not condemned\") %d, then %d, with %d condemned", res.PackBytes, again.PackBytes, res.CondemnedBytes)
	}
}

// A restore is under way while its packs are repacked, condemned and swept.
func TestPrunedRestoreBesideSweep(t *testing.T) {
	p := newTimedWorld(t)
	first, second, few := p.fewOfMany(t)
	p.deletes(t, PruneOptions{Confirm: true}, first)
	reader := p.peer("reader")
	var once sync.Once
	reader.wrap = func(b backend.Backend) backend.Backend {
		return &toldTime{b, func() time.Time { return p.now }, nil, func(name string) error {
			if strings.HasPrefix(name, "packs/") {
				once.Do(func() {
					p.must(t, PruneOptions{Confirm: true})
					p.passes(t, 4)
					res := p.must(t, PruneOptions{Confirm: true})
					t.Logf("swept %d", res.Swept)
				})
			}
			return nil
		}}
	}
	if err := reader.restoresTo(t.Context(), t, second, p.r.src, p.r.want[few]); err != nil {
		t.Errorf("the point is whole in the vault, and yet: %v", err)
	}
	p.whole(t, map[string]int{second: few})
}

// The same for a backup that carries over: it takes it for damage.
func TestPrunedBackupBesideSweep(t *testing.T) {
	p := newPruneWorld(t)
	p.notes = &faultNotes{}
	p.timed(nil, nil)
	for i := range 5 {
		p.backs(t, p.r.fresh(i%3, 1000*i))
	}
	last := p.backs(t, 1)
	_ = last
	var pts []string
	all, err := p.points(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, pt := range all[:len(all)-1] {
		pts = append(pts, pt.ID.String())
	}
	admin := p.peer("admin")
	small := filepath.Join(p.r.root, "small")
	os.Mkdir(small, 0o755)
	os.WriteFile(filepath.Join(small, "x"), []byte("x"), 0o644)
	if _, err := admin.backup(t.Context(), small); err != nil {
		t.Fatal(err)
	}
	p.deletes(t, PruneOptions{Confirm: true}, pts...)
	p.r.edit(0)
	os.RemoveAll(filepath.Join(p.home, "cache"))
	var once sync.Once
	p.timed(nil, func(name string) error {
		if strings.HasPrefix(name, "packs/") {
			once.Do(func() {
				p.beside(t, func(ctx context.Context, s *Session) error {
					// as where manySmall of them were there: their pages are written anew
					ids, err := packsOfType(ctx, s, key.TypeManifestPack)
					if err != nil {
						return err
					}
					return s.asAdmin(ctx, t, p.faultWorld, &log.Quarantine{Packs: ids, Reason: "test"})
				})
				for range 2 {
					res, err := admin.prune(t.Context(), PruneOptions{Confirm: true})
					t.Logf("%s: %+v %v", name, res, err)
					p.later(80 * time.Hour)
				}
			})
		}
		return nil
	})
	res, err := p.backup(t.Context(), p.r.src)
	if err != nil || res.Status != Completed {
		t.Errorf("nothing is damaged, and yet: %v %s: %s", err, res.Status, p.notes.text())
	}
}

// A member without the admin key names a run in which every chunk lies in a pack
// that does not exist. The honest prune, unasked, deletes the packs of all points.
func TestPrunedForgedRun(t *testing.T) {
	ctx := t.Context()
	p := newTimedWorld(t)
	state := p.r.fresh(0, 800_000)
	point := p.backs(t, state)
	member := p.peer("member")
	if _, err := member.backup(ctx, p.r.src); err != nil {
		t.Fatal(err)
	}
	err := member.session(ctx, true, func(s *Session) error {
		x, err := s.vault.OpenIndex(ctx, s.indexOptions(true))
		if err != nil {
			return err
		}
		var dirs []pack.Directory
		l := index.NewLive(x.Members()...)
		err = l.Each(ctx, func(id chunk.ID, _ bool, places []index.Place) error {
			locs, err := x.Find(ctx, id, nil)
			if err != nil || locs[0].Type != key.TypeDataPack {
				return err
			}
			fake, err := pack.NewID(rand.Reader)
			if err != nil {
				return err
			}
			dirs = append(dirs, pack.Directory{ID: fake, Type: key.TypeDataPack, Length: 200 << 20, Records: []pack.Record{{
				Number: 0, Codec: 1, Plain: locs[0].Length, Stored: locs[0].Length + chunk.BoxOverhead, Offset: key.HeaderBytes,
				Chunks: []pack.Chunk{{ID: id, Length: locs[0].Length}},
			}}})
			return nil
		})
		if err != nil {
			return err
		}
		run, err := pack.NewID(rand.Reader)
		if err != nil {
			return err
		}
		var b bytes.Buffer
		if _, err := index.Write(&b, s.vault.Ring, run, dirs); err != nil {
			return err
		}
		if err := backend.PutBytes(ctx, s.backend, index.Name(run), b.Bytes()); err != nil {
			return err
		}
		if s.keys.Admin != nil {
			t.Log("the member has an admin key; it does not use it")
		}
		_, err = s.vault.Log.Append(ctx, s.machine.Key, func(*log.State) (log.Body, error) {
			return &log.Index{Adds: []chunk.ID{run}}, nil
		})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.restoresTo(ctx, t, point, p.r.src, p.r.want[state]); err != nil {
		t.Fatalf("before a prune: %v", err)
	}
	r1 := p.must(t, PruneOptions{})
	p.passes(t, 4)
	r2 := p.must(t, PruneOptions{})
	t.Logf("%+v\n%+v", r1, r2)
	if err := p.restoresTo(ctx, t, point, p.r.src, p.r.want[state]); err != nil {
		t.Errorf("after two unattended prunes: %v", err)
	}
}

// The clock of a machine that merges is 4 days late: its superseded runs are
// deleted at once, though nobody confirmed anything.
func TestPrunedRunGraceByAnyClock(t *testing.T) {
	ctx := t.Context()
	p := newTimedWorld(t)
	for i := range 3 {
		p.backs(t, p.r.fresh(i, 1000))
	}
	other := p.peer("other")
	other.clock = func() time.Time { return p.now.Add(-96 * time.Hour) }
	if _, err := other.backup(ctx, p.r.src); err != nil {
		t.Fatal(err)
	}
	err := other.session(ctx, true, func(s *Session) error {
		x, err := s.vault.OpenIndex(ctx, s.indexOptions(true))
		if err != nil {
			return err
		}
		return s.mergeInto(ctx, x.Runs(), s.machine.Key)
	})
	if err != nil {
		t.Fatal(err)
	}
	res := p.must(t, PruneOptions{})
	if res.Swept > 0 {
		t.Errorf("%d runs were swept within a second of the merge: %+v", res.Swept, res)
	}
}

// A PARTIAL of a machine that never comes back.
func TestPrunedPartialForEver(t *testing.T) {
	ctx := t.Context()
	p := newTimedWorld(t)
	p.backs(t, 1)
	member := p.peer("member")
	if _, err := member.backup(ctx, p.r.src); err != nil {
		t.Fatal(err)
	}
	err := member.session(ctx, true, func(s *Session) error {
		st := s.vault.Log.State()
		pts := st.Points()
		pt := *pts[len(pts)-1].Point
		pt.ID = log.PointID{9}
		pt.Runs = nil
		pt.Sources = append([]log.Source(nil), pt.Sources...)
		pt.Sources[0].Path = "/gone"
		pt.Sources[0].ID = sourceID(s.machine.ID, "/gone")
		pt.Sources[0].Root = chunk.ID{1, 2, 3}
		_, err := s.vault.Log.Append(ctx, s.machine.Key, func(*log.State) (log.Body, error) { return &log.Partial{Point: pt}, nil })
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.prune(ctx, PruneOptions{Confirm: true}); err == nil {
		t.Error("a prune that could not read all that is needed")
	}
	p.passes(t, 91)
	if _, err := p.prune(ctx, PruneOptions{Confirm: true}); err != nil {
		t.Errorf("nobody goes on with the PARTIAL, and it blocks all prunes: %v", err)
	}
}

// An index of other machines that always write: it never condemns.
func TestPrunedBusyVault(t *testing.T) {
	ctx := t.Context()
	p := newTimedWorld(t)
	dead := p.backs(t, p.r.fresh(0, 500_000))
	p.backs(t, 1)
	p.deletes(t, PruneOptions{Confirm: true}, dead)
	p.must(t, PruneOptions{Confirm: true})
	p.passes(t, 4)
	tallies := 0
	var mu sync.Mutex
	writer := p.peer("writer")
	err := writer.session(ctx, false, func(s *Session) error {
		p.timed(func(name string) error {
			mu.Lock()
			defer mu.Unlock()
			if tallies < 200 && strings.HasPrefix(name, "log/") {
				tallies++
				// somebody brings back nothing, faster
				return s.asAdmin(ctx, t, p.faultWorld, &log.Unforget{Points: []log.PointID{{1}}})
			}
			return nil
		}, nil)
		res, err := p.prune(ctx, PruneOptions{Confirm: true})
		t.Logf("%+v %v after %d tries", res, err, tallies)
		if err != nil {
			t.Errorf("%v", err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// Vault of nothing but an orphan.
func TestPrunedPercent(t *testing.T) {
	p := newTimedWorld(t)
	p.r.edit(0)
	p.killedAtIndex(t)
	p.timed(nil, nil)
	p.passes(t, 9)
	_, err := p.prune(t.Context(), PruneOptions{})
	t.Logf("%v", err)
	if err != nil {
		t.Errorf("%v", err)
	}
}
