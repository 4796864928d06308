package manifest

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/wire"
	"github.com/tharsis-backup/tharsis/vault/key"
)

// Record is a row of a differencing manifest: what becomes of one key.
type Record struct {
	Key []byte
	// Entry is the encoded entry (see AppendEntry) that Key has from now on. Nil
	// removes the key.
	Entry []byte
	// Subtree removes all that the base has below Key. Records for keys below it
	// still count.
	Subtree bool
}

// RecordReader gives the records of a differencing manifest in key order, each
// key once, and then io.EOF. A record is valid until the next call.
type RecordReader interface {
	Next(ctx context.Context) (Record, error)
}

// MergeOptions change how Merge works, never what comes of it.
type MergeOptions struct {
	// Plain reads every page of the base and writes every page of the result,
	// also those that did not change. It checks the base as a whole: with no
	// records, another root than the base's shows that the base was not built by
	// the format's rule.
	Plain bool

	shape shape
}

// Merge applies records to the base manifest (the zero ID: to an empty one) and
// writes the pages that are new. Its result is that of a Builder that is given all
// the entries that are left. It costs the pages that changed and those on the
// way to them: pages whose range has no record are taken over unread where they
// begin at a page boundary of the result.
//
// A record that removes what isn't there is no error. It does not check that
// entries keep their folders.
func Merge(ctx context.Context, base chunk.ID, diff RecordReader, r PageReader, w PageWriter,
	opts MergeOptions) (root chunk.ID, t Totals, err error) {
	m := merger{base: tree{r: r}, diff: diff, out: NewBuilder(w), plain: opts.Plain}
	m.out.shape = opts.shape
	if err := m.run(ctx, base); err != nil {
		return chunk.ID{}, Totals{}, err
	}
	if m.untouched && !base.IsZero() && !opts.Plain {
		t, err := SubtreeTotals(ctx, r, base, nil)
		return base, t, err
	}
	return m.out.Finish(ctx)
}

// merger is a merge under way.
type merger struct {
	base  tree
	diff  RecordReader
	out   *Builder
	plain bool

	record    Record // the next one
	ended     bool   // there is none
	untouched bool   // there never was one
	lastKey   []byte // of the record before
	entry     Entry  // of the record, decoded
	d         wire.Decoder

	removing bool   // all of the base below removed goes
	removed  []byte // a key whose subtree was removed
	after    []byte // the key behind that, nil for the root
}

func (m *merger) run(ctx context.Context, base chunk.ID) error {
	if err := m.read(ctx, true); err != nil {
		return err
	}
	if m.untouched = m.ended; m.untouched && !m.plain && !base.IsZero() {
		return nil
	}
	if err := m.base.start(ctx, base); err != nil {
		return err
	}
	for m.base.at != atEnd || !m.ended {
		if err := m.step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// step takes the lower one of the base's and the diff's next key.
func (m *merger) step(ctx context.Context) error {
	c := 1 // how the record's key compares with the base's
	switch {
	case m.base.at == atEnd:
		c = -1
	case !m.ended:
		c = bytes.Compare(m.record.Key, m.base.key())
	}
	switch {
	case c < 0:
		return m.take(ctx)
	case m.base.at == atChild:
		return m.page(ctx)
	case c == 0: // the record replaces the row
		if err := m.take(ctx); err != nil {
			return err
		}
	case !m.removing || !Below(m.base.leaf.key, m.removed):
		l := &m.base.leaf
		if err := m.out.AddEncoded(ctx, l.key, l.raw, l.entry.Size); err != nil {
			return err
		}
	}
	return m.base.advance()
}

// page decides what becomes of a page of the base, not read yet, whose keys are
// at or behind those of all records so far.
func (m *merger) page(ctx context.Context) error {
	c, bound := m.base.child(), m.base.bound()
	if m.removing && Below(c.Key, m.removed) {
		if !m.plain && (m.after == nil || bound != nil && bytes.Compare(bound, m.after) <= 0) {
			return m.base.nextChild()
		}
		return m.base.open(ctx)
	}
	// The last page of a level ended because its list did.
	changed := !m.ended && (bound == nil || bytes.Compare(m.record.Key, bound) < 0)
	if m.plain || changed || bound == nil || !m.out.Aligned(c.Level) {
		return m.base.open(ctx)
	}
	if err := m.out.AddPage(ctx, *c); err != nil {
		return err
	}
	return m.base.nextChild()
}

// take applies the record and reads the next one.
func (m *merger) take(ctx context.Context) error {
	r := &m.record
	if r.Entry != nil {
		m.d.Reset(r.Entry)
		err := DecodeEntry(&m.d, &m.entry)
		if err == nil {
			err = m.d.Done()
		}
		if err != nil {
			return fmt.Errorf("%w: record %q: %w", key.ErrDamaged, PathOf(r.Key), err)
		}
		if err := m.out.AddEncoded(ctx, r.Key, r.Entry, m.entry.Size); err != nil {
			return err
		}
	}
	if r.Subtree && !(m.removing && Below(r.Key, m.removed)) {
		m.removing = true
		m.removed = append(m.removed[:0], r.Key...)
		m.after = nil
		if len(r.Key) > 0 {
			m.after = appendAfter(m.after, r.Key)
		}
	}
	return m.read(ctx, false)
}

func (m *merger) read(ctx context.Context, first bool) error {
	m.lastKey = append(m.lastKey[:0], m.record.Key...)
	var err error
	m.record, err = m.diff.Next(ctx)
	if err == io.EOF {
		m.ended, m.record = true, Record{}
		return nil
	}
	if err != nil {
		return fmt.Errorf("read changes of manifest: %w", err)
	}
	if !first && bytes.Compare(m.record.Key, m.lastKey) <= 0 {
		return fmt.Errorf("read changes of manifest: %q: %w", PathOf(m.record.Key), errOrder)
	}
	return nil
}
