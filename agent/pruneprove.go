package agent

import (
	"context"
	"errors"
	"slices"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/index"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// blindAtOnce bounds for how many packs without a readable directory the index is
// gone through once, and with that the chunks of packs that are in memory.
const blindAtOnce = 8

// prove reads, for each pack that is to be condemned though it has needed chunks, the
// copies of them in other packs. What an index says of a copy is the word of the
// machine that wrote it; a pack whose chunks are not elsewhere, whole, stays.
//
// Which chunks these are says the pack's own directory. Of a pack that is lost, or whose
// directory is, the index has to say it, once the log took trust from it: else it would
// wait for its end for ever.
func (p *prune) prove(ctx context.Context, packs []chunk.ID) error {
	var r *vault.RecordReader
	var blind []chunk.ID
	st := p.s.vault.Log.State()
	for _, id := range packs {
		u := p.use[id]
		if _, done := p.proven[id]; done || u == nil || u.shadow == 0 {
			continue
		}
		if r == nil {
			var err error
			if r, err = p.s.direct.NewRecordReader(); err != nil {
				return err
			}
		}
		dir, err := p.directory(ctx, id, u)
		switch {
		case err == nil:
			err = p.proveOne(ctx, r, id, func(fn func(chunk.ID) error) error { return p.eachNeeded(ctx, &dir, fn) })
		case !isFinding(err):
		case st.Usable(id): // what it has is not known
			p.keep(id)
			err = nil
		default:
			blind = append(blind, id)
			err = nil
		}
		if err != nil {
			return p.unsure(err)
		}
	}
	for some := range slices.Chunk(blind, blindAtOnce) {
		if err := p.proveBlind(ctx, r, some); err != nil {
			return p.unsure(err)
		}
	}
	return nil
}

// proveBlind is prove for packs of which only the index says what they have.
func (p *prune) proveBlind(ctx context.Context, r *vault.RecordReader, packs []chunk.ID) error {
	has := map[chunk.ID][]chunk.ID{}
	for _, id := range packs {
		has[id] = nil
	}
	err := p.live.Each(ctx, func(id chunk.ID, needed bool, places []index.Place) error {
		for _, pl := range places {
			if of, ok := has[pl.Pack]; ok && needed {
				has[pl.Pack] = append(of, id)
			}
		}
		return nil
	})
	for _, id := range packs {
		if err == nil {
			err = p.proveOne(ctx, r, id, func(fn func(chunk.ID) error) (err error) {
				for _, c := range has[id] {
					if err == nil {
						err = fn(c)
					}
				}
				return err
			})
		}
	}
	return err
}

// proveOne notes whether what is needed of a pack is elsewhere.
func (p *prune) proveOne(ctx context.Context, r *vault.RecordReader, id chunk.ID, each func(func(chunk.ID) error) error) error {
	whole, err := p.elsewhere(ctx, r, id, each)
	if err == nil && whole {
		p.proven[id] = struct{}{}
	} else if err == nil {
		p.keep(id)
	}
	return err
}

// keep lets a pack stay.
func (p *prune) keep(id chunk.ID) {
	p.use[id].last = true
	p.s.log.Warn("keep a pack, since other copies of what it has cannot be read", "pack_id", id.Short())
}

// elsewhere tells whether other packs have, whole, all chunks of a pack that each gives.
func (p *prune) elsewhere(ctx context.Context, r *vault.RecordReader, id chunk.ID, each func(func(chunk.ID) error) error) (bool, error) {
	var locs, kept []index.Location
	err := each(func(c chunk.ID) (err error) {
		if locs, err = p.index.Find(ctx, c, locs[:0]); err != nil {
			return err
		}
		at := p.taken(locs)
		if at < 0 || locs[at].Pack == id {
			return errOnlyHere
		}
		if _, ours := p.written[locs[at].Pack]; ours {
			return nil // read back already
		}
		kept = kept[:0]
		for _, l := range locs {
			if l.Pack == locs[at].Pack {
				kept = append(kept, l)
			}
		}
		if _, _, err = r.Chunk(ctx, kept, c); isFinding(err) {
			return errOnlyHere
		}
		return err
	})
	if errors.Is(err, errOnlyHere) {
		return false, nil
	}
	return err == nil, err
}

// errOnlyHere ends the search for what a pack has elsewhere.
var errOnlyHere = errors.New("no other pack has it")

// directory reads the directory of a pack.
func (p *prune) directory(ctx context.Context, id chunk.ID, u *packUse) (pack.Directory, error) {
	return pack.ReadDirectory(ctx, p.s.backend, p.s.vault.Ring, u.typ, id, u.length)
}

// eachNeeded calls fn for the chunks and pages of a pack that are needed, in its order.
func (p *prune) eachNeeded(ctx context.Context, dir *pack.Directory, fn func(chunk.ID) error) error {
	for _, rec := range dir.Records {
		for _, c := range rec.Chunks {
			needed, err := p.live.Needed(ctx, c.ID)
			if err == nil && needed {
				err = fn(c.ID)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}
