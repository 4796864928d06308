package manifest

import (
	"context"
	"fmt"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/wire"
)

// TableBuilder writes the block table of one file from its extents in order.
// Most users want [ContentWriter]. It holds one unfinished page a level. The
// first error ends it.
type TableBuilder struct {
	w      PageWriter
	shape  tableShape
	levels [MaxLevel + 1]tableLevel
	sum    extentSum
	err    error
}

type tableLevel struct {
	buf    []byte // headerRoom bytes, then the rows
	rows   int
	bytes  uint64 // of the file below the page
	pages  uint64 // that ended
	lastID chunk.ID
}

// NewTableBuilder starts an empty block table.
func NewTableBuilder(w PageWriter) *TableBuilder { return &TableBuilder{w: w} }

// Add appends an extent. It rejects two holes in a row, lengths of 0, chunks of
// more than 8 MiB and a sum of 2^63 and more.
func (b *TableBuilder) Add(ctx context.Context, x Extent) error {
	if b.err != nil {
		return b.err
	}
	if b.err = b.sum.add(x); b.err != nil {
		b.err = fmt.Errorf("add extent to block table: %w", b.err)
		return b.err
	}
	l := &b.levels[0]
	l.begin()
	l.buf = appendExtent(l.buf, x)
	b.err = b.end(ctx, 0, x.ID, x.Length)
	return b.err
}

// Finish writes what is left and returns the root page and the sum of the
// extents. There must have been an extent.
func (b *TableBuilder) Finish(ctx context.Context) (root chunk.ID, bytes uint64, err error) {
	for i := 0; b.err == nil && b.sum.count > 0 && i < len(b.levels); i++ {
		l := &b.levels[i]
		unfinished, n := l.rows > 0, l.bytes
		if unfinished {
			b.err = b.put(ctx, i)
		}
		if b.err == nil && l.pages == 1 {
			b.err = errFinished
			return l.lastID, b.sum.bytes, nil
		}
		if b.err == nil && unfinished {
			b.err = b.addChild(ctx, i+1, l.lastID, n)
		}
	}
	if b.err == nil {
		b.err = errHeight
	}
	return chunk.ID{}, 0, b.err
}

func (b *TableBuilder) addChild(ctx context.Context, at int, id chunk.ID, bytes uint64) error {
	if at > MaxLevel {
		return errHeight
	}
	l := &b.levels[at]
	l.begin()
	l.buf = wire.AppendUvarint(append(l.buf, id[:]...), bytes)
	return b.end(ctx, at, id, bytes)
}

func (l *tableLevel) begin() {
	if l.rows == 0 {
		l.buf = append(l.buf[:0], make([]byte, headerRoom)...)
	}
}

// end ends a row, and the page with it where the rule says so.
func (b *TableBuilder) end(ctx context.Context, at int, id chunk.ID, bytes uint64) error {
	l := &b.levels[at]
	l.rows++
	l.bytes += bytes
	if !b.shape.ends(id, at, l.rows) {
		return nil
	}
	n := l.bytes
	if err := b.put(ctx, at); err != nil {
		return err
	}
	return b.addChild(ctx, at+1, l.lastID, n)
}

func (b *TableBuilder) put(ctx context.Context, at int) error {
	l := &b.levels[at]
	h := pageHeader{kind: pageTableInner, level: at, rows: l.rows}
	if at == 0 {
		h.kind = pageTableLeaf
	}
	id, err := b.w.PutPage(ctx, h.seal(l.buf))
	if err != nil {
		return fmt.Errorf("write block-table page: %w", err)
	}
	l.lastID, l.rows, l.bytes = id, 0, 0
	l.pages++
	return nil
}
