package agent

import (
	"context"
	"fmt"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/index"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// pruneCacheBytes bounds the decoded blocks of the index while a prune marks:
// chunks come in the order of files, and so from all over the index.
const pruneCacheBytes = 32 << 20

// packUse is what a prune counts of a pack.
type packUse struct {
	typ    uint8
	run    int    // the first that has it
	length uint64 // bytes of the object
	rows   uint64 // of the index
	total  uint64 // bytes of its records, as stored
	live   uint64 // of them, those of needed chunks that are taken from this pack
	// last: it has a needed chunk that no usable pack has. It is not to be deleted,
	// whatever the log says of it.
	last bool
}

// survey opens the index, marks what points need, and counts.
func (p *prune) survey(ctx context.Context) (err error) {
	o := p.s.indexOptions(true)
	o.CacheBytes = pruneCacheBytes
	if p.index, err = p.s.vault.OpenIndex(ctx, o); err != nil {
		return p.unsure(err)
	}
	p.pages = p.s.pages(p.index)
	p.live = index.NewLive(p.index.Members()...)
	return p.count(ctx)
}

// recount goes over to the newest log, and marks and counts what it brought.
func (p *prune) recount(ctx context.Context) error {
	if err := p.s.refresh(ctx); err != nil {
		return err
	}
	if err := p.index.Refresh(ctx); err != nil {
		return p.unsure(err)
	}
	// Where a run went away, its marks went with it: the walk finds its pages
	// unmarked and goes through them again.
	p.live.Replace(p.index.Members()...)
	return p.count(ctx)
}

// unsure says that nothing was announced, since not all is known.
func (p *prune) unsure(err error) error {
	return fmt.Errorf("find what the points need: %w; nothing was condemned", err)
}

func (p *prune) count(ctx context.Context) error {
	p.at = p.s.vault.Log.Head()
	err := p.mark(ctx)
	if err == nil {
		err = p.tally(ctx)
	}
	switch {
	case err == nil:
		return nil
	case isFinding(err) && p.overtaken(ctx):
		// A page counts as marked before what it names is: all is marked again.
		p.live = index.NewLive()
		return p.recount(ctx)
	}
	return p.unsure(err)
}

// overtaken tells whether the log has grown since it was counted by: what was missed
// may have been of a point that another prune ended since.
func (p *prune) overtaken(ctx context.Context) bool {
	return p.s.refresh(ctx) == nil && p.s.vault.Log.Head() != p.at
}

// mark marks all that points and unfinished jobs need. Each distinct page is read
// once, also over several calls. The first error ends it: what cannot be read now
// may name anything.
func (p *prune) mark(ctx context.Context) error {
	var wrong error
	pages := int64(0)
	mark := func(id chunk.ID) (before bool) {
		found, before, err := p.live.Mark(ctx, id)
		switch {
		case err != nil:
			wrong = err
		case !found:
			wrong = fmt.Errorf("%w: chunk %s is in no index", key.ErrDamaged, id.Short())
		}
		return before && wrong == nil
	}
	w := manifest.Walker{
		Reader: p.pages,
		Seen: func(page chunk.ID) bool {
			if pages++; pages%1024 == 0 {
				p.progress("mark", 0, 0)
			}
			return mark(page)
		},
		Visit: func(r manifest.Ref) error {
			if !r.Page && wrong == nil {
				mark(r.ID)
			}
			return wrong
		},
	}
	for _, root := range p.roots() {
		if err := w.Walk(ctx, root); err != nil {
			return err
		}
		if wrong != nil {
			return wrong
		}
	}
	return nil
}

// roots are the manifests that are to be kept: of all points that were not purged,
// the soft-deleted ones included, and of unfinished jobs.
func (p *prune) roots() (roots []chunk.ID) {
	st := p.s.vault.Log.State()
	for _, point := range st.Points() {
		if _, gone := p.ended[point.Point.ID]; gone {
			continue
		}
		for i := range point.Point.Sources {
			if src := &point.Point.Sources[i]; src.Status != log.StatusFailed {
				roots = append(roots, src.Root)
			}
		}
	}
	for _, part := range st.Partials() {
		roots = append(roots, part.Source.Root)
	}
	return roots
}

// tally counts, for each pack, what of it is needed. Of a chunk that lies in
// several packs the first usable one counts, that of the newest run; the others
// are dead there. A needed chunk that no usable pack has makes all that still have
// it indispensable.
func (p *prune) tally(ctx context.Context) error {
	p.use = map[chunk.ID]*packUse{}
	// Of each record, the needed bytes of plaintext: 4 bytes a record, of which a
	// vault has one for each MiB of small files and for each large chunk.
	needs := make([][]uint32, len(p.index.Members()))
	for i, m := range p.index.Members() {
		needs[i] = make([]uint32, m.Run.Counts().Records)
		for pk, err := range m.Run.Packs(ctx) {
			if err != nil {
				return err
			}
			if p.use[pk.ID] == nil {
				p.use[pk.ID] = &packUse{typ: pk.Type, run: i, length: pk.Length}
			}
		}
	}
	if err := p.tallyChunks(ctx, needs); err != nil {
		return err
	}
	return p.tallyRecords(ctx, needs)
}

// tallyChunks finds from which pack each needed chunk is taken.
func (p *prune) tallyChunks(ctx context.Context, needs [][]uint32) error {
	st := p.s.vault.Log.State()
	return p.live.Each(ctx, func(id chunk.ID, needed bool, places []index.Place) error {
		taken, kept := false, false
		for i, pl := range places {
			u := p.use[pl.Pack]
			u.rows++
			if stands(places[:i], pl.Pack) {
				continue // the same place in another run
			}
			if needed && !taken && st.Usable(pl.Pack) {
				needs[pl.Run][pl.Record] += pl.Length
				taken = true
			}
		}
		for _, pl := range places {
			if needed && !taken && !st.Swept(pl.Pack) {
				p.use[pl.Pack].last, kept = true, true
			}
		}
		if needed && !taken && !kept {
			return fmt.Errorf("%w: chunk %s was deleted with its packs", key.ErrDamaged, id.Short())
		}
		return nil
	})
}

// tallyRecords makes of it what the packs hold: of a record that is needed in part,
// that part.
func (p *prune) tallyRecords(ctx context.Context, needs [][]uint32) error {
	var packs []*packUse
	for i, m := range p.index.Members() {
		packs = packs[:0]
		for pk, err := range m.Run.Packs(ctx) {
			if err != nil {
				return err
			}
			packs = append(packs, p.use[pk.ID])
		}
		n := 0
		for rec, err := range m.Run.Records(ctx) {
			if err != nil {
				return err
			}
			u := packs[rec.Pack]
			if u.run == i {
				u.total += uint64(rec.Stored)
			}
			if needs[i][n] > 0 { // at least one byte, so that the pack is not dead
				u.live += max(uint64(rec.Stored)*uint64(needs[i][n])/uint64(rec.Plain), 1)
			}
			n++
		}
	}
	return nil
}

func stands(places []index.Place, pack chunk.ID) bool {
	for i := range places {
		if places[i].Pack == pack {
			return true
		}
	}
	return false
}

// dead tells whether nothing needs a pack that the index names.
func (u *packUse) dead() bool { return u.live == 0 && !u.last }
