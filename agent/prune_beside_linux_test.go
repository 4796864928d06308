package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// TestPruneBesideReader lets a restore begin, then prunes until all that it read in
// the log and the index has moved and was deleted, and lets it go on.
func TestPruneBesideReader(t *testing.T) {
	ctx := t.Context()
	p := newPruneWorld(t)
	few, full := faultTree{".": {kind: 'd', mode: 0o755, tick: 2}}, faultTree{".": {kind: 'd', mode: 0o755, tick: 1}}
	for i := range 30 {
		n := faultNode{kind: 'f', data: strings.Repeat(fmt.Sprint(i, " "), 2000), mode: 0o644, tick: 100 + i}
		full[fmt.Sprint("f", i)] = n
		if i%6 == 0 {
			few[fmt.Sprint("f", i)] = n
		}
	}
	all, rest := p.r.add(full), p.r.add(few)
	first := p.backs(t, all)
	last := p.backs(t, rest)
	late := &faultWorld{home: p.home + "-late", vault: p.vault, clock: p.clock}
	err := late.session(ctx, false, func(s *Session) error {
		x, err := s.vault.OpenIndex(ctx, s.indexOptions(false))
		if err != nil {
			return err
		}
		blobs, page := s.vault.NewBlobs(), s.pages(x)
		src := s.vault.Log.State().Points()[1].Point.Sources[0]
		p.forgets(t, first)
		for range 3 {
			if _, err := p.prune(ctx, PruneOptions{Confirm: true}); err != nil {
				return err
			}
			p.later(15 * 24 * time.Hour)
		}
		if _, err := page.Page(ctx, src.Root); err != nil {
			return err
		}
		scratch, err := s.vault.NewScratch()
		if err != nil {
			return err
		}
		return eachChunk(ctx, page, src.Root, func(id chunk.ID) error {
			_, err := blobs.Chunk(ctx, x, id, scratch, nil)
			return err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	p.whole(t, map[string]int{last: rest})
}

// eachChunk calls f for each chunk of a manifest.
func eachChunk(ctx context.Context, r manifest.PageReader, root chunk.ID, f func(chunk.ID) error) error {
	return manifest.Pages(ctx, r, root, nil, func(ref manifest.Ref) error {
		if ref.Page {
			return nil
		}
		return f(ref.ID)
	})
}

// TestPruneFull prunes a vault on a disk without a byte left, several times over.
func TestPruneFull(t *testing.T) {
	ctx := t.Context()
	p := newFullWorld(t)
	var last string
	for round := range 3 {
		old := p.backs(t, p.r.fresh(round%3, 400_000))
		state := p.r.fresh((round+1)%3, 400_000)
		last = p.backs(t, state)
		p.forgets(t, old)
		fillAll(t, p.vault)
		for i := range 3 {
			if _, err := p.prune(ctx, PruneOptions{Confirm: true}); err != nil {
				t.Fatalf("round %d, prune %d of a full disk: %v", round, i, err)
			}
			p.later(15 * 24 * time.Hour)
		}
		empty(t, p.vault)
		p.whole(t, map[string]int{last: state})
		if _, err := os.Stat(filepath.Join(p.vault, "reserve.tmp")); err != nil {
			t.Error(err)
		}
		if err := p.session(ctx, false, func(s *Session) error {
			if n := len(s.vault.Log.State().Points()); n != round+1 {
				t.Errorf("%d points in round %d", n, round)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// newFullWorld has its vault on a small disk of its own.
func newFullWorld(t *testing.T) *pruneWorld {
	t.Helper()
	r := newFaultRig(t)
	p := &pruneWorld{faultWorld: r.world("box"), r: r, now: faultStart}
	smallDisk(t, p.vault, 16<<20)
	p.clock = func() time.Time { p.now = p.now.Add(time.Millisecond); return p.now }
	if err := p.init(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}

// fillAll leaves nothing of a disk, to the last block.
func fillAll(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for {
		if _, err := f.Write(make([]byte, 4096)); errors.Is(err, syscall.ENOSPC) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}
