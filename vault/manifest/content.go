package manifest

import (
	"context"
	"io"
	"iter"

	"github.com/tharsis-backup/tharsis/chunk"
)

// ContentWriter collects the extents of one file as they become known and puts
// them where the format wants them: into the entry, or from [MaxInlineExtents] on
// into a block table. It joins neighbouring holes. It holds a few pages at most,
// so a file may have any number of extents.
type ContentWriter struct {
	w      PageWriter
	last   Extent   // not passed on yet: the next extent may prolong it
	inline []Extent // while there is no table
	table  *TableBuilder
	shape  tableShape
}

// NewContentWriter starts the content of a file; without extents it is empty.
func NewContentWriter(w PageWriter) *ContentWriter { return &ContentWriter{w: w} }

// Add appends an extent. An error ends the writer.
func (c *ContentWriter) Add(ctx context.Context, x Extent) error {
	if x.Length == 0 {
		return errExtentLength
	}
	if c.last.Length > 0 && c.last.Hole() && x.Hole() {
		c.last.Length = saturate(c.last.Length, x.Length) // too much is refused when it is passed on
		return nil
	}
	last := c.last
	c.last = x
	if last.Length == 0 {
		return nil
	}
	return c.pass(ctx, last)
}

func (c *ContentWriter) pass(ctx context.Context, x Extent) error {
	if c.table == nil && len(c.inline) < MaxInlineExtents {
		c.inline = append(c.inline, x)
		return nil
	}
	if c.table == nil {
		c.table = NewTableBuilder(c.w)
		c.table.shape = c.shape
		for _, x := range c.inline {
			if err := c.table.Add(ctx, x); err != nil {
				return err
			}
		}
	}
	return c.table.Add(ctx, x)
}

// Finish sets e's Size, Extents and Table to the content, and makes the writer
// ready for another file.
func (c *ContentWriter) Finish(ctx context.Context, e *Entry) error {
	if c.last.Length > 0 {
		if err := c.pass(ctx, c.last); err != nil {
			return err
		}
	}
	e.Extents, e.Table = append(e.Extents[:0], c.inline...), chunk.ID{}
	var sum extentSum
	for _, x := range c.inline {
		if err := sum.add(x); err != nil {
			return err
		}
	}
	e.Size = sum.bytes
	if c.table != nil {
		e.Extents = e.Extents[:0]
		var err error
		if e.Table, e.Size, err = c.table.Finish(ctx); err != nil {
			return err
		}
	}
	*c = ContentWriter{w: c.w, inline: c.inline[:0], shape: c.shape}
	return nil
}

// WriteContent sets the content of e to the extents, as [ContentWriter] does.
func WriteContent(ctx context.Context, w PageWriter, e *Entry, extents iter.Seq2[Extent, error]) error {
	c := NewContentWriter(w)
	for x, err := range extents {
		if err != nil {
			return err
		}
		if err := c.Add(ctx, x); err != nil {
			return err
		}
	}
	return c.Finish(ctx, e)
}

// Extents gives the extents of a file in order, from the entry or from its block
// table, and an error where they cannot be read or don't add up to e.Size.
// e must not change meanwhile.
func Extents(ctx context.Context, r PageReader, e *Entry) iter.Seq2[Extent, error] {
	if !e.Table.IsZero() {
		return tableExtents(ctx, r, e)
	}
	return func(yield func(Extent, error) bool) {
		var sum extentSum
		for _, x := range e.Extents {
			if err := sum.add(x); err != nil {
				yield(Extent{}, damagedf("extents: %v", err))
				return
			}
			if !yield(x, nil) {
				return
			}
		}
		if sum.bytes != e.Size {
			yield(Extent{}, damagedf("extents of %d bytes in a file of %d", sum.bytes, e.Size))
		}
	}
}

func tableExtents(ctx context.Context, r PageReader, e *Entry) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		c := NewTableCursor(r, e.Table, e.Size)
		n := 0
		for {
			_, x, err := c.Next(ctx)
			switch { // io.EOF itself: a reader's error may wrap it
			case err == io.EOF && n > MaxInlineExtents:
				return
			case err == io.EOF:
				yield(Extent{}, damagedf("block table %s: only %d extents", e.Table.Short(), n))
				return
			case err != nil:
				yield(Extent{}, err)
				return
			}
			if n++; !yield(x, nil) {
				return
			}
		}
	}
}
