package pack

import (
	"fmt"
	"slices"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/stage"
)

// Verifier checks sealed records before they leave the machine, so that a fault
// of the memory, the compressor or the cipher is found while the original is
// still there. It keeps two buffers of a record's size, and is for one goroutine
// at a time.
type Verifier struct {
	dec           *chunk.Decompressor
	stored, plain []byte
	row           []byte
}

// decodeSpare is the spare capacity with which the decompressor is fastest.
const decodeSpare = 16

// NewVerifier makes a Verifier that decodes with dec.
func NewVerifier(dec *chunk.Decompressor) *Verifier { return &Verifier{dec: dec} }

// Verify does what a restore will do: it opens the box that o (a Writer's Opener)
// sealed for rec, decodes it, and checks each of its chunks: by the checksum of
// [NameChunk], which stands for the content and the ID as they were when the chunk was
// named, or else by the ID itself, as [CheckChunks]. So it also finds a plaintext
// that changed since. Of rec it uses Number, Codec, Plain and Chunks, and marks it as
// verified, with which box belongs to it: Append takes no others. It returns
// stage.ErrSpoilt. box is not changed.
func (v *Verifier) Verify(o *Opener, rec *Record, box []byte, ids *chunk.Hasher) error {
	rec.Stored = uint32(len(box))
	// The checksum comes first: what changes after it, the one or the other finds.
	sum := v.sum(rec, box)
	v.stored = slices.Grow(v.stored[:0], len(box))
	v.plain = slices.Grow(v.plain[:0], int(min(rec.Plain, chunk.MaxChunk))+decodeSpare)
	got, err := o.openRecord(v.plain, v.stored, *rec, box, v.dec)
	if err == nil {
		err = rec.checkNamed(ids, got)
	}
	if err != nil {
		// It is no damage of the vault, which has nothing of it yet.
		return fmt.Errorf("verify sealed record: %w: %v", stage.ErrSpoilt, err)
	}
	rec.verified, rec.sum = true, sum
	return nil
}

// sum is the checksum of a record's row in the directory and of its box.
func (v *Verifier) sum(rec *Record, box []byte) uint32 {
	v.row = appendRecord(v.row[:0], rec)
	return stage.Sum(stage.Sum(0, v.row), box)
}

// checkNamed checks the plaintext that rec decodes to.
func (r *Record) checkNamed(ids *chunk.Hasher, plain []byte) error {
	if slices.ContainsFunc(r.Chunks, func(c Chunk) bool { return c.sum == 0 }) {
		return CheckChunks(ids, *r, plain)
	}
	for _, c := range r.Chunks {
		if uint64(c.Length) > uint64(len(plain)) || stage.Sum(stage.Sum(0, plain[:c.Length]), c.ID[:]) != c.sum {
			return fmt.Errorf("chunk %s is not what was named so", c.ID.Short())
		}
		plain = plain[c.Length:]
	}
	if len(plain) != 0 {
		return fmt.Errorf("%d bytes in no chunk", len(plain))
	}
	return nil
}
