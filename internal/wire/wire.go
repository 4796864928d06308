// Package wire reads and writes the primitive fields of docs/FORMAT.md §1:
// little-endian integers, minimal varints and length-prefixed byte strings.
//
// A [Decoder] is strict: it rejects a varint that is longer than needed, a
// length above the caller's bound, and (in Done) trailing bytes. It never
// allocates more than the input holds. It is not safe for concurrent use.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
)

// ErrMalformed is wrapped by every error of a [Decoder].
var ErrMalformed = errors.New("malformed")

// Decoder reads fields from a byte slice. The first error sticks: later reads
// return zero values, so that a caller checks once, with Err or Done.
type Decoder struct {
	buf []byte
	off int
	err error
}

// NewDecoder reads from b, which must not change while the decoder is used.
func NewDecoder(b []byte) *Decoder { return &Decoder{buf: b} }

// Reset makes d read from b.
func (d *Decoder) Reset(b []byte) { *d = Decoder{buf: b} }

// Err is the first error met, or nil.
func (d *Decoder) Err() error { return d.err }

// Len is the number of unread bytes.
func (d *Decoder) Len() int { return len(d.buf) - d.off }

// Offset is the number of bytes read.
func (d *Decoder) Offset() int { return d.off }

// Done returns the first error, or an error when bytes are left.
func (d *Decoder) Done() error {
	if d.err == nil && d.Len() != 0 {
		d.Fail("%d trailing bytes", d.Len())
	}
	return d.err
}

// Fail records an error of the caller's own check, at the current offset.
func (d *Decoder) Fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w at byte %d: %s", ErrMalformed, d.off, fmt.Sprintf(format, args...))
	}
}

// Bytes returns the next n bytes, aliasing the input, or nil on an error.
func (d *Decoder) Bytes(n int) []byte {
	if d.err != nil {
		return nil
	}
	if n < 0 || n > d.Len() {
		d.Fail("need %d bytes, have %d", n, d.Len())
		return nil
	}
	b := d.buf[d.off : d.off+n : d.off+n]
	d.off += n
	return b
}

// Fixed fills dst with the next len(dst) bytes.
func (d *Decoder) Fixed(dst []byte) { copy(dst, d.Bytes(len(dst))) }

// U8 reads one byte.
func (d *Decoder) U8() uint8 {
	if b := d.Bytes(1); b != nil {
		return b[0]
	}
	return 0
}

// U16 reads a little-endian uint16.
func (d *Decoder) U16() uint16 {
	if b := d.Bytes(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

// U32 reads a little-endian uint32.
func (d *Decoder) U32() uint32 {
	if b := d.Bytes(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

// U64 reads a little-endian uint64.
func (d *Decoder) U64() uint64 {
	if b := d.Bytes(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// I64 reads a little-endian two's complement int64.
func (d *Decoder) I64() int64 { return int64(d.U64()) }

// Uvarint reads a minimal base-128 varint of at most max.
func (d *Decoder) Uvarint(max uint64) uint64 {
	if d.err != nil {
		return 0
	}
	v, n := binary.Uvarint(d.buf[d.off:])
	switch {
	case n <= 0:
		d.Fail("bad varint")
		return 0
	case n != uvarintLen(v):
		d.Fail("varint is not minimal")
		return 0
	case v > max:
		d.Fail("value %d is above the limit %d", v, max)
		return 0
	}
	d.off += n
	return v
}

// Varint reads a zigzag-coded signed varint.
func (d *Decoder) Varint() int64 {
	u := d.Uvarint(1<<64 - 1)
	return int64(u>>1) ^ -int64(u&1)
}

// Blob reads a byte string of at most max bytes with its varint length. The
// result aliases the input.
func (d *Decoder) Blob(max int) []byte {
	return d.Bytes(int(d.Uvarint(uint64(max))))
}

// Str is Blob as a string.
func (d *Decoder) Str(max int) string { return string(d.Blob(max)) }

// Count reads the number of rows that follow: at most max, and no more than
// the rest of the input can hold at minRowBytes (at least 1) each, so that a
// caller may allocate by it.
func (d *Decoder) Count(max, minRowBytes int) int {
	n := d.Uvarint(uint64(max))
	if d.err == nil && n > uint64(d.Len()/minRowBytes) {
		d.Fail("%d rows do not fit into %d bytes", n, d.Len())
		return 0
	}
	return int(n)
}

func uvarintLen(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }

// AppendU16 appends a little-endian uint16.
func AppendU16(b []byte, v uint16) []byte { return binary.LittleEndian.AppendUint16(b, v) }

// AppendU32 appends a little-endian uint32.
func AppendU32(b []byte, v uint32) []byte { return binary.LittleEndian.AppendUint32(b, v) }

// AppendU64 appends a little-endian uint64.
func AppendU64(b []byte, v uint64) []byte { return binary.LittleEndian.AppendUint64(b, v) }

// AppendUvarint appends a minimal base-128 varint.
func AppendUvarint(b []byte, v uint64) []byte { return binary.AppendUvarint(b, v) }

// AppendVarint appends a zigzag-coded signed varint.
func AppendVarint(b []byte, v int64) []byte { return binary.AppendVarint(b, v) }

// AppendBlob appends s with its varint length.
func AppendBlob[T ~string | ~[]byte](b []byte, s T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}
