package manifest

import (
	"bytes"
	"context"
	"io"

	"github.com/tharsis-backup/tharsis/chunk"
)

// Children calls fn for the direct children of a folder in key order, and passes
// their subtrees by: it reads the pages that hold children, and a page a level
// for each that has a large subtree. The arguments are valid until fn returns. A
// folder that isn't there has no children; look it up first.
func Children(ctx context.Context, r PageReader, root chunk.ID, folder []byte,
	fn func(name []byte, e *Entry) error) error {
	c := NewCursor(r, root)
	if err := c.Seek(ctx, append(bytes.Clone(folder), separator)); err != nil {
		return err
	}
	for {
		key, e, err := c.Next(ctx)
		if err == io.EOF || err == nil && !Below(key, folder) {
			return nil
		}
		if err != nil {
			return err
		}
		if parent, _ := Parent(key); !bytes.Equal(parent, folder) {
			return damagedf("entry %q without its folder", PathOf(key))
		}
		if err := fn(Name(key), e); err != nil {
			return err
		}
		if err := c.SkipSubtree(ctx); err != nil {
			return err
		}
	}
}

// SubtreeTotals counts the entry at folder and all below it, of the whole manifest
// for the empty key. It reads two pages a level at most, and takes the rest from
// the counts of inner pages.
func SubtreeTotals(ctx context.Context, r PageReader, root chunk.ID, folder []byte) (Totals, error) {
	if root.IsZero() {
		return Totals{}, errNoRoot
	}
	t := tree{r: r}
	if err := t.start(ctx, root); err != nil {
		return Totals{}, err
	}
	var after []byte // nil: all is below the root
	if len(folder) > 0 {
		after = appendAfter(nil, folder)
	}
	var sum Totals
	err := t.seek(ctx, folder)
	for err == nil && t.at != atEnd && (after == nil || bytes.Compare(t.key(), after) < 0) {
		if t.at == atRow {
			sum = sum.plus(Totals{Entries: 1, Bytes: t.leaf.entry.Size})
			err = t.advance()
			continue
		}
		if bound := t.bound(); after == nil || bound != nil && bytes.Compare(bound, after) <= 0 {
			sum = sum.plus(t.child().Totals)
			err = t.nextChild()
			continue
		}
		err = t.open(ctx)
	}
	return sum, err
}
