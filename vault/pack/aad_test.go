package pack

import (
	"bytes"
	"errors"
	"testing"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/key"
)

// TestAADFields alters each field of the additional data of a record and of a
// directory, bit by bit, under the right key: no box opens in another place than its
// own. The key of a pack depends on the vault and the ID as well, so that these two
// are bound twice; here they are tried alone.
func TestAADFields(t *testing.T) {
	ring, dec := testRing(1), testDecompressor(t)
	plain := bytes.Repeat([]byte("text"), 100)
	for _, codec := range []chunk.Codec{chunk.CodecPlain, chunk.CodecZstd} {
		o := must[*Opener](t)(NewOpener(ring, key.TypeDataPack, testID(1)))
		stored := plain
		if codec == chunk.CodecZstd {
			c := must[*chunk.Compressor](t)(chunk.NewCompressor(chunk.CompressorOptions{}))
			stored, _ = c.Compress(nil, plain)
		}
		r := Record{Number: 0x01020304, Codec: codec, Plain: uint32(len(plain))}
		box := o.sealer.Seal(nil, stored, o.recordAAD(r.Number, r.Codec, r.Plain))
		r.Stored = uint32(len(box))
		open := func(o *Opener, r Record) error {
			_, err := o.OpenRecord(nil, r, bytes.Clone(box), dec)
			return err
		}
		if err := open(o, r); err != nil {
			t.Fatal(err)
		}
		tried := 0
		reject := func(what string, bit int, o Opener, r Record) {
			tried++
			if err := open(&o, r); !errors.Is(err, key.ErrDamaged) {
				t.Errorf("%s, bit %d of %s: %v", codec, bit, what, err)
			}
		}
		for bit := range 128 {
			other := *o
			other.vault[bit/8] ^= 1 << (bit % 8)
			reject("the vault ID", bit, other, r)
		}
		for bit := range 256 {
			other := *o
			other.id[bit/8] ^= 1 << (bit % 8)
			reject("the pack ID", bit, other, r)
		}
		for bit := range 32 {
			other := r
			other.Number ^= 1 << bit
			reject("the number", bit, *o, other)
			other = r
			other.Plain ^= 1 << bit
			reject("the plaintext length", bit, *o, other)
		}
		for bit := range 8 {
			other := r
			other.Codec ^= 1 << bit
			reject("the codec", bit, *o, other)
		}
		if tried != 128+256+32+32+8 {
			t.Errorf("%d tried", tried)
		}
	}
}

// TestAADIsInjective: two places have the same additional data only if all fields
// are equal, so that no bound field stands in for another.
func TestAADIsInjective(t *testing.T) {
	o := must[*Opener](t)(NewOpener(testRing(1), key.TypeDataPack, testID(1)))
	seen := map[string]string{}
	add := func(what string, aad []byte) {
		if was, ok := seen[string(aad)]; ok {
			t.Errorf("%s has the additional data of %s", what, was)
		}
		seen[string(aad)] = what
	}
	for bit := range 32 {
		add("a number", o.recordAAD(1<<bit, 0, 0))
		add("a length", o.recordAAD(0, 0, 1<<bit))
	}
	for codec := range 256 {
		add("a codec", o.recordAAD(0, chunk.Codec(codec), 0))
	}
	for bit := range 64 {
		add("a directory", o.directoryAAD(1<<bit))
	}
}

// TestDirectoryAADFields is the same for the box of a directory.
func TestDirectoryAADFields(t *testing.T) {
	o := must[*Opener](t)(NewOpener(testRing(1), key.TypeDataPack, testID(1)))
	plain := []byte("a directory")
	box := o.sealer.Seal(nil, plain, o.directoryAAD(4096))
	opens := func(o *Opener, length uint64) bool {
		_, err := o.sealer.Open(nil, box, o.directoryAAD(length))
		return err == nil
	}
	if !opens(o, 4096) {
		t.Fatal("it does not open")
	}
	for bit := range 128 {
		other := *o
		if other.vault[bit/8] ^= 1 << (bit % 8); opens(&other, 4096) {
			t.Errorf("bit %d of the vault ID", bit)
		}
	}
	for bit := range 256 {
		other := *o
		if other.id[bit/8] ^= 1 << (bit % 8); opens(&other, 4096) {
			t.Errorf("bit %d of the pack ID", bit)
		}
	}
	for bit := range 64 {
		if opens(o, 4096^1<<bit) {
			t.Errorf("bit %d of the length", bit)
		}
	}
	// A record's box is no directory, and the other way round.
	if r := o.sealer.Seal(nil, plain, o.recordAAD(0, chunk.CodecPlain, 4096)); r != nil {
		if _, err := o.sealer.Open(nil, r, o.directoryAAD(4096)); err == nil {
			t.Error("a record opens as a directory")
		}
	}
}
