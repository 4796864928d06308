package index

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// Salvage gives what a damaged run still says of the packs that want chooses, in the
// form of directories: for packs whose own directories cannot be read either. It
// passes over blocks that are damaged, and leaves records out of which a chunk's
// row is missing, and packs without a record. It holds the rows of the chosen packs.
func (r *Run) Salvage(ctx context.Context, want func(pack chunk.ID) bool) ([]pack.Directory, error) {
	dirs := map[uint32]*pack.Directory{}    // by row in table 1
	records := map[uint32]*salvagedRecord{} // by row in table 2
	err := r.eachWhole(ctx, &r.layout.packs, func(n uint32, b []byte) {
		if p := parsePackRow(b); want(p.ID) {
			dirs[n] = &pack.Directory{ID: p.ID, Type: p.Type, Length: p.Length}
		}
	})
	if err != nil || len(dirs) == 0 {
		return nil, err
	}
	err = r.eachWhole(ctx, &r.layout.records, func(n uint32, b []byte) {
		if row := parseRecordRow(b); dirs[row.Pack] != nil {
			records[n] = &salvagedRecord{row: row}
		}
	})
	if err != nil {
		return nil, err
	}
	err = r.eachWhole(ctx, &r.layout.chunks, func(_ uint32, b []byte) {
		if row := parseChunkRow(b); records[row.Record] != nil {
			records[row.Record].chunks = append(records[row.Record].chunks, row)
		}
	})
	if err != nil {
		return nil, err
	}
	for _, rec := range records {
		if full, ok := rec.whole(); ok {
			d := dirs[rec.row.Pack]
			d.Records = append(d.Records, full)
		}
	}
	var out []pack.Directory
	for _, d := range dirs {
		slices.SortFunc(d.Records, func(a, b pack.Record) int { return cmp.Compare(a.Offset, b.Offset) })
		if len(d.Records) == 0 {
			continue
		}
		if _, err := checkDirectory(d); err == nil {
			out = append(out, *d)
		}
	}
	return out, nil
}

// salvagedRecord is a record with the chunks that were found of it.
type salvagedRecord struct {
	row    RecordRow
	chunks []ChunkRow
}

// whole gives the record as a directory has it, or false where a chunk is missing.
func (s *salvagedRecord) whole() (pack.Record, bool) {
	slices.SortFunc(s.chunks, func(a, b ChunkRow) int { return cmp.Compare(a.Offset, b.Offset) })
	rec := pack.Record{Number: s.row.Number, Codec: s.row.Codec, Plain: s.row.Plain, Stored: s.row.Stored, Offset: s.row.Offset}
	end := uint32(0)
	for _, c := range s.chunks {
		if c.Offset != end {
			return rec, false
		}
		rec.Chunks = append(rec.Chunks, pack.Chunk{ID: c.ID, Length: c.Length})
		end += c.Length
	}
	return rec, end == s.row.Plain
}

// eachWhole calls fn for the rows of all blocks of a table that are not damaged.
func (r *Run) eachWhole(ctx context.Context, t *table, fn func(n uint32, row []byte)) error {
	for n := range blocks(t.rows) {
		b, err := r.block(ctx, t, n)
		if errors.Is(err, key.ErrDamaged) {
			continue
		}
		if err != nil {
			return err
		}
		for i := range t.rowsIn(n) {
			fn(n*blockRows+uint32(i), b[i*t.width:][:t.width])
		}
	}
	return nil
}
