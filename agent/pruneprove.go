package agent

import (
	"context"

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
	dir, err := pack.ReadDirectory(ctx, p.s.backend, p.s.vault.Ring, u.typ, id, u.length)
	if err != nil {
		if isFinding(err) {
			err = nil // what it has is not known
		}
		return false, err
	}
	var locs, kept []index.Location
	for _, rec := range dir.Records {
		for _, c := range rec.Chunks {
			needed, err := p.live.Needed(ctx, c.ID)
			if err != nil {
				return false, err
			}
			if !needed {
				continue
			}
			if locs, err = p.index.Find(ctx, c.ID, locs[:0]); err != nil {
				return false, err
			}
			at := p.taken(locs)
			if at < 0 || locs[at].Pack == id {
				return false, nil
			}
			if _, ours := p.written[locs[at].Pack]; ours {
				continue // read back already
			}
			kept = kept[:0]
			for _, l := range locs {
				if l.Pack == locs[at].Pack {
					kept = append(kept, l)
				}
			}
			if _, _, err := r.Chunk(ctx, kept, c.ID); isFinding(err) {
				return false, nil
			} else if err != nil {
				return false, err
			}
		}
	}
	return true, nil
}
