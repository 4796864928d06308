package pack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/stage"
	"github.com/tharsis-backup/tharsis/vault/key"
)

// Errors of a Writer that a caller acts on by taking another pack.
var (
	// ErrFull is for a record that would bring the pack above a limit of the
	// format. It can't happen where Full was asked after each Append.
	ErrFull = errors.New("pack is full")
	// ErrFinished is for a record that comes after Finish.
	ErrFinished = errors.New("pack is finished")
)

const (
	// DefaultTarget is the size about which packs are closed: large enough that
	// a request's latency does not matter, small enough to spool several.
	DefaultTarget = 16 << 20
	// MaxTarget leaves room for the last record and the directory below MaxLength.
	MaxTarget = 192 << 20
)

// Options of a Writer. The zero value works.
type Options struct {
	// Target is about how many bytes a pack gets: it is closed between 5/8 and
	// 5/4 of it. 0 means DefaultTarget; at most MaxTarget.
	Target uint64
}

// Writer builds one pack. All methods may be called concurrently; Append and
// Finish take a lock, Reserve and Seal don't.
type Writer struct {
	*Opener
	target uint64
	next   atomic.Uint32 // record numbers handed out

	mu       sync.Mutex
	w        io.Writer
	err      error // why the pack can't be used any more
	finished bool
	end      uint64   // bytes written
	listed   uint64   // bytes of the records' rows in the directory
	chunks   int      // in all records
	used     []uint64 // bitmap of appended record numbers
	records  []Record
	rows     uint32 // checksum of the records' rows
	row      []byte // of the last record
}

// NewWriter begins the pack id of type key.TypeDataPack or key.TypeManifestPack
// and writes its header to w, which gets the object's bytes in order. The ID must
// be a fresh one of [NewID].
func NewWriter(ring *key.Ring, packType uint8, id chunk.ID, w io.Writer, opt Options) (*Writer, error) {
	o, err := NewOpener(ring, packType, id)
	if err != nil {
		return nil, err
	}
	if opt.Target == 0 {
		opt.Target = DefaultTarget
	}
	if opt.Target > MaxTarget {
		return nil, fmt.Errorf("begin pack %s: target of %d bytes is above %d", id.Short(), opt.Target, MaxTarget)
	}
	p := &Writer{Opener: o, target: opt.Target, w: w}
	if err := p.write(key.AppendHeader(nil, packType, o.sealer)); err != nil {
		return nil, err
	}
	return p, nil
}

// ID is the pack's ID.
func (p *Writer) ID() chunk.ID { return p.id }

// Type is the pack's type.
func (p *Writer) Type() uint8 { return p.packType }

// Reserve hands out a record number. A number need not be used.
func (p *Writer) Reserve() uint32 { return p.next.Add(1) - 1 }

// Seal appends the box of a record to dst: stored is its plaintext of plain bytes
// under codec. The box belongs to this pack and this number only. dst's spare
// capacity must not overlap stored.
func (p *Writer) Seal(dst []byte, number uint32, codec chunk.Codec, stored []byte, plain uint32) []byte {
	return p.sealer.Seal(dst, stored, p.recordAAD(number, codec, plain))
}

// Append writes the box of a record that a Verifier has verified. Of rec it takes
// Number (one of Reserve, once), Codec, Plain and Chunks, which it copies; Stored
// and Offset are set by it. It refuses a record that breaks the format, and writes
// nothing of it. After an error of the underlying writer, and after stage.ErrSpoilt,
// which is for what changed since it was verified, the pack is of no more use.
func (p *Writer) Append(rec Record, box []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.usable(); err != nil {
		return err
	}
	if len(box) > MaxStored {
		return fmt.Errorf("append to pack %s: box of %d bytes", p.id.Short(), len(box))
	}
	rec.Stored, rec.Offset = uint32(len(box)), uint32(p.end)
	if err := rec.Check(); err != nil {
		return fmt.Errorf("append to pack %s: record %d: %w", p.id.Short(), rec.Number, err)
	}
	if !rec.verified {
		return fmt.Errorf("append to pack %s: record %d was not verified", p.id.Short(), rec.Number)
	}
	if rec.Number >= p.next.Load() || p.isUsed(rec.Number) {
		return fmt.Errorf("append to pack %s: record number %d is not reserved, or is used", p.id.Short(), rec.Number)
	}
	row := rec.directoryBytes()
	if len(p.records) == MaxRecords || p.chunks+len(rec.Chunks) > MaxChunks ||
		p.sizeWith(uint64(len(box)), row, 1) > MaxLength {
		return fmt.Errorf("append to pack %s: %w", p.id.Short(), ErrFull)
	}
	sum := rec.sum
	rec.Chunks, rec.verified, rec.sum = slices.Clone(rec.Chunks), false, 0
	p.row = appendPlaced(p.row[:0], &rec)
	p.rows = stage.Sum(p.rows, p.row)
	if err := p.write(box); err != nil {
		return err
	}
	// Last, when nothing is to be read of the two any more: what was written has a
	// checksum of its own from then on, in the writer and in rows.
	if stage.Sum(stage.Sum(0, p.row[:len(p.row)-placeBytes]), box) != sum {
		p.err = fmt.Errorf("write pack %s: record %d: %w", p.id.Short(), rec.Number, stage.ErrSpoilt)
		return p.err
	}
	p.records = append(p.records, rec)
	stage.Pass(stage.Listed, rec.Chunks[0].ID[:])
	p.used[rec.Number/64] |= 1 << (rec.Number % 64)
	p.chunks += len(rec.Chunks)
	p.listed += row
	return nil
}

// Full tells whether to finish the pack now. It is asked after each Append; while
// it is false, any record fits.
func (p *Writer) Full() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.records) == 0 {
		return false
	}
	return len(p.records) == MaxRecords || p.chunks > MaxChunks-MaxRecordChunks ||
		closeHere(p.sizeWith(0, 0, 0), uint64(len(p.records)), p.target)
}

// Length is how many bytes the object would have if it were finished now.
func (p *Writer) Length() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.finished {
		return p.end
	}
	return PaddedLength(p.sizeWith(0, 0, 0))
}

// Finish writes the directory with its padding and the trailer. A pack without
// records can't be finished.
func (p *Writer) Finish() (Directory, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.usable(); err != nil {
		return Directory{}, err
	}
	if len(p.records) == 0 {
		return Directory{}, fmt.Errorf("finish pack %s: no records", p.id.Short())
	}
	size := p.sizeWith(0, 0, 0)
	length := PaddedLength(size)
	plain := make([]byte, 0, length-p.end)
	plain = appendDirectory(plain, p.records)
	plain = plain[:uint64(len(plain))+length-size] // zeros: the buffer is fresh
	stage.Pass(stage.Directory, plain)
	box := p.sealer.Seal(nil, plain, p.directoryAAD(length))
	stage.Pass(stage.DirBox, box)
	end := p.end
	box = binary.LittleEndian.AppendUint32(box, uint32(len(box)))
	if err := p.write(box); err != nil {
		return Directory{}, err
	}
	if p.end != length {
		panic(fmt.Sprintf("pack: internal error: %d bytes written of %d", p.end, length))
	}
	p.finished, p.records = true, nil
	return p.verified(length, end, box[:len(box)-trailerBytes])
}

// verified opens the directory's box, which begins at end, as a reader will, and
// compares it with what the records were when they were appended.
func (p *Writer) verified(length, end uint64, box []byte) (Directory, error) {
	plain, err := p.sealer.Open(nil, box, p.directoryAAD(length))
	var records []Record
	if err == nil {
		records, err = decodeDirectory(plain, end)
	}
	dir := Directory{ID: p.id, Type: p.packType, Length: length, Records: records}
	dir.sum = dir.total(p.rows)
	if err == nil {
		err = dir.Intact()
	}
	if err != nil {
		p.err = fmt.Errorf("finish pack %s: %w: %v", p.id.Short(), stage.ErrSpoilt, err)
		return Directory{}, p.err
	}
	return dir, nil
}

// sizeWith is the object's length without padding, once another box, its row in
// the directory and more records are added.
func (p *Writer) sizeWith(box, row uint64, more int) uint64 {
	count := uvarintBytes(uint64(len(p.records) + more))
	return p.end + box + chunk.BoxOverhead + count + p.listed + row + trailerBytes
}

func (p *Writer) usable() error {
	if p.finished {
		return fmt.Errorf("write pack %s: %w", p.id.Short(), ErrFinished)
	}
	return p.err
}

// isUsed tells whether number was appended, and makes room to note that it is.
func (p *Writer) isUsed(number uint32) bool {
	for uint32(len(p.used)) <= number/64 {
		p.used = append(p.used, 0)
	}
	return p.used[number/64]&(1<<(number%64)) != 0
}

// write remembers an error: where w stands after it is unknown.
func (p *Writer) write(b []byte) error {
	n, err := p.w.Write(b)
	if err == nil && n != len(b) {
		err = io.ErrShortWrite
	}
	if err != nil {
		p.err = fmt.Errorf("write pack %s: %w", p.id.Short(), err)
		return p.err
	}
	p.end += uint64(len(b))
	return nil
}
