package manifest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/key"
)

// ErrNotFound is returned by [Get] where a manifest has no such entry.
var ErrNotFound = errors.New("no such entry")

// errNoRoot keeps a root ID that somebody forgot to set from passing as an empty
// manifest: nothing to restore is not the same as nothing known.
var errNoRoot = errors.New("read manifest: no root page is given")

// Cursor reads a manifest in key order. It reads each page once on a plain walk
// and holds one a level.
//
// What it checks of every page is docs/FORMAT.md §8.2; with CheckParents also
// that every entry's folder is there.
type Cursor struct {
	t       tree
	root    chunk.ID
	began   bool
	pending bool // t stands at what Next has still to return
	parents *parents
	scratch []byte
}

// NewCursor stands before the first entry of the manifest. It reads nothing yet.
func NewCursor(r PageReader, root chunk.ID) *Cursor {
	return &Cursor{t: tree{r: r}, root: root}
}

// CheckParents makes Next check that the manifest's root entry and every folder
// above an entry are there and are folders, as restoring a manifest that may be
// hostile needs. A walk from the first entry on costs nothing more; after
// a jump, the folders that were passed by are looked up.
func (c *Cursor) CheckParents() { c.parents = &parents{folder: -1} }

// Next returns the next entry, or io.EOF. The key and the entry are valid until
// the next call of any method; see [Entry.Clone]. After another error it may be
// called again, to try the same page once more, or after Resume.
func (c *Cursor) Next(ctx context.Context) (key []byte, e *Entry, err error) {
	if err := c.start(ctx); err != nil {
		return nil, nil, err
	}
	if !c.pending {
		if err := c.t.advance(); err != nil {
			return nil, nil, err
		}
		c.pending = true
	}
	if err := c.t.row(ctx); err != nil {
		return nil, nil, err
	}
	if c.t.at == atEnd {
		return nil, nil, io.EOF
	}
	key, e = c.t.leaf.key, &c.t.leaf.entry
	if c.parents != nil {
		if err := c.parents.check(ctx, c, key, e.Kind); err != nil {
			return nil, nil, err
		}
	}
	c.pending = false
	return key, e, nil
}

// Raw is the encoding of the entry that Next returned last, valid as long.
func (c *Cursor) Raw() []byte { return c.t.leaf.raw }

func (c *Cursor) start(ctx context.Context) error {
	if c.began {
		return nil
	}
	if c.root.IsZero() {
		return errNoRoot
	}
	if err := c.t.start(ctx, c.root); err != nil {
		return err
	}
	c.began, c.pending = true, true
	return nil
}

// Seek makes Next return the first entry whose key is key or behind it. Going
// forward it reads only the pages on the path there; going back it starts at the
// root. After an error the cursor's place is undefined until the next Seek, or until
// Resume, which goes on behind the page that could not be read.
func (c *Cursor) Seek(ctx context.Context, key []byte) error {
	if c.began && (c.t.at == atEnd || bytes.Compare(key, c.t.key()) <= 0) {
		c.began = false
	}
	if err := c.start(ctx); err != nil {
		return err
	}
	c.pending = true
	if c.parents != nil {
		c.parents.jumped = true
	}
	return c.t.seek(ctx, key)
}

// SkipSubtree makes Next pass by all that is below the entry that it returned last.
func (c *Cursor) SkipSubtree(ctx context.Context) error {
	if !c.began || c.pending || c.t.at != atRow || c.t.leaf.entry.Kind != KindDir {
		return nil
	}
	if len(c.t.leaf.key) == 0 {
		c.t.at, c.pending = atEnd, true
		return nil
	}
	c.scratch = appendAfter(c.scratch[:0], c.t.leaf.key)
	return c.Seek(ctx, c.scratch)
}

// Resume goes on behind the page at which Next failed, for a caller that wants
// what is left of a damaged manifest. All entries may be missing that are behind the
// last one returned and before the key that Resume returns, which is nil
// where that is the end of the manifest. Their folders being unknown, parents that
// would stand there are not checked.
func (c *Cursor) Resume() (to []byte) {
	if c.parents != nil {
		c.parents.gap = true
	}
	for c.began && c.t.drop() != nil { // each call leaves a damaged page
		continue
	}
	c.began = true // also where the root could not be read, and t is at its end
	c.pending = true
	return bytes.Clone(c.t.key())
}

// Get returns the entry of a key, or ErrNotFound. It reads a page a level.
func Get(ctx context.Context, r PageReader, root chunk.ID, key []byte) (*Entry, error) {
	c := NewCursor(r, root)
	if err := c.Seek(ctx, key); err != nil {
		return nil, err
	}
	found, e, err := c.Next(ctx)
	if err == io.EOF || err == nil && !bytes.Equal(found, key) {
		return nil, fmt.Errorf("%w: %q", ErrNotFound, PathOf(key))
	}
	return e, err
}

// parents checks that the folders above each entry are there. As a folder stands
// before all that is in it, only the folders above the last entry matter.
type parents struct {
	last   []byte // the last entry's key
	folder int    // last[:folder] and all folders above it are there; -1: none is
	jumped bool   // entries may have been passed by since
	gap    bool   // entries may have been lost since
}

func (p *parents) check(ctx context.Context, c *Cursor, key []byte, kind Kind) error {
	parent, ok := Parent(key)
	if ok && !p.has(parent) {
		if !p.jumped && !p.gap {
			return damagedf("entry %q without its folder", PathOf(key))
		}
		if err := p.lookUp(ctx, c, key); err != nil {
			return err
		}
	}
	p.jumped, p.gap = false, false
	p.last = append(p.last[:0], key...)
	switch {
	case kind == KindDir:
		p.folder = len(key)
	case ok:
		p.folder = len(parent)
	default:
		p.folder = -1 // the manifest of a single file
	}
	return nil
}

func (p *parents) has(folder []byte) bool {
	if p.folder < 0 {
		return false
	}
	deepest := p.last[:p.folder]
	return bytes.Equal(deepest, folder) || Below(deepest, folder)
}

// lookUp checks the folders above an entry that p doesn't know, from the top. Those
// that are, or may be, among lost entries are taken as being there.
func (p *parents) lookUp(ctx context.Context, c *Cursor, entry []byte) error {
	for i := 0; i < len(entry); i++ {
		if i > 0 && entry[i] != separator {
			continue
		}
		folder := entry[:i]
		if p.has(folder) || p.gap && (p.last == nil || bytes.Compare(folder, p.last) > 0) {
			continue
		}
		e, err := Get(ctx, c.t.r, c.root, folder)
		if errors.Is(err, key.ErrDamaged) {
			continue
		}
		if errors.Is(err, ErrNotFound) || err == nil && e.Kind != KindDir {
			return damagedf("entry %q without its folder %q", PathOf(entry), PathOf(folder))
		}
		if err != nil {
			return fmt.Errorf("look up folder of %q: %w", PathOf(entry), err)
		}
	}
	return nil
}
