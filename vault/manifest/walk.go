package manifest

import (
	"context"

	"github.com/tharsis-backup/tharsis/chunk"
)

// Ref is something that a manifest needs the vault to hold.
type Ref struct {
	ID     chunk.ID
	Page   bool   // a page; else a chunk
	Length uint64 // bytes, of a chunk
}

// Walker visits what manifests are made of: their pages, the pages of block tables,
// and the chunks that they name. It holds a page a level of each tree.
type Walker struct {
	Reader PageReader
	// Seen is asked once before each reference to a page; where it is true, the page
	// and all below it are passed by. It should remember the pages that it was
	// asked for, so that one shared by many manifests is read once. Its error ends
	// the walk. Nil: never.
	Seen func(page chunk.ID) (bool, error)
	// Visit is called for each page before it is read and for each reference to
	// a chunk, repeated ones included. Its error ends the walk.
	Visit func(Ref) error
	// Damaged is called where a page can't be read or is not what it should be,
	// with the key of the entry it belongs to or begins with. The walk goes on
	// behind that page unless it returns an error. Nil: the first error ends the walk.
	Damaged func(key []byte, page chunk.ID, err error) error
}

// Pages visits the pages and chunks of a manifest; see [Walker]. The first error ends it.
func Pages(ctx context.Context, r PageReader, root chunk.ID, seen func(page chunk.ID) (bool, error),
	visit func(Ref) error) error {
	w := Walker{Reader: r, Seen: seen, Visit: visit}
	return w.Walk(ctx, root)
}

// Walk visits what is below the root of one manifest.
func (w *Walker) Walk(ctx context.Context, root chunk.ID) error {
	if seen, err := w.seen(root); seen || err != nil {
		return err
	}
	if err := w.Visit(Ref{ID: root, Page: true}); err != nil {
		return err
	}
	t := tree{r: w.Reader}
	if err := t.start(ctx, root); err != nil {
		return w.damaged(ctx, nil, root, err)
	}
	for t.at != atEnd {
		var err error
		if t.at == atRow {
			err = w.row(ctx, &t)
		} else {
			err = w.page(ctx, &t)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *Walker) page(ctx context.Context, t *tree) error {
	c := *t.child()
	if seen, err := w.seen(c.ID); err != nil {
		return err
	} else if seen {
		return w.next(ctx, t, c, t.nextChild())
	}
	if err := w.Visit(Ref{ID: c.ID, Page: true}); err != nil {
		return err
	}
	if err := t.open(ctx); err != nil {
		return w.next(ctx, t, c, err)
	}
	return nil
}

func (w *Walker) row(ctx context.Context, t *tree) error {
	e := &t.leaf.entry
	if e.XattrRef.Length > 0 {
		if err := w.Visit(Ref{ID: e.XattrRef.ID, Length: e.XattrRef.Length}); err != nil {
			return err
		}
	}
	for _, x := range e.Extents {
		if err := w.extent(x); err != nil {
			return err
		}
	}
	if !e.Table.IsZero() {
		if err := w.table(ctx, t.leaf.key, e.Table, -1, e.Size); err != nil {
			return err
		}
	}
	var at ChildRef
	if c := t.leaf.want.child; c != nil {
		at = *c
	}
	return w.next(ctx, t, at, t.advance())
}

// next reports the error of a step that was to leave or enter a page, and goes on
// behind what is damaged.
func (w *Walker) next(ctx context.Context, t *tree, at ChildRef, err error) error {
	for err != nil {
		if err := w.damaged(ctx, at.Key, at.ID, err); err != nil {
			return err
		}
		err = t.drop()
	}
	return nil
}

func (w *Walker) extent(x Extent) error {
	if x.Hole() {
		return nil
	}
	return w.Visit(Ref{ID: x.ID, Length: x.Length})
}

// table visits the block table below a page; each call is a level further down,
// of MaxLevel at most.
func (w *Walker) table(ctx context.Context, key []byte, id chunk.ID, level int, bytes uint64) error {
	if seen, err := w.seen(id); seen || err != nil {
		return err
	}
	if err := w.Visit(Ref{ID: id, Page: true}); err != nil {
		return err
	}
	p, err := readTablePage(ctx, w.Reader, id, level, bytes)
	if err != nil {
		return w.damaged(ctx, key, id, err)
	}
	for p.left > 0 {
		if p.level == 0 {
			err = w.extent(p.extent())
		} else {
			child, n := p.child()
			err = w.table(ctx, key, child, p.level-1, n)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *Walker) seen(id chunk.ID) (bool, error) {
	if w.Seen == nil {
		return false, nil
	}
	return w.Seen(id)
}

func (w *Walker) damaged(ctx context.Context, key []byte, id chunk.ID, err error) error {
	if w.Damaged == nil || ctx.Err() != nil {
		return err
	}
	return w.Damaged(key, id, err)
}
