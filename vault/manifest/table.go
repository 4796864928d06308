package manifest

import (
	"context"
	"errors"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/wire"
)

// maxTableRows bounds the rows of a block-table page (docs/FORMAT.md §9), which
// is 40 KiB then.
const maxTableRows = 1024

// tableShape is the rule by which block tables are cut into pages: the rows at
// which a page ends in any case, and the bits of a row's ID that are zero after a
// page's last row. The zero value is the format's; tests use smaller pages.
type tableShape struct {
	bits uint
	rows int
}

func (s tableShape) ends(id chunk.ID, level, rows int) bool {
	if level > 0 && rows < 2 {
		return false
	}
	bits, limit := s.bits, s.rows
	if bits == 0 {
		bits = 8
	}
	if limit == 0 {
		limit = maxTableRows
	}
	return rows >= limit || !id.IsZero() && id[0]>>(8-bits) == 0
}

// tablePage is a page of a block table, checked as a whole, and a place in it.
type tablePage struct {
	d     wire.Decoder
	level int
	left  int    // rows that are still to be read
	rows  int    // of the page
	bytes uint64 // of the file below it
}

// parseTablePage checks a page and stands at its first row.
func parseTablePage(page []byte) (tablePage, error) {
	var p tablePage
	h := decodeHeader(&p.d, page, pageTableLeaf, pageTableInner, maxTableRows)
	p.level, p.rows, p.left = h.level, h.rows, h.rows
	scan := p
	if p.level == 0 {
		p.bytes = scan.scanExtents()
	} else {
		p.bytes = scan.scanChildren()
	}
	return p, scan.d.Done()
}

func (p *tablePage) scanExtents() uint64 {
	var sum extentSum
	for p.d.Err() == nil && p.left > 0 {
		if err := sum.add(p.extent()); err != nil {
			p.d.Fail("%v", err)
		}
	}
	return sum.bytes
}

func (p *tablePage) scanChildren() (sum uint64) {
	for p.d.Err() == nil && p.left > 0 {
		_, n := p.child()
		if n == 0 || n > MaxFileBytes-sum {
			p.d.Fail("%v", errFileSize)
		}
		sum += n
	}
	return sum
}

// extent reads the next row of a leaf.
func (p *tablePage) extent() Extent {
	p.left--
	return decodeExtent(&p.d)
}

// child reads the next row of an inner page.
func (p *tablePage) child() (id chunk.ID, bytes uint64) {
	p.left--
	id = decodeID(&p.d)
	return id, p.d.Uvarint(MaxFileBytes)
}

// readTablePage reads a page of which the row above it says its level (-1: it is
// the root, of any level) and how many bytes of the file are below it.
func readTablePage(ctx context.Context, r PageReader, id chunk.ID, level int, bytes uint64) (tablePage, error) {
	page, err := readPage(ctx, r, id)
	if err != nil {
		return tablePage{}, err
	}
	p, err := parseTablePage(page)
	if err == nil && level >= 0 && p.level != level {
		err = errors.New("level is not the one below that of the page above")
	}
	if err == nil && p.bytes != bytes {
		err = errors.New("extents don't add up to what the page above or the file says")
	}
	if err != nil {
		return tablePage{}, damagedPage(id, err)
	}
	return p, nil
}
