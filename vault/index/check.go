package index

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/stage"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// Check tells whether a run that was just written is what Write makes of dirs, by
// making it again and comparing every row with what the run, opened as a reader
// will, has. It returns stage.ErrSpoilt where they differ.
func Check(ctx context.Context, r *Run, dirs []pack.Directory) error {
	rw := newChecker(ctx, r)
	if err := writeRows(rw, dirs); err != nil {
		return err
	}
	_, err := rw.finish()
	return err
}

// CheckMerge tells the same of a run that Merge wrote, and reads all runs again.
func CheckMerge(ctx context.Context, r *Run, runs []*Run, keep func(pack chunk.ID) bool) error {
	_, err := mergeInto(ctx, newChecker(ctx, r), runs, keep)
	return err
}

// checker compares rows with those of a run, block by block in their order.
type checker struct {
	ctx context.Context
	run *Run
	buf [boxBufferBytes]byte
	got []byte
}

func newChecker(ctx context.Context, r *Run) *runWriter {
	rw := newRunWriter(nil, r.ring, r.id)
	rw.check = &checker{ctx: ctx, run: r}
	return rw
}

// block compares the rows of one block.
func (c *checker) block(number uint8, n uint32, rows []byte) error {
	l := &c.run.layout
	t := []*table{tablePacks: &l.packs, tableRecords: &l.records, tableChunks: &l.chunks}[number]
	if n >= blocks(t.rows) || len(rows) != t.rowsIn(n)*t.width {
		return c.differs("table %d has another length", number)
	}
	box := c.buf[:len(rows)+chunk.BoxOverhead]
	if err := c.run.src.ReadAt(c.ctx, box, t.begin+int64(n)*int64(t.boxBytes())); err != nil {
		return fmt.Errorf("check index run %s: %w", c.run.id.Short(), err)
	}
	got, err := c.run.openBlock(c.got[:0], t, n, box)
	if err != nil {
		return c.differs("%v", err)
	}
	c.got = got
	if !bytes.Equal(got, rows) {
		return c.differs("table %d, block %d has other rows", number, n)
	}
	return nil
}

// end compares what the footer says.
func (c *checker) end(counts Counts, fences []uint64) error {
	if counts != c.run.counts || !slices.Equal(fences, c.run.fences) {
		return c.differs("it has %+v, want %+v, or other fences", c.run.counts, counts)
	}
	return nil
}

func (c *checker) differs(format string, args ...any) error {
	return fmt.Errorf("check index run %s: %w: %s", c.run.id.Short(), stage.ErrSpoilt, fmt.Sprintf(format, args...))
}
