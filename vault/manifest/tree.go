package manifest

import (
	"bytes"
	"context"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/wire"
)

// place is what a tree walk stands at.
type place uint8

const (
	atEnd   place = iota
	atChild       // a page that was not read yet
	atRow         // a row of a leaf
)

// tree walks a manifest in key order and lets its user decide for each page
// whether to open it or to pass it by. On the way down it makes the checks of
// docs/FORMAT.md §8.2. It holds a page a level.
type tree struct {
	r      PageReader
	at     place
	frames []*inner // frames[:depth] are open, the root first
	depth  int
	leaf   leaf
	d      wire.Decoder
}

// start opens the root. The zero ID is the empty manifest.
func (t *tree) start(ctx context.Context, root chunk.ID) error {
	t.at, t.depth = atEnd, 0
	if root.IsZero() {
		return nil
	}
	return t.load(ctx, root, expectation{})
}

// child is the page that t stands at, in place atChild. Its Key is valid until t moves on.
func (t *tree) child() *ChildRef { return &t.frames[t.depth-1].cur }

// key is the first key of what t stands at: nil at the end.
func (t *tree) key() []byte {
	switch t.at {
	case atChild:
		return t.child().Key
	case atRow:
		return t.leaf.key
	}
	return nil
}

// bound is the key that all keys of the child that t stands at, or of the leaf
// that it is in, are below; nil where that is the tree's last page of its level.
func (t *tree) bound() []byte {
	for i := t.depth - 1; i >= 0; i-- {
		if t.frames[i].hasNext {
			return t.frames[i].ahead.key
		}
	}
	return nil
}

// open goes into the child that t stands at. After an error t still stands there.
func (t *tree) open(ctx context.Context) error {
	c := t.child()
	return t.load(ctx, c.ID, expectation{child: c, bound: t.bound()})
}

func (t *tree) load(ctx context.Context, id chunk.ID, want expectation) error {
	page, err := readPage(ctx, t.r, id)
	if err != nil {
		return err
	}
	h := decodeHeader(&t.d, page, pageLeaf, pageInner, maxPageRows)
	if want.child != nil && h.level != want.child.Level {
		t.d.Fail("page of level %d, the page above says %d", h.level, want.child.Level)
	}
	if err := t.d.Err(); err != nil {
		return damagedPage(id, err)
	}
	if h.level == 0 {
		ok, err := t.leaf.reset(t.d, page, h, want)
		if err != nil {
			return damagedPage(id, err)
		}
		if ok {
			t.at = atRow
		}
		return nil
	}
	if t.depth == len(t.frames) {
		t.frames = append(t.frames, new(inner))
	}
	if err := t.frames[t.depth].reset(t.d, h, want); err != nil {
		return damagedPage(id, err)
	}
	t.depth++
	t.at = atChild
	return nil
}

// advance passes the row or the child by that t stands at.
func (t *tree) advance() error {
	if t.at == atRow {
		ok, err := t.leaf.next()
		if err != nil {
			return t.leafError(err)
		}
		if ok {
			return nil
		}
	}
	return t.nextChild()
}

func (t *tree) leafError(err error) error {
	if c := t.leaf.want.child; c != nil {
		return damagedPage(c.ID, err)
	}
	return damagedf("root page: %v", err)
}

// nextChild leaves the leaf that t is in, or passes the child by that it stands at.
func (t *tree) nextChild() error {
	for t.depth > 0 {
		f := t.frames[t.depth-1]
		ok, err := f.advance()
		if err != nil {
			return damagedf("inner page at %q: %v", PathOf(f.curKey), err)
		}
		if ok {
			t.at = atChild
			return nil
		}
		t.depth--
	}
	t.at = atEnd
	return nil
}

// drop goes on behind the page at which any other method failed.
func (t *tree) drop() error {
	if t.depth > 0 && t.frames[t.depth-1].err != nil {
		t.depth--
	}
	return t.nextChild()
}

// row opens pages until t stands at a row or at the end.
func (t *tree) row(ctx context.Context) error {
	for t.at == atChild {
		if err := t.open(ctx); err != nil {
			return err
		}
	}
	return nil
}

// seek goes forward to the first row whose key is key or behind it, or to a
// child that begins with that row. It reads the pages on the path there.
func (t *tree) seek(ctx context.Context, key []byte) error {
	for {
		var err error
		switch {
		case t.at == atEnd || bytes.Compare(t.key(), key) >= 0:
			return nil
		case !t.holds(key):
			err = t.nextChild()
		case t.at == atChild:
			err = t.open(ctx)
		default:
			err = t.advance()
		}
		if err != nil {
			return err
		}
	}
}

// holds tells whether key is below the bound of the child or leaf t is at.
func (t *tree) holds(key []byte) bool {
	b := t.bound()
	return b == nil || bytes.Compare(key, b) < 0
}
