// Package stage marks the places where bytes pass from one step of storing them to
// the next, and says what is wrong where they changed on the way.
//
// A machine with a faulty memory, processor or disk changes bytes between two
// steps, and a fault of a library does it within one. What is stored then would
// be found out at a restore, when the original is gone. So each step takes a
// checksum before it hands bytes on, or undoes what was done and compares, and the
// job ends with [ErrSpoilt] before anything wrong is in the vault. To prove it, a
// test spoils bytes at any of the points by [SetHook]. Without a hook a point
// costs one atomic load.
//
// What changes before the first checksum is taken cannot be told from what the
// source really has.
package stage

import (
	"errors"
	"hash/crc32"
	"io"

	"github.com/tharsis-backup/tharsis/internal/hook"
)

// ErrSpoilt is for bytes that changed on their way into the vault. Nothing of them
// was stored, and the vault has nothing to do with it.
var ErrSpoilt = errors.New("data changed within this machine on its way to the vault")

// Point is a place between two steps.
type Point string

// The points, in the order of a job.
const (
	Named      Point = "named"       // the content of a record, once its chunks have their IDs
	Compressed Point = "compressed"  // a record's content, compressed
	Sealed     Point = "sealed"      // a record's box
	Verified   Point = "verified"    // a record's box, once it was opened and checked
	Listed     Point = "listed"      // a chunk's ID, kept for the directory of its pack
	Directory  Point = "directory"   // a pack's directory
	DirBox     Point = "dir-box"     // a pack's directory, sealed
	Indexed    Point = "indexed"     // a chunk's ID, kept for the index run
	IndexRows  Point = "index-rows"  // a block of an index run
	IndexBox   Point = "index-box"   // a block of an index run, sealed
	EntryField Point = "entry-field" // an entry of the log, before it is signed
	EntryPlain Point = "entry-plain" // an entry of the log, signed
	EntryBox   Point = "entry-box"   // an entry of the log, sealed
	EntryReady Point = "entry-ready" // an entry of the log, once it was opened and checked
	SlotBox    Point = "slot-box"    // what a key slot seals
	Body       Point = "body"        // what a local vault read of an object's bytes and is about to write
)

// Points are all points.
var Points = []Point{
	Named, Compressed, Sealed, Verified, Listed, Directory, DirBox, Indexed, IndexRows, IndexBox,
	EntryField, EntryPlain, EntryBox, EntryReady, SlotBox, Body,
}

// Hook is given the bytes that pass a point, and may change them. It is called at
// the same time from several goroutines.
type Hook func(p Point, b []byte)

var point hook.Point[Hook]

// SetHook sets the hook of this process, for tests, and returns what puts the
// former one back. A nil hook is none.
func SetHook(h Hook) (restore func()) { return point.Set(h, h != nil) }

// Pass says that b passes a point.
func Pass(p Point, b []byte) {
	if h := point.Load(); h != nil {
		(*h)(p, b)
	}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Sum extends a checksum, 0 at first, by b: CRC-32C, which finds every change of
// up to three bits and of up to 32 in a row in what a job has in one piece, and
// costs next to nothing.
func Sum(sum uint32, b []byte) uint32 { return crc32.Update(sum, castagnoli, b) }

// Bytes is an object's content that is checked whenever it is read.
type Bytes struct {
	b   []byte
	sum uint32
}

// Check makes a Bytes of b, as it is now. It keeps b.
func Check(b []byte) *Bytes { return &Bytes{b, Sum(0, b)} }

// Len is the length of the content.
func (b *Bytes) Len() int64 { return int64(len(b.b)) }

// All is the content, or ErrSpoilt where it is another. It must not be changed.
func (b *Bytes) All() ([]byte, error) {
	if Sum(0, b.b) != b.sum {
		return nil, ErrSpoilt
	}
	return b.b, nil
}

// ReadAt implements io.ReaderAt. It returns ErrSpoilt where the content is another.
func (b *Bytes) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= int64(len(b.b)) {
		return 0, io.EOF
	}
	n := copy(p, b.b[off:])
	if Sum(0, b.b) != b.sum {
		return 0, ErrSpoilt
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
