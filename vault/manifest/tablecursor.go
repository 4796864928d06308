package manifest

import (
	"context"
	"io"

	"github.com/tharsis-backup/tharsis/chunk"
)

// TableCursor reads the extents of a block table in order, from any offset. It
// checks each page that it reads and that they fit together, and holds a page a
// level. It does not check that the table is needed at all; [Extents] does.
type TableCursor struct {
	r      PageReader
	root   chunk.ID
	size   uint64
	opened bool
	pages  []tablePage // from the root down to the leaf
	off    uint64
	hole   bool // the extent before was a hole
}

// NewTableCursor stands at the first extent of the table of a file of this size.
func NewTableCursor(r PageReader, root chunk.ID, size uint64) *TableCursor {
	return &TableCursor{r: r, root: root, size: size}
}

// Next returns the next extent and the offset in the file at which it begins, or io.EOF.
func (c *TableCursor) Next(ctx context.Context) (off uint64, x Extent, err error) {
	if !c.opened {
		if err := c.SeekOffset(ctx, 0); err != nil {
			return 0, Extent{}, err
		}
	}
	if err := c.toLeaf(ctx); err != nil {
		return 0, Extent{}, err
	}
	x = c.top().extent()
	off = c.off
	c.off += x.Length
	if x.Hole() && c.hole {
		return 0, Extent{}, damagedf("block table %s: %v", c.root.Short(), errTwoHoles)
	}
	c.hole = x.Hole()
	return off, x, nil
}

// SeekOffset goes to the extent that holds the byte at off; from off = size on
// to the end. It reads a page a level.
func (c *TableCursor) SeekOffset(ctx context.Context, off uint64) error {
	c.pages, c.off, c.hole, c.opened = c.pages[:0], 0, false, false
	if err := c.push(ctx, c.root, -1, c.size); err != nil {
		return err
	}
	c.opened = true
	for len(c.pages) > 0 {
		p := c.top()
		if p.left == 0 {
			c.pop()
			continue
		}
		if p.level == 0 {
			before := *p
			x := p.extent()
			if off < c.off+x.Length {
				*p = before
				return nil
			}
			c.off += x.Length
			continue
		}
		id, n := p.child()
		if off >= c.off+n {
			c.off += n
			continue
		}
		if err := c.push(ctx, id, p.level-1, n); err != nil {
			c.opened = false
			return err
		}
	}
	return nil
}

// toLeaf opens pages until the top one is a leaf with a row left.
func (c *TableCursor) toLeaf(ctx context.Context) error {
	for len(c.pages) > 0 {
		p := c.top()
		if p.left == 0 {
			c.pop()
			continue
		}
		if p.level == 0 {
			return nil
		}
		before := *p
		id, n := p.child()
		if err := c.push(ctx, id, p.level-1, n); err != nil {
			*c.top() = before
			return err
		}
	}
	return io.EOF
}

func (c *TableCursor) top() *tablePage { return &c.pages[len(c.pages)-1] }

func (c *TableCursor) pop() { c.pages = c.pages[:len(c.pages)-1] }

func (c *TableCursor) push(ctx context.Context, id chunk.ID, level int, bytes uint64) error {
	p, err := readTablePage(ctx, c.r, id, level, bytes)
	if err != nil {
		return err
	}
	c.pages = append(c.pages, p)
	return nil
}
