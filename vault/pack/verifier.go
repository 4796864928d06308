package pack

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/tharsis-backup/tharsis/chunk"
)

// Verifier checks sealed records before they leave the machine, so that a fault
// of the memory, the compressor or the cipher is found while the original is
// still there. It keeps two buffers of a record's size, and is for one goroutine
// at a time.
type Verifier struct {
	dec           *chunk.Decompressor
	stored, plain []byte
}

// decodeSpare is the spare capacity with which the decompressor is fastest.
const decodeSpare = 16

// NewVerifier makes a Verifier that decodes with dec.
func NewVerifier(dec *chunk.Decompressor) *Verifier { return &Verifier{dec: dec} }

// DecodeAndCompare opens the box that o (a Writer's Opener) sealed for rec,
// decodes it and compares it with the plaintext that it was made of. Of rec it
// uses Number, Codec and Plain. box is not changed.
func (v *Verifier) DecodeAndCompare(o *Opener, rec Record, box, plain []byte) error {
	rec.Stored = uint32(len(box))
	v.stored = slices.Grow(v.stored[:0], len(box))
	v.plain = slices.Grow(v.plain[:0], len(plain)+decodeSpare)
	got, err := o.openRecord(v.plain, v.stored, rec, box, v.dec)
	if err != nil {
		return fmt.Errorf("verify sealed record: %w", err)
	}
	if !bytes.Equal(got, plain) {
		return fmt.Errorf("verify sealed record %d of pack %s: it decodes to other bytes than it was made of",
			rec.Number, o.id.Short())
	}
	return nil
}
