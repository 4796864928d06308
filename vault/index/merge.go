package index

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"sort"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/key"
)

// mergeReadBytes bounds what the readers of a merge hold together (but one block
// a run at least). Besides it a merge needs 4 bytes for each pack of the new run
// and 8 for each pack of each old one, whatever the number of chunks, and the
// fences of all.
const mergeReadBytes = 4 << 20

// noPack stands for a pack that is not kept.
const noPack = ^uint32(0)

// Merge writes the run id (a fresh one of pack.NewID) with all that runs have to
// w, and returns its length. A pack that stands in several runs, and a place of a
// chunk, is written once. Packs that keep refuses are left out, with their
// records and chunks; it is asked once for each pack, and nil keeps all. The rows
// are those that Write makes of the directories of the kept packs. It returns
// ErrEmpty where no pack is kept. It reads each run once, from end to end.
func Merge(ctx context.Context, w io.Writer, ring *key.Ring, id chunk.ID, runs []*Run, keep func(pack chunk.ID) bool) (size int64, err error) {
	return mergeInto(ctx, newRunWriter(w, ring, id), runs, keep)
}

// mergeInto gives the rows of a merge to rw, and finishes it.
func mergeInto(ctx context.Context, rw *runWriter, runs []*Run, keep func(pack chunk.ID) bool) (size int64, err error) {
	m := merger{
		rw: rw, keep: keep,
		readAhead: mergeReadBytes / max(len(runs), 1),
	}
	for _, r := range runs {
		m.runs = append(m.runs, mergeRun{Run: r})
	}
	for _, step := range []func(context.Context) error{m.packs, m.records, m.chunks} {
		if err := step(ctx); err != nil {
			return 0, fmt.Errorf("merge index runs: %w", err)
		}
	}
	return m.rw.finish()
}

type merger struct {
	rw        *runWriter
	keep      func(chunk.ID) bool
	readAhead int
	runs      []mergeRun
	// first is the new row of each new pack's first record, and where the last ends.
	first []uint32
}

// mergeRun is an old run with what maps its rows to the new ones: since both the
// packs and the records of a pack keep their order, a new record row is the old
// one, moved with the first record of its pack.
type mergeRun struct {
	*Run
	packs []uint32 // old pack row -> new one, or noPack
	first []uint32 // old pack row -> its first record; and where the last ends
}

// packs merges table 1.
func (m *merger) packs(ctx context.Context) error {
	streams := make([]stream[PackRow], len(m.runs))
	for i := range m.runs {
		c := newCursor(m.runs[i].Run, &m.runs[i].layout.packs, m.readAhead)
		streams[i] = func() (PackRow, bool, error) {
			b, err := c.next(ctx)
			if b == nil {
				return PackRow{}, false, err
			}
			return parsePackRow(b), true, nil
		}
	}
	var last PackRow
	row := noPack
	return mergeStreams(streams, func(a, b *PackRow) int { return a.ID.Compare(b.ID) },
		func(p *PackRow, from int) error {
			switch {
			case p.ID != last.ID || last.Type == 0:
				last, row = *p, noPack
				if m.keep == nil || m.keep(p.ID) {
					row = m.rw.counts.Packs
					m.rw.pack(p)
				}
			case *p != last:
				return damaged("two runs differ on pack %s", p.ID.Short())
			}
			m.runs[from].packs = append(m.runs[from].packs, row)
			return m.rw.err
		})
}

// records merges table 2.
func (m *merger) records(ctx context.Context) error {
	streams := make([]stream[RecordRow], len(m.runs))
	for i := range m.runs {
		streams[i] = m.recordStream(ctx, &m.runs[i])
	}
	var last RecordRow
	err := mergeStreams(streams, compareRecordRows, func(r *RecordRow, _ int) error {
		if m.rw.counts.Records > 0 && compareRecordRows(&last, r) == 0 {
			if *r != last {
				return damaged("two runs differ on a record")
			}
			return nil
		}
		last = *r
		if int(r.Pack) == len(m.first) {
			m.first = append(m.first, m.rw.counts.Records)
		}
		m.rw.record(r)
		return m.rw.err
	})
	if err != nil {
		return err
	}
	m.first = append(m.first, m.rw.counts.Records)
	return m.checkRecordCounts()
}

// recordStream is the records of a run that are kept, with their new pack rows. It
// fills first on its way.
func (m *merger) recordStream(ctx context.Context, r *mergeRun) stream[RecordRow] {
	c := newCursor(r.Run, &r.layout.records, m.readAhead)
	n := uint32(0)
	return func() (RecordRow, bool, error) {
		for {
			b, err := c.next(ctx)
			if err != nil {
				return RecordRow{}, false, err
			}
			if b == nil {
				r.first = append(r.first, n)
				return RecordRow{}, false, nil
			}
			row := parseRecordRow(b)
			if int(row.Pack) == len(r.first) {
				r.first = append(r.first, n)
			}
			n++
			if row.Pack = r.packs[row.Pack]; row.Pack != noPack {
				return row, true, nil
			}
		}
	}
}

// checkRecordCounts refuses runs that know different records of one pack: the
// mapping of their chunks relies on it, and each run has all of a pack.
func (m *merger) checkRecordCounts() error {
	for i := range m.runs {
		r := &m.runs[i]
		for old, row := range r.packs {
			if row != noPack && r.first[old+1]-r.first[old] != m.first[row+1]-m.first[row] {
				return damaged("run %s misses records of a pack that another run has", r.id.Short())
			}
		}
	}
	return nil
}

// chunks merges table 3.
func (m *merger) chunks(ctx context.Context) error {
	streams := make([]stream[ChunkRow], len(m.runs))
	for i := range m.runs {
		streams[i] = m.chunkStream(ctx, &m.runs[i])
	}
	var last ChunkRow
	return mergeStreams(streams, compareChunkRows, func(r *ChunkRow, _ int) error {
		if m.rw.counts.Chunks > 0 && compareChunkRows(&last, r) == 0 {
			if *r != last {
				return damaged("two runs differ on chunk %s", r.ID.Short())
			}
			return nil
		}
		last = *r
		m.rw.chunk(r)
		return m.rw.err
	})
}

// chunkStream is the chunks of a run that are kept, with their new record rows.
func (m *merger) chunkStream(ctx context.Context, r *mergeRun) stream[ChunkRow] {
	c := newCursor(r.Run, &r.layout.chunks, m.readAhead)
	return func() (ChunkRow, bool, error) {
		for {
			b, err := c.next(ctx)
			if b == nil {
				return ChunkRow{}, false, err
			}
			row := parseChunkRow(b)
			old := packOf(r.first, row.Record)
			if p := r.packs[old]; p != noPack {
				row.Record += m.first[p] - r.first[old]
				return row, true, nil
			}
		}
	}
}

// packOf is the row of the pack that a record is of, by the first records of the packs:
// the last whose first record is not behind it.
func packOf(first []uint32, record uint32) int {
	return sort.Search(len(first), func(i int) bool { return first[i] > record }) - 1
}

func compareRecordRows(a, b *RecordRow) int {
	if c := cmp.Compare(a.Pack, b.Pack); c != 0 {
		return c
	}
	return cmp.Compare(a.Offset, b.Offset)
}
