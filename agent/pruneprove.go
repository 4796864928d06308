package agent

import (
	"context"
	"errors"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/index"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// prove reads, for each pack that is to be condemned though it has needed chunks, the
// copies of them in other packs. What an index says of a copy is the word of the
// machine that wrote it; a pack whose chunks are not elsewhere, whole, stays.
func (p *prune) prove(ctx context.Context, packs []chunk.ID) error {
	var r *vault.RecordReader
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
		whole, err := p.elsewhere(ctx, r, id, u)
		if err != nil {
			return p.unsure(err)
		}
		if whole {
			p.proven[id] = struct{}{}
		} else {
			u.last = true
			p.s.log.Warn("keep a pack, since other copies of what it has cannot be read", "pack_id", id.Short())
		}
	}
	return nil
}

// elsewhere tells whether other packs have all needed chunks of a pack.
func (p *prune) elsewhere(ctx context.Context, r *vault.RecordReader, id chunk.ID, u *packUse) (bool, error) {
	dir, err := p.directory(ctx, id, u)
	if err != nil {
		if isFinding(err) {
			err = nil // what it has is not known
		}
		return false, err
	}
	var locs, kept []index.Location
	err = p.eachNeeded(ctx, &dir, func(c chunk.ID) (err error) {
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
