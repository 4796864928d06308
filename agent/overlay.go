package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	"github.com/tharsis-backup/tharsis/cache/extsort"
	"github.com/tharsis-backup/tharsis/cache/journal"
	"github.com/tharsis-backup/tharsis/internal/wire"
	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// sortBytes is how much of a journal is sorted in memory.
const sortBytes = 2 << 20

// overlay is what killed jobs left in the journal, sorted: it lies over the
// base when a job compares.
type overlay struct {
	it   *extsort.Iterator
	cur  overlayRecord
	more bool
}

// overlayRecord is one record: the key begins with the source's place in the job.
type overlayRecord struct {
	key   []byte
	typ   journal.Type
	since int64 // start of the job that wrote it, ns
	value []byte
}

// Values of sorted records: type u8, start of the job i64, value.
const overlayHead = 9

func appendSorted(dst []byte, typ journal.Type, since int64, value []byte) []byte {
	dst = append(dst, byte(typ))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(since))
	return append(dst, value...)
}

func sortedKey(dst []byte, src *sourceJob, key []byte) []byte {
	place := src.place()
	return append(append(dst, place[:]...), key...)
}

// place orders records as the job goes through its sources.
func (src *sourceJob) place() (p [placeBytes]byte) {
	binary.BigEndian.PutUint32(p[:], uint32(src.n))
	return p
}

const placeBytes = 4

// loadOverlay reads the journal of a killed job, takes its packs as the job's
// own where they still are in the vault, and sorts the rest.
func (j *job) loadOverlay(ctx context.Context) error {
	sorter := extsort.New(j.s.cache.SpoolDir(), sortBytes)
	found, err := j.readJournal(ctx, sorter, false)
	if err != nil || !found {
		sorter.Close()
		return err
	}
	it, err := sorter.Sort(ctx)
	if err != nil {
		sorter.Close()
		return fmt.Errorf("sort journal: %w", err)
	}
	j.resumed = true
	j.overlay = &overlay{it: it}
	return j.overlay.next()
}

// errJournalLost ends a job whose journal is not as the job wrote it. What it
// said would be missing from the point, and nobody could tell.
var errJournalLost = errors.New("the journal was changed while the job ran; run it again")

// readJournal sorts the journal's entries, less those of voided sources and of
// sources that the job does not have. With own it takes only what this job wrote,
// and makes sure that it is all there: of what killed jobs wrote, this job has
// journaled again all that it found to hold. Without own it takes their packs over.
func (j *job) readJournal(ctx context.Context, sorter *extsort.Sorter, own bool) (found bool, err error) {
	sources := make(map[[16]byte]*sourceJob, len(j.sources))
	for _, src := range j.sources {
		sources[src.id] = src
	}
	voided, err := j.voided()
	if err != nil {
		return false, err
	}
	r, err := journal.Open(j.s.cache.JournalPath(), j.s.vault.Ring)
	if errors.Is(err, fs.ErrNotExist) {
		if own {
			return false, errJournalLost
		}
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer r.Close()
	var since int64
	var key, value []byte
	mine := 0 // records of this job
	for n := 0; ; n++ {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			if own && mine != j.journal.Count() {
				return false, errJournalLost
			}
			return found, nil
		}
		if err != nil {
			return false, err
		}
		if mine > 0 || rec.Type == journal.Start && len(rec.Value) == startBytes && bytes.Equal(rec.Value[8:], j.id[:]) {
			mine++
		}
		if own && mine == 0 {
			continue
		}
		switch rec.Type {
		case journal.Start:
			if len(rec.Value) == startBytes {
				since = int64(binary.LittleEndian.Uint64(rec.Value))
			}
		case journal.Pack:
			if !own {
				if err := j.adopt(ctx, rec.Value); err != nil {
					return false, err
				}
			}
			found = true
		case journal.Entry, journal.Gone, journal.Part:
			if n < voided[rec.Source] {
				continue
			}
			found = true
			src := sources[rec.Source]
			if src == nil {
				continue
			}
			key = sortedKey(key[:0], src, rec.Key)
			value = appendSorted(value[:0], rec.Type, since, rec.Value)
			if err := sorter.Add(key, value); err != nil {
				return false, fmt.Errorf("sort journal: %w", err)
			}
		}
	}
}

// voided gives, per source, the number of the record before which its records
// do not count: the source failed there.
func (j *job) voided() (map[[16]byte]int, error) {
	m := map[[16]byte]int{}
	r, err := journal.Open(j.s.cache.JournalPath(), j.s.vault.Ring)
	if err != nil {
		return m, nil // nothing there: the caller sees it too
	}
	defer r.Close()
	for n := 0; ; n++ {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			return m, nil
		}
		if err != nil {
			return nil, err
		}
		if rec.Type == journal.Void {
			m[rec.Source] = n
		}
	}
}

// adopt takes over a pack that a killed job stored, if the vault still has it
// and the log does not speak against it.
func (j *job) adopt(ctx context.Context, raw []byte) error {
	dir, err := vault.DecodeDirectory(raw)
	if err != nil {
		return nil // of no use
	}
	if !j.s.vault.Log.State().Usable(dir.ID) {
		return nil
	}
	there, err := j.s.direct.HasPack(ctx, dir) // a copy in the cache proves nothing
	if err != nil || !there {
		return err
	}
	return j.writer.Adopt(ctx, dir)
}

// openJournal goes on with the journal of a killed job, or begins one.
func (j *job) openJournal() error {
	var err error
	path, ring := j.s.cache.JournalPath(), j.s.vault.Ring
	if j.overlay != nil {
		j.journal, err = journal.Resume(path, ring)
	}
	if j.journal == nil {
		j.journal, err = journal.Create(path, ring)
	}
	if err != nil {
		return err
	}
	start := binary.LittleEndian.AppendUint64(nil, uint64(j.started.UnixNano()))
	start = append(start, j.id[:]...)
	if err := j.journal.Append(journal.Record{Type: journal.Start, Value: start}); err != nil {
		return err
	}
	return j.journal.Flush()
}

// next reads the next record into cur.
func (o *overlay) next() error {
	k, v, err := o.it.Next()
	if errors.Is(err, io.EOF) {
		o.more = false
		return nil
	}
	if err != nil {
		return fmt.Errorf("read sorted journal: %w", err)
	}
	o.more = true
	o.cur = overlayRecord{key: k, typ: journal.Type(v[0]), since: int64(binary.LittleEndian.Uint64(v[1:])), value: v[overlayHead:]}
	return nil
}

func (o *overlay) close() { o.it.Close() }

// skipTo drops records before a source's.
func (o *overlay) skipTo(src *sourceJob) error {
	place := src.place()
	for o.more && bytes.Compare(o.cur.key[:placeBytes], place[:]) < 0 {
		if err := o.next(); err != nil {
			return err
		}
	}
	return nil
}

// of tells whether the current record is of a source, and its key there.
func (o *overlay) of(src *sourceJob) ([]byte, bool) {
	if o == nil || !o.more || binary.BigEndian.Uint32(o.cur.key) != uint32(src.n) {
		return nil, false
	}
	return o.cur.key[placeBytes:], true
}

// part is a piece of a large file's content, as the journal keeps it.
type part struct {
	stat    manifest.Entry
	off     int64
	extents []manifest.Extent
}

func appendPart(dst []byte, stat *manifest.Entry, off int64, extents []manifest.Extent) []byte {
	for _, v := range []uint64{stat.Size, uint64(stat.MTime.Sec), uint64(stat.MTime.Nsec), uint64(stat.CTime.Sec), uint64(stat.CTime.Nsec), stat.Inode, uint64(off)} {
		dst = wire.AppendU64(dst, v)
	}
	dst = wire.AppendUvarint(dst, uint64(len(extents)))
	for _, x := range extents {
		dst = wire.AppendU64(dst, x.Length)
		dst = append(dst, x.ID[:]...)
	}
	return dst
}

func decodePart(raw []byte) (p part, err error) {
	d := wire.NewDecoder(raw)
	p.stat.Kind = manifest.KindFile
	p.stat.Size = d.U64()
	p.stat.MTime = manifest.Time{Sec: d.I64(), Nsec: uint32(d.U64())}
	p.stat.CTime = manifest.Time{Sec: d.I64(), Nsec: uint32(d.U64())}
	p.stat.Inode = d.U64()
	p.off = d.I64()
	n := d.Count(partExtents, 40)
	p.extents = make([]manifest.Extent, n)
	for i := range p.extents {
		p.extents[i].Length = d.U64()
		d.Fixed(p.extents[i].ID[:])
	}
	return p, d.Done()
}

// racyLimit is the first time that is too close to the start of a job for an
// entry that it read to count as unchanged.
func racyLimit(started int64) manifest.Time {
	t := time.Unix(0, started).Add(-racyWindow)
	return manifest.Time{Sec: t.Unix(), Nsec: uint32(t.Nanosecond())}
}

// baseEntry is what a job compares an entry of the walk with.
type baseEntry struct {
	key   []byte
	raw   []byte // as the base has it; empty unless fromBase
	entry manifest.Entry
	since int64 // start of the job that read it
	// fromBase: the base has exactly this and the journal says nothing about
	// the key, so an equal entry need not be journaled.
	fromBase bool
	// fresh: the base does not have the key.
	fresh bool
	// parts of a large file that was read in part, and nothing else is known.
	parts [][]byte
}

// racy tells whether the entry may have changed after it was read without its
// times telling.
func (b *baseEntry) racy() bool { return racy(&b.entry, b.since) }

// racy is that of an entry which a job read that started at since.
func racy(e *manifest.Entry, since int64) bool {
	limit := racyLimit(since)
	return e.MTime.Compare(limit) >= 0 || e.CTime.Compare(limit) >= 0
}

// racyPart is that of a file of which a part was read.
func (r *overlayRecord) racyPart() bool {
	p, err := decodePart(r.value)
	return err != nil || racy(&p.stat, r.since)
}

// sameContent tells whether e has the same content and times as b's entry.
func (b *baseEntry) sameContent(e *manifest.Entry) bool {
	o := &b.entry
	return !b.fresh && o.Kind == e.Kind && o.Size == e.Size && o.MTime == e.MTime && o.Table == e.Table && slices.Equal(o.Extents, e.Extents)
}

// clone makes a copy that outlives the stream.
func (b *baseEntry) clone() *baseEntry {
	c := *b
	c.key, c.raw = slices.Clone(b.key), slices.Clone(b.raw)
	c.entry = *b.entry.Clone()
	return &c
}

// journalHas tells whether the journal was begun for the job of a point.
func (s *Session) journalHas(id [16]byte) (bool, error) {
	r, err := journal.Open(s.cache.JournalPath(), s.vault.Ring)
	if err != nil {
		return false, nil // none that resumes
	}
	defer r.Close()
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if rec.Type == journal.Start && len(rec.Value) == startBytes && [16]byte(rec.Value[8:]) == id {
			return true, nil
		}
	}
}

// startBytes is the length of a Start record's value: i64 ns, and the job's ID.
const startBytes = 8 + 16
