package index

import (
	"bytes"
	"context"
	"sort"

	"github.com/tharsis-backup/tharsis/chunk"
)

// Lookup appends all places of the chunk id in the run to dst, in the order of
// the table; none is no error. A chunk that is not there costs a block at most;
// each place costs a block of each table, less where they are in the cache.
func (r *Run) Lookup(ctx context.Context, id chunk.ID, dst []Location) ([]Location, error) {
	err := r.visit(ctx, id, func(l *Location) bool {
		dst = append(dst, *l)
		return true
	})
	return dst, err
}

// visit calls f for each place of id until it returns false.
func (r *Run) visit(ctx context.Context, id chunk.ID, f func(*Location) bool) error {
	return r.rows(ctx, id, func(_ uint32, row *ChunkRow) (bool, error) {
		l, err := r.locate(ctx, row)
		return err == nil && f(&l), err
	})
}

// rows calls f for each row of id in table 3, with its number, until it returns
// false.
func (r *Run) rows(ctx context.Context, id chunk.ID, f func(n uint32, row *ChunkRow) (bool, error)) error {
	p := prefix(id[:])
	// The first block whose fence is not below: the chunk may begin in the one before.
	next := sort.Search(len(r.fences), func(i int) bool { return r.fences[i] >= p })
	for n := max(next-1, 0); n < len(r.fences) && r.fences[n] <= p; n++ {
		b, err := r.block(ctx, &r.layout.chunks, uint32(n))
		if err != nil {
			return err
		}
		for i := searchBlock(b, id); i < len(b); i += chunkRowBytes {
			row := parseChunkRow(b[i:])
			if row.ID != id {
				return nil // a greater one: no later block has id
			}
			if more, err := f(uint32(n)*blockRows+uint32(i/chunkRowBytes), &row); !more || err != nil {
				return err
			}
		}
	}
	return nil
}

// searchBlock is the offset of the first row of b that is not below id.
func searchBlock(b []byte, id chunk.ID) int {
	p := prefix(id[:])
	low, high := 0, len(b)/chunkRowBytes
	for low < high {
		mid := (low + high) / 2
		row := b[mid*chunkRowBytes:]
		q := prefix(row)
		if q < p || q == p && bytes.Compare(row[8:32], id[8:]) < 0 {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low * chunkRowBytes
}

// locate follows a chunk's row to its record and its pack.
func (r *Run) locate(ctx context.Context, row *ChunkRow) (Location, error) {
	b, err := r.block(ctx, &r.layout.records, row.Record/blockRows)
	if err != nil {
		return Location{}, err
	}
	rec := parseRecordRow(b[row.Record%blockRows*recordRowBytes:])
	if wrong := row.checkIn(rec.Plain); wrong != "" {
		return Location{}, r.blockError(&r.layout.records, row.Record/blockRows, damaged("%s", wrong))
	}
	b, err = r.block(ctx, &r.layout.packs, rec.Pack/blockRows)
	if err != nil {
		return Location{}, err
	}
	p := parsePackRow(b[rec.Pack%blockRows*packRowBytes:])
	if wrong := rec.checkIn(&p); wrong != "" {
		return Location{}, r.blockError(&r.layout.packs, rec.Pack/blockRows, damaged("%s", wrong))
	}
	return Location{
		Pack: p.ID, Type: p.Type, PackLength: p.Length,
		Number: rec.Number, RecordOffset: rec.Offset, Stored: rec.Stored, Plain: rec.Plain, Codec: rec.Codec,
		Offset: row.Offset, Length: row.Length,
	}, nil
}
