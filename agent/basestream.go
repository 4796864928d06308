package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/tharsis-backup/tharsis/cache/journal"
	"github.com/tharsis-backup/tharsis/internal/wire"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// baseStream is what a source is compared with: the base's manifest with what
// killed jobs journaled laid over it, in key order.
type baseStream struct {
	j      *job
	src    *sourceJob
	cursor *manifest.Cursor // nil where there is no base

	base struct { // the cursor's current entry
		key  []byte
		e    *manifest.Entry
		more bool
	}
	cur     baseEntry
	have    bool   // cur is the next entry
	pending bool   // the cursor stands on an entry that was passed
	onBase  bool   // cur is the cursor's entry
	reached []byte // key of the walk's last item, kept here for the walk
}

// openBase begins the stream of a source.
func (j *job) openBase(ctx context.Context, src *sourceJob) (*baseStream, error) {
	s := &baseStream{j: j, src: src}
	if j.overlay != nil {
		if err := j.overlay.skipTo(src); err != nil {
			return nil, err
		}
	}
	if src.has {
		s.cursor = manifest.NewCursor(j.read, src.base.Source.Root)
		if err := s.read(ctx); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// read moves the cursor.
func (s *baseStream) read(ctx context.Context) error {
	k, e, err := s.cursor.Next(ctx)
	for s.src.anew && errors.Is(err, key.ErrDamaged) {
		s.cursor.Resume() // what a damaged page named is lost
		k, e, err = s.cursor.Next(ctx)
	}
	if errors.Is(err, io.EOF) {
		s.base.more = false
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the newest point of %s: %w", s.src.path, err)
	}
	s.base.key, s.base.e, s.base.more = k, e, true
	return nil
}

// peek returns the next entry, valid until advance and the peek after, or nil
// at the end.
func (s *baseStream) peek(ctx context.Context) (*baseEntry, error) {
	for !s.have {
		if s.pending {
			s.pending = false
			if err := s.read(ctx); err != nil {
				return nil, err
			}
		}
		over, ok := s.j.overlay.of(s.src)
		switch {
		case !ok && !s.base.more:
			return nil, nil
		case !ok || s.base.more && bytes.Compare(s.base.key, over) < 0:
			s.fromBase()
		default:
			if err := s.fromOverlay(ctx, slices.Clone(over)); err != nil {
				return nil, err
			}
		}
		s.have = true
	}
	return &s.cur, nil
}

// fromBase makes cur the cursor's entry, which stays where it is until advance.
func (s *baseStream) fromBase() {
	s.cur = baseEntry{
		key: s.base.key, raw: s.cursor.Raw(), entry: *s.base.e, since: s.src.base.Point.Started, fromBase: !s.src.anew,
	}
	s.onBase = true
}

// fromOverlay makes cur what the journal says of a key, over what the base
// says. It consumes the journal's records of the key.
func (s *baseStream) fromOverlay(ctx context.Context, key []byte) error {
	onBase := s.base.more && bytes.Equal(s.base.key, key)
	var last overlayRecord
	var parts [][]byte
	for {
		k, ok := s.j.overlay.of(s.src)
		if !ok || !bytes.Equal(k, key) {
			break
		}
		if rec := s.j.overlay.cur; rec.typ == journal.Part {
			if parts == nil {
				parts = [][]byte{} // something was begun, if nothing of use
			}
			if !rec.racyPart() {
				parts = append(parts, slices.Clone(rec.value))
			}
		} else {
			last = rec
			last.value = slices.Clone(rec.value)
		}
		if err := s.j.overlay.next(); err != nil {
			return err
		}
	}
	s.cur = baseEntry{key: key, parts: parts, fresh: !onBase}
	var e manifest.Entry
	if last.typ == journal.Entry {
		d := wire.NewDecoder(last.value)
		if err := manifest.DecodeEntry(d, &e); err != nil || d.Done() != nil {
			last.typ = 0
		} else if ok, err := s.stored(ctx, &e); err != nil {
			return err
		} else if !ok {
			last.typ = 0
		}
	}
	switch {
	case last.typ == journal.Entry:
		s.cur.entry, s.cur.since, s.cur.parts = e, last.since, nil
	case onBase:
		// What the journal says cannot be used, but it says something, so that
		// the key must be journaled again whatever comes of it. If it was gone
		// then, whatever stands there now is to be read.
		s.cur.entry, s.cur.since = *s.base.e.Clone(), s.src.base.Point.Started
		if last.typ == journal.Gone && parts == nil {
			s.cur.parts = [][]byte{}
		}
	case parts == nil:
		// An entry that was never finished and that no point has. It must not
		// stay in the journal unless the walk meets it: cur stands for it.
		s.cur.entry = manifest.Entry{}
		s.cur.parts = [][]byte{}
	}
	if onBase {
		return s.read(ctx)
	}
	return nil
}

// stored tells whether all content of a journaled entry is in confirmed packs.
// A block table's pages are not sealed until the job ends, so such a file goes
// by its parts.
func (s *baseStream) stored(ctx context.Context, e *manifest.Entry) (bool, error) {
	if !e.Table.IsZero() {
		return false, nil
	}
	if !e.XattrRef.Hole() {
		if ok, err := s.j.writer.Confirmed(ctx, e.XattrRef.ID); !ok || err != nil {
			return false, err
		}
	}
	return s.j.allConfirmed(ctx, e.Extents)
}

// advance passes the current entry.
func (s *baseStream) advance() {
	s.have = false
	s.pending, s.onBase = s.onBase, false
}

// at returns the entry with this key, or nil. All before it were passed.
func (s *baseStream) at(ctx context.Context, key []byte) (*baseEntry, error) {
	b, err := s.peek(ctx)
	if err != nil || b == nil || !bytes.Equal(b.key, key) {
		return nil, err
	}
	return b, nil
}
