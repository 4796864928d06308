package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/index"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

func randomID() (id chunk.ID) {
	rand.Read(id[:])
	return id
}

// Two runs that differ on a record, one of them forged by a member, make the prune panic.
func TestPrunedForgedRecordPanics(t *testing.T) {
	ctx := t.Context()
	p := newPruneWorld(t)
	p.timed(nil, nil)
	first, _, _ := p.fewOfMany(t)
	member := p.peer("member")
	small := filepath.Join(p.r.root, "small")
	os.Mkdir(small, 0o755)
	os.WriteFile(filepath.Join(small, "x"), []byte("x"), 0o644)
	if _, err := member.backup(ctx, small); err != nil {
		t.Fatal(err)
	}
	p.forgets(t, first)
	p.must(t, PruneOptions{})
	p.passes(t, 15)
	var forged pack.Directory
	err := member.session(ctx, true, func(s *Session) error {
		x, err := s.vault.OpenIndex(ctx, s.indexOptions(true))
		if err != nil {
			return err
		}
		var real *index.Location
		var dirs []pack.Directory
		l := index.NewLive(x.Members()...)
		var recs []pack.Record
		err = l.Each(ctx, func(id chunk.ID, _ bool, _ []index.Place) error {
			locs, err := x.Find(ctx, id, nil)
			if err != nil || locs[0].Type != key.TypeDataPack || locs[0].PackLength < 1<<20 || locs[0].Plain < 1_000_000 || locs[0].Offset == 0 {
				return err
			}
			if real == nil {
				real = &locs[0]
				recs = append(recs, pack.Record{Number: real.Number, Codec: 2, Plain: 3 << 20, Offset: real.RecordOffset,
					Stored: uint32(real.PackLength) - real.RecordOffset - 6000, Chunks: []pack.Chunk{{ID: randomID(), Length: 3 << 20}}})
			}
			if r := &recs[0]; locs[0].Number == real.Number && r.Plain+locs[0].Length <= 4<<20 {
				r.Plain += locs[0].Length
				r.Chunks = append(r.Chunks, pack.Chunk{ID: id, Length: locs[0].Length})
			}
			return nil
		})
		if err != nil {
			return err
		}
		dirs = append(dirs, pack.Directory{ID: real.Pack, Type: real.Type, Length: uint64(real.PackLength), Records: recs})
		forged = dirs[0]
		run := randomID()
		var b bytes.Buffer
		if _, err := index.Write(&b, s.vault.Ring, run, dirs); err != nil {
			return err
		}
		if err := backend.PutBytes(ctx, s.backend, index.Name(run), b.Bytes()); err != nil {
			return err
		}
		_, err = s.vault.Log.Append(ctx, s.machine.Key, func(*log.State) (log.Body, error) {
			return &log.Index{Adds: []chunk.ID{run}}, nil
		})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	p.session(ctx, false, func(s *Session) error {
		x, err := s.vault.OpenIndex(ctx, vault.IndexOptions{})
		t.Logf("%d runs %v, pack %s record %d, %d chunks", len(x.Runs()), err, forged.ID.Short(), forged.Records[0].Number, len(forged.Records[0].Chunks))
		locs, err := x.Find(ctx, forged.Records[0].Chunks[1].ID, nil)
		t.Logf("%+v %v", locs, err)
		return nil
	})
	defer func() {
		if r := recover(); r != nil {
			t.Errorf("panic: %v", r)
		}
	}()
	res, err := p.prune(ctx, PruneOptions{Confirm: true})
	t.Logf("%+v %v", res, err)
}

// A lost, quarantined pack: each prune writes an entry that says nothing.
func TestPrunedEmptyRepack(t *testing.T) {
	p := newPruneWorld(t)
	p.timed(nil, nil)
	p.backs(t, 0)
	var ids []chunk.ID
	p.beside(t, func(ctx context.Context, s *Session) (err error) {
		if ids, err = packsOfType(ctx, s, key.TypeDataPack); err != nil {
			return err
		}
		p.remove(ids)
		return s.asAdmin(ctx, t, p.faultWorld, &log.Quarantine{Packs: ids, Reason: "missing"})
	})
	head := func() (n uint64) {
		p.session(t.Context(), false, func(s *Session) error { n = s.vault.Log.Head().Seq; return nil })
		return n
	}
	was := head()
	for range 5 {
		if res, err := p.prune(t.Context(), PruneOptions{Confirm: true}); err != nil || res.Repacked > 0 {
			t.Logf("%+v %v", res, err)
		}
	}
	if now := head(); now != was {
		t.Errorf("five prunes with nothing to do wrote %d entries", now-was)
	}
}

// Another prune condemns something while this one repacks.
func TestPrunedRepackBesideCondemn(t *testing.T) {
	p := newPruneWorld(t)
	p.timed(nil, nil)
	first, _, _ := p.fewOfMany(t)
	p.forgets(t, first)
	p.must(t, PruneOptions{})
	p.passes(t, 15)
	var once sync.Once
	p.timed(func(name string) error {
		if strings.HasPrefix(name, "index/") {
			once.Do(func() {
				p.beside(t, func(ctx context.Context, s *Session) error {
					return s.asAdmin(ctx, t, p.faultWorld, &log.Quarantine{Packs: []chunk.ID{randomID()}, Reason: "another"})
				})
			})
		}
		return nil
	}, nil)
	before := p.vaultBytes(t)
	_, err := p.prune(t.Context(), PruneOptions{Confirm: true})
	if err != nil {
		t.Errorf("one entry by another machine (PUT publish): %v; %d bytes of work are orphans", err, p.vaultBytes(t)-before)
	}
}

// While a prune asks for --confirm, what was condemned long ago is not deleted either.
func TestPrunedQuestionBlocksSweep(t *testing.T) {
	p := newPruneWorld(t)
	p.timed(nil, nil)
	p.backs(t, 0)
	one := p.backs(t, p.r.fresh(0, 1_000_000))
	p.backs(t, 1)
	p.backs(t, 0)
	p.forgets(t, one)
	p.must(t, PruneOptions{})
	p.passes(t, 15)
	p.must(t, PruneOptions{Confirm: true})
	two := p.backs(t, p.r.fresh(0, 5_000_000))
	p.backs(t, 0)
	p.forgets(t, two)
	p.must(t, PruneOptions{Confirm: true, MaxRepack: -1})
	p.session(t.Context(), true, func(s *Session) error {
		info, _ := s.vault.Log.State().PointByPrefix(two)
		return s.asAdmin(t.Context(), t, p.faultWorld, &log.Purge{Points: []log.PointID{info.Point.ID}})
	})
	p.passes(t, 4)
	if res, err := p.prune(t.Context(), PruneOptions{}); !errors.Is(err, ErrConfirm) || res.FreedBytes == 0 {
		t.Errorf("condemned over 72 h ago, and not deleted: %+v, %v", res, err)
	}
}

// A COMMIT that needs what is dead comes between mark and CONDEMN.
func TestPrunedCommitBeforeCondemn(t *testing.T) {
	p := newPruneWorld(t)
	p.timed(nil, nil)
	p.backs(t, 0)
	state := p.r.fresh(0, 1_000_000)
	one := p.backs(t, state)
	p.backs(t, 0)
	p.backs(t, 1)
	p.forgets(t, one)
	p.must(t, PruneOptions{})
	p.passes(t, 15)
	other := p.peer("other")
	puts := 0
	var made string
	p.timed(func(name string) error {
		if strings.HasPrefix(name, "log/") {
			if puts++; puts == 2 {
				p.r.edit(state)
				res, err := other.backup(t.Context(), p.r.src)
				if err != nil {
					t.Error(err)
				}
				made = res.Point
				t.Logf("stored %d", res.BytesStored)
			}
		}
		return nil
	}, nil)
	res := p.must(t, PruneOptions{Confirm: true})
	t.Logf("%+v", res)
	if made == "" {
		t.Fatal("no hook")
	}
	if err := p.refsUsable(t, made); err != nil {
		t.Error(err)
	}
	p.passes(t, 4)
	p.timed(nil, nil)
	p.must(t, PruneOptions{Confirm: true})
	p.whole(t, map[string]int{made: state})
}

// A job is held up before its COMMIT, for longer than all graces; what it dedupes
// against and its own packs are condemned, swept and deleted.
func TestPrunedHeldUpJob(t *testing.T) {
	p := newPruneWorld(t)
	p.timed(nil, nil)
	p.backs(t, 0)
	state := p.r.fresh(0, 1_000_000)
	one := p.backs(t, state)
	p.backs(t, 0)
	p.backs(t, 1)
	p.forgets(t, one)
	p.must(t, PruneOptions{})
	other := p.peer("other")
	small := filepath.Join(p.r.root, "small")
	os.Mkdir(small, 0o755)
	os.WriteFile(filepath.Join(small, "x"), []byte("x"), 0o644)
	if _, err := other.backup(t.Context(), small); err != nil {
		t.Fatal(err)
	}
	for _, prefix := range []string{"packs/", "index/", "log/"} {
		var once sync.Once
		more := p.r.fresh(0, 1_000_000)
		p.r.edit(more)
		dirty := filepath.Join(p.r.src, "more")
		os.WriteFile(dirty, []byte(randomText(1000)), 0o644)
		swept := int64(0)
		other.wrap = func(b backend.Backend) backend.Backend {
			return &toldTime{b, func() time.Time { return p.now }, func(name string) error {
				if strings.HasPrefix(name, prefix) {
					once.Do(func() {
						p.passes(t, 15)
						r1 := p.must(t, PruneOptions{Confirm: true})
						p.passes(t, 4)
						r2 := p.must(t, PruneOptions{Confirm: true})
						swept = r1.Condemned + r2.Swept
					})
				}
				return nil
			}, nil}
		}
		res, err := other.backup(t.Context(), p.r.src)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d, %s", prefix, swept, res.Status)
		if err := p.refsUsable(t, res.Point); err != nil {
			t.Errorf("%s: %v", prefix, err)
		}
		dir, _ := os.MkdirTemp(p.r.root, "t-")
		rr, err := other.restore(t.Context(), res.Point, dir)
		if err != nil || rr.Failed > 0 {
			t.Errorf("%s: %v %+v", prefix, err, rr)
		}
		if err := faultSame(p.r.src, filepath.Join(dir, p.r.src)); err != nil {
			t.Errorf("%s: %v", prefix, err)
		}
		os.Remove(dirty)
		root := p.r.states[more]["."]
		ts := root.time()
		os.Chtimes(p.r.src, ts, ts)
		other.wrap = func(b backend.Backend) backend.Backend {
			return &toldTime{b, func() time.Time { return p.now }, nil, nil}
		}
	}
	_ = fmt.Sprint
}
