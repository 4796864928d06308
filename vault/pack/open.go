package pack

import (
	"encoding/binary"
	"fmt"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/key"
)

// Opener opens the parts of one pack. Making one costs a key derivation (some
// microseconds), so a reader of many records keeps it. It is safe for concurrent
// use.
type Opener struct {
	sealer   *chunk.Sealer
	vault    key.VaultID
	id       chunk.ID
	packType uint8
}

// NewOpener makes the Opener of the pack id. A type that is not a pack's is
// reported as damage, since it is what an index said.
func NewOpener(ring *key.Ring, packType uint8, id chunk.ID) (*Opener, error) {
	if err := checkType(packType); err != nil {
		return nil, fmt.Errorf("open pack %s: %w", id.Short(), err)
	}
	return &Opener{ring.Sealer(packType, id[:]), ring.Vault, id, packType}, nil
}

// CheckHeader checks the first key.HeaderBytes of the object. A reader does it
// before it trusts anything that it opens of the pack.
func (o *Opener) CheckHeader(b []byte) error {
	if err := key.CheckHeader(b, o.packType, o.sealer); err != nil {
		return fmt.Errorf("open pack %s: %w", o.id.Short(), err)
	}
	return nil
}

// OpenRecord returns the plaintext of the record r, whose box is box. Of r it uses
// Number, Codec, Plain and Stored, which an index has, too. It overwrites dst and
// returns a slice of it, or a new one where dst's capacity is below r.Plain (16
// more is fastest). box is overwritten as well, and must not overlap dst. The
// caller checks the IDs of the chunks that it uses (see [CheckChunks]).
func (o *Opener) OpenRecord(dst []byte, r Record, box []byte, dec *chunk.Decompressor) ([]byte, error) {
	return o.openRecord(dst, box[:0], r, box, dec)
}

// openRecord opens compressed records by way of scratch.
func (o *Opener) openRecord(dst, scratch []byte, r Record, box []byte, dec *chunk.Decompressor) ([]byte, error) {
	if err := o.checkBox(r, box); err != nil {
		return nil, err
	}
	aad := o.recordAAD(r.Number, r.Codec, r.Plain)
	if r.Codec == chunk.CodecPlain {
		out, err := o.sealer.Open(dst[:0], box, aad)
		if err != nil {
			return nil, o.recordError(r, err)
		}
		return out, nil
	}
	stored, err := o.sealer.Open(scratch, box, aad)
	if err != nil {
		return nil, o.recordError(r, err)
	}
	out, err := dec.Decompress(dst, stored, r.Codec, int(r.Plain))
	if err != nil {
		return nil, o.recordError(r, err)
	}
	return out, nil
}

// checkBox bounds what an index or a directory says before it is acted on.
func (o *Opener) checkBox(r Record, box []byte) error {
	if err := r.checkSizes(); err != nil {
		return o.recordError(r, err)
	}
	if len(box) != int(r.Stored) {
		return o.recordError(r, fmt.Errorf("box of %d bytes, want %d", len(box), r.Stored))
	}
	return nil
}

func (o *Opener) recordError(r Record, err error) error {
	return fmt.Errorf("open record %d of pack %s: %w: %w", r.Number, o.id.Short(), key.ErrDamaged, err)
}

func (o *Opener) recordAAD(number uint32, codec chunk.Codec, plain uint32) []byte {
	b := make([]byte, 0, 80)
	b = append(b, "tharsis/0/record"...)
	b = append(b, o.vault[:]...)
	b = append(b, o.id[:]...)
	b = binary.LittleEndian.AppendUint32(b, number)
	b = append(b, uint8(codec))
	return binary.LittleEndian.AppendUint32(b, plain)
}

func (o *Opener) directoryAAD(length uint64) []byte {
	b := make([]byte, 0, 80)
	b = append(b, "tharsis/0/directory"...)
	b = append(b, o.vault[:]...)
	b = append(b, o.id[:]...)
	return binary.LittleEndian.AppendUint64(b, length)
}

// CheckChunks checks the ID of every chunk of a record against its plaintext.
// hasher has the ring's ChunkID key for a data pack, PageID for a manifest pack.
func CheckChunks(hasher *chunk.Hasher, r Record, plain []byte) error {
	if uint64(len(plain)) != uint64(r.Plain) {
		return fmt.Errorf("check record %d: %w: plaintext of %d bytes, want %d",
			r.Number, key.ErrDamaged, len(plain), r.Plain)
	}
	for _, c := range r.Chunks {
		if uint64(c.Length) > uint64(len(plain)) {
			return fmt.Errorf("check record %d: %w: chunks are longer than the plaintext", r.Number, key.ErrDamaged)
		}
		if hasher.Sum(plain[:c.Length]) != c.ID {
			return fmt.Errorf("check record %d: %w: the content of chunk %s differs from its ID",
				r.Number, key.ErrDamaged, c.ID.Short())
		}
		plain = plain[c.Length:]
	}
	if len(plain) != 0 {
		return fmt.Errorf("check record %d: %w: %d bytes in no chunk", r.Number, key.ErrDamaged, len(plain))
	}
	return nil
}
