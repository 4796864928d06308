package manifest

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/tharsis-backup/tharsis/chunk"
)

var (
	errOrder   = errors.New("keys out of order")
	errAligned = errors.New("page does not begin at a page boundary")
	errHeight  = errors.New("manifest is too large: its tree is too high")

	errFinished = errors.New("manifest is finished")
)

// Builder writes a manifest from its entries in key order. It holds one unfinished
// page a level, whatever the number of entries. Pages go to the writer as they
// fill, children before their parents.
//
// It checks the order and form of keys and entries, and not that an entry's
// parent is there: [Cursor.CheckParents] does.
//
// The first error ends it: all later calls return that error.
type Builder struct {
	w      PageWriter
	shape  shape
	levels [MaxLevel + 1]level
	total  Totals
	began  bool
	err    error
}

// level is the unfinished page of one level.
type level struct {
	buf    []byte // headerRoom bytes, then the rows
	rows   int
	first  []byte // the first row's key
	last   []byte // the last row's key, also over the page's end
	total  Totals
	pages  uint64   // that ended; below a reused page, only whether it is more than one
	lastID chunk.ID // of the last of these
}

// NewBuilder starts an empty manifest.
func NewBuilder(w PageWriter) *Builder { return &Builder{w: w} }

// Add appends an entry, whose key must be behind all added before.
func (b *Builder) Add(ctx context.Context, key []byte, e *Entry) error {
	if b.err == nil {
		b.err = e.Check()
	}
	if !b.accept(key) {
		return b.err
	}
	l := &b.levels[0]
	l.begin(key)
	l.buf = AppendEntry(l.buf, e)
	b.err = b.end(ctx, 0, Totals{Entries: 1, Bytes: e.Size})
	return b.err
}

// AddEncoded is Add for an entry that is encoded already, as [Cursor.Raw] and
// AppendEntry give it; size is that of its file, or 0. The encoding is trusted.
func (b *Builder) AddEncoded(ctx context.Context, key, entry []byte, size uint64) error {
	if !b.accept(key) {
		return b.err
	}
	l := &b.levels[0]
	l.begin(key)
	l.buf = append(l.buf, entry...)
	b.err = b.end(ctx, 0, Totals{Entries: 1, Bytes: size})
	return b.err
}

// accept checks the key of the next entry.
func (b *Builder) accept(key []byte) bool {
	if b.err != nil {
		return false
	}
	if b.err = ValidateKey(key); b.err == nil && b.began && bytes.Compare(key, b.levels[0].last) <= 0 {
		b.err = fmt.Errorf("add entry %q to manifest: %w", PathOf(key), errOrder)
	}
	b.began = true
	return b.err == nil
}

// Aligned tells whether AddPage takes a page of this level now.
func (b *Builder) Aligned(level int) bool {
	for i := range level + 1 {
		if b.levels[i].rows > 0 {
			return false
		}
	}
	return level < MaxLevel
}

// AddPage appends all that is below a page of another manifest, without reading
// it. The builder must be Aligned to the page's level. The page must have ended by
// its last row and not because its list did, which is so for every page but the
// last of its level; else the tree's shape would depend on its history. All
// keys below the page must be behind those added before; only the first is checked.
func (b *Builder) AddPage(ctx context.Context, ref ChildRef) error {
	if !b.accept(ref.Key) {
		return b.err
	}
	if !b.Aligned(ref.Level) {
		b.err = fmt.Errorf("add page %s to manifest: %w", ref.ID.Short(), errAligned)
		return b.err
	}
	for i := range ref.Level {
		b.levels[i].pages += 2 // an inner page that ended by its row has two rows
	}
	for i := range ref.Level + 1 {
		b.levels[i].last = append(b.levels[i].last[:0], ref.Key...)
	}
	b.levels[ref.Level].pages++
	b.levels[ref.Level].lastID = ref.ID
	b.total = b.total.plus(ref.Totals)
	b.err = b.addChild(ctx, ref)
	return b.err
}

// Finish writes what is left and returns the root. The builder is of no use afterwards.
func (b *Builder) Finish(ctx context.Context) (root chunk.ID, t Totals, err error) {
	for i := 0; b.err == nil && i < len(b.levels); i++ {
		l := &b.levels[i]
		unfinished := l.rows > 0 || l.pages == 0
		var ref ChildRef
		if unfinished {
			ref, b.err = b.put(ctx, i)
		}
		if b.err == nil && l.pages == 1 {
			b.err = errFinished
			return l.lastID, b.total, nil
		}
		if b.err == nil && unfinished {
			b.err = b.addChild(ctx, ref)
		}
	}
	if b.err == nil {
		b.err = errHeight
	}
	return chunk.ID{}, Totals{}, b.err
}

// addChild appends a row for a page that ended to the level above it.
func (b *Builder) addChild(ctx context.Context, ref ChildRef) error {
	if ref.Level >= MaxLevel {
		return errHeight
	}
	l := &b.levels[ref.Level+1]
	l.begin(ref.Key)
	l.buf = appendChildRef(l.buf, ref.ID, ref.Totals)
	return b.end(ctx, ref.Level+1, ref.Totals)
}

// begin starts a row.
func (l *level) begin(key []byte) {
	if l.rows == 0 {
		l.buf = append(l.buf[:0], make([]byte, headerRoom)...)
		l.first = append(l.first[:0], key...)
		l.last = l.last[:0]
	}
	l.buf = appendKey(l.buf, l.last, key)
	l.last = append(l.last[:0], key...)
}

// end ends a row, and the page with it where the rule says so.
func (b *Builder) end(ctx context.Context, at int, t Totals) error {
	l := &b.levels[at]
	l.rows++
	l.total = l.total.plus(t)
	if at == 0 {
		b.total = b.total.plus(t)
	}
	length := l.header(at).size() + len(l.buf) - headerRoom
	if !b.shape.ends(l.last, at, l.rows, length) {
		return nil
	}
	ref, err := b.put(ctx, at)
	if err != nil {
		return err
	}
	return b.addChild(ctx, ref)
}

func (l *level) header(at int) pageHeader {
	h := pageHeader{kind: pageInner, level: at, rows: l.rows}
	if at == 0 {
		h.kind = pageLeaf
	}
	return h
}

// put ends the page of a level. The result's key is valid until the level's next row.
func (b *Builder) put(ctx context.Context, at int) (ChildRef, error) {
	l := &b.levels[at]
	if l.rows == 0 {
		l.buf = append(l.buf[:0], make([]byte, headerRoom)...)
	}
	id, err := b.w.PutPage(ctx, l.header(at).seal(l.buf))
	if err != nil {
		return ChildRef{}, fmt.Errorf("write manifest page: %w", err)
	}
	ref := ChildRef{Key: l.first, ID: id, Level: at, Totals: l.total}
	l.rows, l.total = 0, Totals{}
	l.pages++
	l.lastID = id
	return ref, nil
}
