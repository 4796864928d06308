package agent

import (
	"context"
	"fmt"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/index"
	"github.com/tharsis-backup/tharsis/vault/key"
)

// neededBytes are bytes of a record's plaintext: of chunks whose copy in this record is
// kept, and of chunks that are kept elsewhere. A vault has a record for each MiB of
// small files and for each large chunk.
type neededBytes struct{ kept, shadow uint32 }

// tally counts, for each pack, what of it is needed. Of a chunk that lies in several
// packs one copy is kept, and the others are dead where they are. A needed chunk
// that no pack has that is trusted and there makes all that may still have it
// indispensable.
func (p *prune) tally(ctx context.Context) error {
	p.use = map[chunk.ID]*packUse{}
	needs := make([][]neededBytes, len(p.index.Members()))
	for i, m := range p.index.Members() {
		needs[i] = make([]neededBytes, m.Run.Counts().Records)
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

// tallyChunks finds which copy of each needed chunk is kept.
func (p *prune) tallyChunks(ctx context.Context, needs [][]neededBytes) error {
	st := p.s.vault.Log.State()
	return p.live.Each(ctx, func(id chunk.ID, needed bool, places []index.Place) error {
		kept := -1
		for i, pl := range places {
			p.use[pl.Pack].rows++
			if needed && p.present(pl.Pack) && (kept < 0 || p.before(pl.Pack, places[kept].Pack)) {
				kept = i
			}
		}
		if !needed {
			return nil
		}
		left := kept >= 0
		for i, pl := range places {
			n := &needs[pl.Run][pl.Record]
			switch {
			case i == kept:
				n.kept += pl.Length
			case kept >= 0 && pl.Pack == places[kept].Pack: // the same place in another run
			case kept >= 0:
				n.shadow += pl.Length
			case !st.Swept(pl.Pack):
				p.use[pl.Pack].last, left = true, true
			}
		}
		if !left {
			return fmt.Errorf("%w: chunk %s was deleted with its packs", key.ErrDamaged, id.Short())
		}
		return nil
	})
}

// tallyRecords makes of it what the packs hold: of a record that is needed in part,
// that part.
func (p *prune) tallyRecords(ctx context.Context, needs [][]neededBytes) error {
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
			u, need := packs[rec.Pack], needs[i][n]
			if u.run == i {
				u.total += uint64(rec.Stored)
			}
			u.live += shareOf(rec.Stored, need.kept, rec.Plain)
			u.shadow += shareOf(rec.Stored, need.shadow, rec.Plain)
			n++
		}
	}
	return nil
}

// shareOf is the part of a record's stored bytes that some of its plaintext has: a
// byte at least, so that a pack with anything needed is not dead.
func shareOf(stored, some, plain uint32) uint64 {
	if some == 0 {
		return 0
	}
	return max(uint64(stored)*uint64(some)/uint64(plain), 1)
}
