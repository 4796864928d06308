package agent

import (
	"context"
	"fmt"
	"strings"
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
