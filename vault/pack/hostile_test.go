package pack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/wire"
	"github.com/tharsis-backup/tharsis/vault/key"
)

// sealDirectory makes an object of boxes bytes of records and any directory
// plaintext, as someone with the keys could. It pads with pad.
func sealDirectory(o *Opener, boxes int, plain []byte, pad byte) []byte {
	object := key.AppendHeader(nil, o.packType, o.sealer)
	object = append(object, make([]byte, boxes)...)
	size := uint64(len(object) + len(plain) + chunk.BoxOverhead + trailerBytes)
	length := PaddedLength(size)
	plain = append(bytes.Clone(plain), bytes.Repeat([]byte{pad}, int(length-size))...)
	box := o.sealer.Seal(nil, plain, o.directoryAAD(length))
	object = append(object, box...)
	return binary.LittleEndian.AppendUint32(object, uint32(len(box)))
}

func goodRecords() []Record {
	return []Record{
		{Number: 3, Codec: chunk.CodecPlain, Plain: 300, Stored: 328, Chunks: []Chunk{{ID: chunk.ID{1}, Length: 100}, {ID: chunk.ID{2}, Length: 200}}},
		{Number: 1, Codec: chunk.CodecZstd, Plain: 5000, Stored: 72, Chunks: []Chunk{{ID: chunk.ID{3}, Length: 5000}}},
	}
}

func TestHostileDirectories(t *testing.T) {
	o := must[*Opener](t)(NewOpener(testRing(1), key.TypeDataPack, testID(1)))
	parse := func(object []byte) error {
		_, err := o.ParseDirectory(uint64(len(object)), object)
		return err
	}
	good := appendDirectory(nil, goodRecords())
	if err := parse(sealDirectory(o, 400, good, 0)); err != nil {
		t.Fatal(err)
	}
	cases := map[string][]byte{
		"padding":        sealDirectory(o, 400, append(good, 0, 0, 1, 0), 0),
		"padding byte":   sealDirectory(o, 400, good, 0x80),
		"tile long":      sealDirectory(o, 399, good, 0),
		"tile short":     sealDirectory(o, 401, good, 0),
		"empty":          sealDirectory(o, 400, nil, 0),
		"many records":   sealDirectory(o, 400, wire.AppendUvarint(nil, 1<<40), 0),
		"65,537 records": sealDirectory(o, 400, append(wire.AppendUvarint(nil, MaxRecords+1), make([]byte, 40*MaxRecords)...), 0),
		"cut":            sealDirectory(o, 400, good[:len(good)-40], 0),
		"long varint":    sealDirectory(o, 400, append([]byte{0x82, 0}, good[1:]...), 0),
	}
	for name, change := range map[string]func(r []Record){
		"no chunks":      func(r []Record) { r[1].Chunks = nil },
		"number twice":   func(r []Record) { r[1].Number = 3 },
		"codec 0":        func(r []Record) { r[1].Codec = 0 },
		"codec 3":        func(r []Record) { r[1].Codec = 3 },
		"plain 0":        func(r []Record) { r[1].Plain = 0 },
		"plain long":     func(r []Record) { r[1].Plain = chunk.MaxChunk + 1 },
		"sum":            func(r []Record) { r[1].Plain++ },
		"chunk 0":        func(r []Record) { r[0].Chunks[0].Length, r[0].Chunks[1].Length = 0, 300 },
		"chunk overflow": func(r []Record) { r[0].Chunks[0].Length = 1<<32 - 200 },
		"plain codec":    func(r []Record) { r[0].Plain, r[0].Chunks[0].Length = 301, 101 },
		"stored 28":      func(r []Record) { r[0].Stored, r[1].Stored = 372, 28 },
		"stored long":    func(r []Record) { r[1].Stored = MaxStored + 1 },
	} {
		r := goodRecords()
		change(r)
		cases[name] = sealDirectory(o, 400, appendDirectory(nil, r), 0)
	}
	chunks := make([]Chunk, MaxRecordChunks)
	for i := range chunks {
		chunks[i].Length = 1
	}
	var many []Record
	for i := range uint32(3) {
		many = append(many, Record{Number: i, Codec: chunk.CodecZstd, Plain: MaxRecordChunks, Stored: 100, Chunks: chunks})
	}
	cases["chunks"] = sealDirectory(o, 300, appendDirectory(nil, many), 0)
	for name, object := range cases {
		if err := parse(object); !errors.Is(err, key.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := parse(sealDirectory(o, 200, appendDirectory(nil, many[:2]), 0)); err != nil {
		t.Error(err)
	}
}

// TestUnpaddedLength has a directory that is right but for the object's length.
func TestUnpaddedLength(t *testing.T) {
	o := must[*Opener](t)(NewOpener(testRing(1), key.TypeDataPack, testID(1)))
	plain := appendDirectory(nil, goodRecords())
	for pad := range 64 {
		object := append(key.AppendHeader(nil, o.packType, o.sealer), make([]byte, 400)...)
		length := uint64(len(object) + len(plain) + pad + chunk.BoxOverhead + trailerBytes)
		box := o.sealer.Seal(nil, append(bytes.Clone(plain), make([]byte, pad)...), o.directoryAAD(length))
		object = binary.LittleEndian.AppendUint32(append(object, box...), uint32(len(box)))
		_, err := o.ParseDirectory(length, object)
		if IsPadded(length) != (err == nil) || err != nil && !errors.Is(err, key.ErrDamaged) {
			t.Errorf("length %d: %v", length, err)
		}
	}
}

func TestNewerVersion(t *testing.T) {
	ring := testRing(1)
	object, _, _ := buildPack(t, newRand(t), ring, testID(1), 1, 1, 100)
	object[4] = 1
	object[8] ^= 1 // another key's commitment, as a newer version's is
	if _, _, err := readPack(ring, testID(1), object, testDecompressor(t)); !errors.Is(err, key.ErrNewer) || errors.Is(err, key.ErrDamaged) {
		t.Error(err)
	}
}

// FuzzDirectory gives the decoder any plaintext behind a valid seal. What it takes
// must be what the encoder writes.
func FuzzDirectory(f *testing.F) {
	f.Add(appendDirectory(nil, goodRecords()), uint16(400))
	f.Add([]byte{0}, uint16(29))
	o := must[*Opener](f)(NewOpener(testRing(1), key.TypeDataPack, testID(1)))
	f.Fuzz(func(t *testing.T, plain []byte, boxes uint16) {
		object := sealDirectory(o, int(boxes), plain, 0)
		dir, err := o.ParseDirectory(uint64(len(object)), object)
		if err != nil {
			if !errors.Is(err, key.ErrDamaged) {
				t.Fatal(err)
			}
			return
		}
		again := appendDirectory(nil, dir.Records)
		if len(again) > len(plain) || !bytes.Equal(append(again, make([]byte, len(plain)-len(again))...), plain) {
			t.Fatal("the encoder writes another directory")
		}
	})
}

// FuzzObject gives the reader any object.
func FuzzObject(f *testing.F) {
	ring, dec := testRing(1), testDecompressor(f)
	object, _, _ := buildPack(f, newRand(f), ring, testID(1), 3, 3, 100)
	f.Add(object)
	f.Add(object[:60])
	f.Fuzz(func(t *testing.T, object []byte) {
		_, _, err := readPack(ring, testID(1), object, dec)
		if err != nil && !errors.Is(err, key.ErrDamaged) && !errors.Is(err, key.ErrNewer) {
			t.Fatal(err)
		}
	})
}
