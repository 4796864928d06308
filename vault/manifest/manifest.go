// Package manifest holds the tables of a point: which files a source has, with
// their metadata and where their content is (docs/FORMAT.md §8 and §9).
//
// A manifest is a tree of pages over entries sorted by key. Its shape depends on
// its entries alone, so an unchanged range is the same page in every point: a
// point costs what changed, and two points are compared by skipping the pages
// that they share. [Builder] writes one, [Merge] applies changes to one, [Cursor]
// and [Get] read one, [Diff] compares two, [Walker] visits all that one needs.
// A file of more than [MaxInlineExtents] extents has a second tree of its own,
// the block table: [ContentWriter] writes it, [Extents] and [TableCursor] read it.
//
// Pages are plain bytes here. Storing them, their sealing and the check of their
// IDs are behind [PageReader] and [PageWriter].
//
// Errors: a page or an entry that no writer would have written gives an error
// that wraps key.ErrDamaged; errors of the two interfaces are wrapped and passed
// on. Every length read is checked before memory is allocated for it, levels
// decrease on the way down (there are no cycles), and what is held is a page a
// level, so hostile pages cost an error and no more.
//
// Concurrency: a Builder, a Cursor and the like belong to one goroutine; several
// of them may share one PageReader.
//
// It does not decide what goes into a manifest, and knows no file system.
package manifest

import (
	"context"
	"fmt"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/key"
)

// Limits of the format (docs/FORMAT.md §8, §9, §13).
const (
	// MaxPageBytes bounds the plaintext of a page, and with it a reader's memory.
	MaxPageBytes = 1 << 20
	// MaxLevel bounds the height of a tree, and with it a reader's stack. Inner
	// pages have two rows at least, in practice a hundred.
	MaxLevel = 16
	// MaxInlineExtents is how many extents an entry holds itself.
	MaxInlineExtents = 16
	// MaxInlineXattrs is how many bytes of an attribute set an entry holds itself.
	MaxInlineXattrs = 128
	// MaxFileBytes bounds the size of a file; file systems end there.
	MaxFileBytes = 1<<63 - 1

	// maxChunkBytes bounds a chunk, and so an extent that is no hole.
	maxChunkBytes = 8 << 20
	// maxPageRows bounds the rows of a manifest page. The size of a page keeps
	// an honest writer far below it.
	maxPageRows = 65536
)

// PageReader gives pages by their ID.
type PageReader interface {
	// Page returns the plaintext of a page after its ID was checked against
	// it. Nobody changes the bytes afterwards, so the caller may keep them; the
	// caller doesn't change them either. It must be safe for concurrent use if
	// several readers share it.
	Page(ctx context.Context, id chunk.ID) ([]byte, error)
}

// PageWriter stores pages.
type PageWriter interface {
	// PutPage computes the ID of a page and stores the page unless it is stored
	// already. It doesn't keep plaintext.
	PutPage(ctx context.Context, plaintext []byte) (chunk.ID, error)
}

// Totals count what is in a manifest or below one of its pages.
type Totals struct {
	Entries uint64
	Bytes   uint64 // the sum of the files' sizes; sparse files can saturate it
}

// plus adds without overflow: at the top it stays there, so that the result does
// not depend on the order.
func (t Totals) plus(u Totals) Totals {
	return Totals{saturate(t.Entries, u.Entries), saturate(t.Bytes, u.Bytes)}
}

func saturate(a, b uint64) uint64 {
	if a+b < a {
		return 1<<64 - 1
	}
	return a + b
}

// ChildRef is a row of an inner page: the page below it and what that holds.
type ChildRef struct {
	Key    []byte // the first key below it
	ID     chunk.ID
	Level  int // of the page that it names: 0 for a leaf
	Totals Totals
}

func damagedPage(id chunk.ID, err error) error {
	return fmt.Errorf("%w: page %s: %w", key.ErrDamaged, id.Short(), err)
}

func damagedf(format string, args ...any) error {
	return fmt.Errorf("%w: %s", key.ErrDamaged, fmt.Sprintf(format, args...))
}

func readPage(ctx context.Context, r PageReader, id chunk.ID) ([]byte, error) {
	page, err := r.Page(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("read page %s: %w", id.Short(), err)
	}
	return page, nil
}
