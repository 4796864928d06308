package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/tharsis-backup/tharsis/cache/extsort"
	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/index"
	"github.com/tharsis-backup/tharsis/vault/key"
)

// listSortBytes is how much of a list of packs is sorted in memory.
const listSortBytes = 2 << 20

// maxSights bounds the lengths that are remembered of one pack: index runs and a
// list name each once, and agree.
const maxSights = 64

// packSight is what index runs and a list say of one pack: its lengths.
type packSight struct {
	id            chunk.ID
	named, listed []uint64
}

// Keys of sorted records are a pack's ID and who speaks of it. The value is a length
// (u64).
const (
	packNamed  = 1
	packListed = 2
)

// comparePacks gives fn, by ID, each pack that the runs name or that the vault lists;
// it may keep nothing of it. The list is read to its end before. A run is taken as far
// as it can be read. Memory does not grow with the packs.
func (s *Session) comparePacks(ctx context.Context, runs []*index.Run, fn func(*packSight) error) error {
	sorter := extsort.New(s.cache.SpoolDir(), listSortBytes)
	defer sorter.Close()
	add := func(id chunk.ID, who byte, length uint64) error {
		if err := sorter.Add(append(id[:], who), binary.LittleEndian.AppendUint64(nil, length)); err != nil {
			return fmt.Errorf("sort packs: %w", err)
		}
		return nil
	}
	for _, r := range runs {
		for p, err := range r.Packs(ctx) {
			if errors.Is(err, key.ErrDamaged) {
				break
			}
			if err != nil {
				return err
			}
			if err := add(p.ID, packNamed, p.Length); err != nil {
				return err
			}
		}
	}
	for p, err := range s.direct.ListedPacks(ctx) {
		if err != nil {
			return err
		}
		if err := add(p.ID, packListed, uint64(p.Size)); err != nil {
			return err
		}
	}
	it, err := sorter.Sort(ctx)
	if err != nil {
		return fmt.Errorf("sort packs: %w", err)
	}
	defer it.Close()
	return eachSight(it, fn)
}

func eachSight(it *extsort.Iterator, fn func(*packSight) error) error {
	var p packSight
	for n := 0; ; n++ {
		k, v, err := it.Next()
		ended := errors.Is(err, io.EOF)
		if err != nil && !ended {
			return fmt.Errorf("sort packs: %w", err)
		}
		if n > 0 && (ended || chunk.ID(k[:len(p.id)]) != p.id) {
			if err := fn(&p); err != nil {
				return err
			}
		}
		if ended {
			return nil
		}
		if id := chunk.ID(k[:len(p.id)]); n == 0 || id != p.id {
			p = packSight{id, p.named[:0], p.listed[:0]}
		}
		to := &p.named
		if k[len(p.id)] == packListed {
			to = &p.listed
		}
		if len(*to) < maxSights {
			*to = append(*to, binary.LittleEndian.Uint64(v))
		}
	}
}
