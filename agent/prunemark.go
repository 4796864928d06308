package agent

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/index"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// pruneCacheBytes bounds the decoded blocks of the index while a prune marks:
// chunks come in the order of files, and so from all over the index.
const pruneCacheBytes = 32 << 20

// partialAge is how old a PARTIAL may be: a job that goes on makes one every half
// hour. One that nobody goes on with would keep what it stored for ever; whoever
// does so later stores again what is gone.
const partialAge = 90 * 24 * time.Hour

// packUse is what a prune counts of a pack.
type packUse struct {
	typ    uint8
	run    int    // the first that has it
	length uint64 // bytes of the object
	rows   uint64 // of the index
	total  uint64 // bytes of its records, as stored
	live   uint64 // of them, those of needed chunks that are taken from this pack
	shadow uint64 // and those of needed chunks that are taken from another
	// last: it has a needed chunk that no usable pack has. It is not to be deleted,
	// whatever the log says of it.
	last bool
}

// survey opens the index, marks what the points need that there are, and counts.
func (p *prune) survey(ctx context.Context) (err error) {
	o := p.s.indexOptions(true)
	o.CacheBytes = pruneCacheBytes
	if p.index, err = p.s.vault.OpenIndex(ctx, o); err != nil {
		return p.unsure(err)
	}
	p.pages = p.s.pages(p.index)
	p.live = index.NewLive(p.index.Members()...)
	err = p.count(ctx)
	if isFinding(err) && p.over() {
		// What is hurt may be of a point that ends now, and then it keeps nothing. But
		// nothing is deleted before it ended.
		p.late = true
		err = p.countAgain(ctx, true)
	}
	if err != nil {
		return err
	}
	p.known = make(map[chunk.ID]struct{}, len(p.use))
	for id := range p.use {
		p.known[id] = struct{}{}
	}
	return nil
}

// recount goes over to the newest log, and marks and counts what it brought.
func (p *prune) recount(ctx context.Context) error {
	if err := p.s.refresh(ctx); err != nil {
		return err
	}
	if err := p.index.Refresh(ctx); err != nil {
		return p.unsure(err)
	}
	// Marks go with a run that goes, and those of the pages that led to its chunks may
	// stay: only a new walk marks all again.
	return p.countAgain(ctx, p.live.Replace(p.index.Members()...))
}

func (p *prune) countAgain(ctx context.Context, anew bool) error {
	if anew {
		p.live = index.NewLive(p.index.Members()...)
	}
	clear(p.proven)
	return p.count(ctx)
}

// catchUp is recount for who wants to go on at once: where other machines only added
// points, what those need is taken off what was counted as dead.
func (p *prune) catchUp(ctx context.Context) error {
	if err := p.s.refresh(ctx); err != nil {
		return err
	}
	if err := p.index.Refresh(ctx); err != nil {
		return p.unsure(err)
	}
	members := p.index.Members()
	if gone := p.live.Replace(members...); gone || p.s.vault.Log.State().Unusable() != p.lost {
		return p.countAgain(ctx, gone)
	}
	for _, m := range members {
		for pk, err := range m.Run.Packs(ctx) {
			if err != nil {
				return p.unsure(err)
			}
			if p.use[pk.ID] == nil { // new: not to be judged by this prune
				p.use[pk.ID] = &packUse{typ: pk.Type, length: pk.Length, total: pk.Length, live: pk.Length}
			}
		}
	}
	p.at = p.s.vault.Log.State().Used()
	if err := p.mark(ctx, p.needs); err != nil {
		return p.unsure(err)
	}
	return nil
}

// needs takes note of one more chunk or page that is needed.
func (p *prune) needs(ctx context.Context, id chunk.ID) error {
	locs, err := p.index.Find(ctx, id, nil)
	if err != nil {
		return err
	}
	taken := p.taken(locs)
	for i, l := range locs {
		u := p.use[l.Pack]
		switch {
		case u == nil:
		case i == taken:
			u.live++
		case taken >= 0:
			u.shadow++
			delete(p.proven, l.Pack)
		default:
			u.last = true
		}
	}
	return nil
}

// unsure says that nothing was announced, since not all is known.
func (p *prune) unsure(err error) error {
	return fmt.Errorf("find what the points need: %w; nothing was condemned", err)
}

func (p *prune) count(ctx context.Context) error {
	st := p.s.vault.Log.State()
	p.at, p.lost = st.Used(), st.Unusable()
	if err := p.mark(ctx, nil); err != nil {
		return p.unsure(err)
	}
	if err := p.tally(ctx); err != nil {
		return p.unsure(err)
	}
	return nil
}

// mark marks all that points and unfinished jobs need. Each distinct page is read
// once, also over several calls. The first error ends it: what cannot be read now
// may name anything. fresh, if not nil, is called for what was not marked before.
func (p *prune) mark(ctx context.Context, fresh func(context.Context, chunk.ID) error) error {
	mark := func(id chunk.ID) (before bool, err error) {
		found, before, err := p.live.Mark(ctx, id)
		switch {
		case err != nil:
			return false, err
		case !found:
			return false, fmt.Errorf("%w: chunk %s is in no index", key.ErrDamaged, id.Short())
		case !before && fresh != nil:
			return false, fresh(ctx, id)
		}
		return before, nil
	}
	pages := 0
	w := manifest.Walker{
		Reader: p.pages,
		Seen: func(page chunk.ID) (bool, error) {
			if pages++; pages%1024 == 0 {
				p.progress("mark", 0, 0)
			}
			return mark(page)
		},
		Visit: func(r manifest.Ref) (err error) {
			if !r.Page {
				_, err = mark(r.ID)
			}
			return err
		},
	}
	if err := p.markPoints(ctx, &w); err != nil {
		return err
	}
	return p.markPartials(ctx, &w)
}

// markPoints marks all that the points need that were not purged, the soft-deleted
// ones included.
func (p *prune) markPoints(ctx context.Context, w *manifest.Walker) error {
	for _, point := range p.s.vault.Log.State().Points() {
		if _, gone := p.ended[point.Point.ID]; gone {
			continue
		}
		for i := range point.Point.Sources {
			src := &point.Point.Sources[i]
			if src.Status == log.StatusFailed {
				continue
			}
			if err := w.Walk(ctx, src.Root); err != nil {
				return fmt.Errorf("point %s: %w", point.Point.ID, err)
			}
		}
	}
	return nil
}

// markPartials marks what unfinished jobs need.
func (p *prune) markPartials(ctx context.Context, w *manifest.Walker) error {
	for _, part := range p.s.vault.Log.State().Partials() {
		if p.now.Sub(time.Unix(0, part.Time)) >= partialAge {
			continue
		}
		if err := w.Walk(ctx, part.Source.Root); err != nil {
			return fmt.Errorf("unfinished job %s: %w", part.Point.ID, err)
		}
	}
	return nil
}

// present tells whether a pack may have the copy of a chunk that is kept: the log
// trusts it, and the store has it. One that came since the store was asked counts.
func (p *prune) present(id chunk.ID) bool {
	if !p.s.vault.Log.State().Usable(id) {
		return false
	}
	if _, old := p.known[id]; !old && p.known != nil {
		return true
	}
	u, info := p.use[id], p.packs[id]
	return u != nil && info.Name != "" && uint64(info.Size) == u.length
}

// before orders packs that have the same chunk; the first one's copy is kept. Those that
// go come last, and those that came while the prune runs before them: so nobody
// can push a copy out of what was counted and proven.
func (p *prune) before(a, b chunk.ID) bool {
	rank := func(id chunk.ID) int {
		_, goes := p.moved[id]
		_, ours := p.written[id]
		_, old := p.known[id]
		switch {
		case goes:
			return 2
		case old || ours || p.known == nil:
			return 0
		}
		return 1
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), a.Compare(b)) < 0
}

// taken chooses the place whose copy is kept; -1 where no pack is fit.
func (p *prune) taken(locs []index.Location) int {
	best := -1
	for i := range locs {
		if p.present(locs[i].Pack) && (best < 0 || p.before(locs[i].Pack, locs[best].Pack)) {
			best = i
		}
	}
	return best
}

// dead tells whether nothing needs a pack that the index names.
func (u *packUse) dead() bool { return u.live == 0 && !u.last }
