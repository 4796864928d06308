package index

import (
	"fmt"
	"io"
	"slices"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// Write writes the run id (a fresh one of pack.NewID) over the packs of dirs to
// w and returns its length. The rows are a function of the set of directories
// alone. It returns ErrEmpty where dirs is empty, and an error for two directories
// of one pack. It needs 48 bytes of memory a chunk; dirs is not changed. An index
// is rebuilt by reading the packs' directories and writing them.
func Write(w io.Writer, ring *key.Ring, id chunk.ID, dirs []pack.Directory) (size int64, err error) {
	rw := newRunWriter(w, ring, id)
	if err := writeRows(rw, dirs); err != nil {
		return 0, err
	}
	return rw.finish()
}

// writeRows gives the rows of all tables to rw.
func writeRows(rw *runWriter, dirs []pack.Directory) error {
	if len(dirs) == 0 {
		return ErrEmpty
	}
	sorted := slices.Clone(dirs)
	slices.SortFunc(sorted, func(a, b pack.Directory) int { return a.ID.Compare(b.ID) })
	total := 0
	for i := range sorted {
		if i > 0 && sorted[i].ID == sorted[i-1].ID {
			return fmt.Errorf("write index run: pack %s is listed twice", sorted[i].ID.Short())
		}
		n, err := checkDirectory(&sorted[i])
		if err != nil {
			return fmt.Errorf("write index run: %w", err)
		}
		total += n
	}
	for i := range sorted {
		rw.pack(&PackRow{sorted[i].ID, sorted[i].Type, sorted[i].Length})
	}
	rows := make([]ChunkRow, 0, total)
	for i := range sorted {
		for j := range sorted[i].Records {
			rows = appendChunks(rows, &sorted[i].Records[j], rw.counts.Records)
			rw.record(recordRow(uint32(i), &sorted[i].Records[j]))
		}
	}
	slices.SortFunc(rows, func(a, b ChunkRow) int { return compareChunkRows(&a, &b) })
	for i := range rows {
		rw.chunk(&rows[i])
	}
	return nil
}

func recordRow(packRow uint32, r *pack.Record) *RecordRow {
	return &RecordRow{packRow, r.Number, r.Offset, r.Stored, r.Plain, r.Codec}
}

func appendChunks(rows []ChunkRow, r *pack.Record, record uint32) []ChunkRow {
	offset := uint32(0)
	for _, c := range r.Chunks {
		rows = append(rows, ChunkRow{c.ID, record, offset, c.Length})
		offset += c.Length
	}
	return rows
}

// checkDirectory refuses what a reader of the run would, and counts the chunks.
func checkDirectory(d *pack.Directory) (chunks int, err error) {
	if err := d.Intact(); err != nil {
		return 0, err
	}
	p := PackRow{d.ID, d.Type, d.Length}
	if wrong := p.check(); wrong != "" {
		return 0, fmt.Errorf("directory of pack %s: %s", d.ID.Short(), wrong)
	}
	if len(d.Records) == 0 {
		return 0, fmt.Errorf("directory of pack %s: no records", d.ID.Short())
	}
	var prev RecordRow
	for i := range d.Records {
		r := recordRow(0, &d.Records[i])
		wrong := r.check(1)
		if wrong == "" {
			wrong = r.checkIn(&p)
		}
		if wrong == "" && i > 0 {
			wrong = r.checkAfter(&prev)
		}
		if err := d.Records[i].Check(); err != nil {
			wrong = err.Error()
		}
		if wrong != "" {
			return 0, fmt.Errorf("directory of pack %s, record %d: %s", d.ID.Short(), r.Number, wrong)
		}
		prev = *r
		chunks += len(d.Records[i].Chunks)
	}
	return chunks, nil
}
