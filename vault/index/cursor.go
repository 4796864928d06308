package index

import (
	"bytes"
	"context"
	"fmt"
	"iter"

	"github.com/tharsis-backup/tharsis/chunk"
)

// readAheadBytes is what an iterator reads at once: large enough that a disk or a
// request works at its full speed, small enough to have one for each table.
const readAheadBytes = 1 << 20

// cursor walks the rows of one table in order, with large reads, past the cache.
// It checks the order of rows across blocks, too.
type cursor struct {
	run    *Run
	table  *table
	buf    []byte // boxes read ahead
	boxes  []byte // the rest of them
	plain  []byte // the rows of the open block
	block  []byte // the rest of them
	last   []byte // copy of the last row of the block before
	number uint32 // of the next block
}

// newCursor walks t; it holds about readAhead bytes, at least a block.
func newCursor(r *Run, t *table, readAhead int) *cursor {
	ahead := min(uint32(readAhead/t.boxBytes())+1, blocks(t.rows))
	return &cursor{run: r, table: t, buf: make([]byte, 0, int(ahead)*t.boxBytes())}
}

// next returns the next row, valid until the next call, or nil at the end.
func (c *cursor) next(ctx context.Context) ([]byte, error) {
	if len(c.block) == 0 {
		if c.number == blocks(c.table.rows) {
			return nil, c.checkEnd()
		}
		if err := c.nextBlock(ctx); err != nil {
			return nil, err
		}
	}
	row := c.block[:c.table.width]
	c.block = c.block[c.table.width:]
	return row, nil
}

func (c *cursor) nextBlock(ctx context.Context) error {
	t, r := c.table, c.run
	if len(c.boxes) == 0 {
		off := t.begin + int64(c.number)*int64(t.boxBytes())
		c.boxes = c.buf[:min(int64(cap(c.buf)), t.end()-off)]
		if err := r.src.ReadAt(ctx, c.boxes, off); err != nil {
			return fmt.Errorf("read index run %s: %w", r.id.Short(), err)
		}
	}
	n := t.rowsIn(c.number)*t.width + chunk.BoxOverhead
	block, err := r.openBlock(c.plain[:0], t, c.number, c.boxes[:n])
	if err != nil {
		return err
	}
	if wrong := c.checkSeam(block); wrong != "" {
		return r.blockError(t, c.number, damaged("%s", wrong))
	}
	c.boxes, c.plain, c.block = c.boxes[n:], block, block
	c.last = append(c.last[:0], block[len(block)-t.width:]...)
	c.number++
	return nil
}

// checkSeam checks the first row of a block against the last of the one before.
func (c *cursor) checkSeam(block []byte) string {
	if c.number == 0 {
		if c.table.number == tableRecords && parseRecordRow(block).Pack != 0 {
			return "a pack has no record"
		}
		return ""
	}
	switch c.table.number {
	case tablePacks:
		if bytes.Compare(c.last[:32], block[:32]) >= 0 {
			return "packs are out of order"
		}
	case tableRecords:
		prev, row := parseRecordRow(c.last), parseRecordRow(block)
		return row.checkAfter(&prev)
	case tableChunks:
		prev, row := parseChunkRow(c.last), parseChunkRow(block)
		if compareChunkRows(&prev, &row) >= 0 {
			return "chunks are out of order"
		}
	}
	return ""
}

func (c *cursor) checkEnd() error {
	if c.table.number == tableRecords && parseRecordRow(c.last).Pack != c.run.counts.Packs-1 {
		return c.run.blockError(c.table, c.number-1, damaged("a pack has no record"))
	}
	return nil
}

// Packs walks table 1 in order: by pack ID. The number of a row is what
// RecordRow.Pack means. After an error it stops. It holds 1 MiB.
func (r *Run) Packs(ctx context.Context) iter.Seq2[PackRow, error] {
	return walk(ctx, r, &r.layout.packs, parsePackRow)
}

// Records walks table 2 in order: by pack and offset. Else it is as Packs.
func (r *Run) Records(ctx context.Context) iter.Seq2[RecordRow, error] {
	return walk(ctx, r, &r.layout.records, parseRecordRow)
}

// Chunks walks table 3 in order: by chunk ID, record and offset. Else it is as
// Packs.
func (r *Run) Chunks(ctx context.Context) iter.Seq2[ChunkRow, error] {
	return walk(ctx, r, &r.layout.chunks, parseChunkRow)
}

func walk[T any](ctx context.Context, r *Run, t *table, parse func([]byte) T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		c := newCursor(r, t, readAheadBytes)
		for {
			row, err := c.next(ctx)
			if err != nil {
				var zero T
				yield(zero, err)
				return
			}
			if row == nil || !yield(parse(row), nil) {
				return
			}
		}
	}
}
