package pack

import (
	"errors"
	"io"
	"math/bits"
	"math/rand/v2"
	"testing"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/stage"
	"github.com/tharsis-backup/tharsis/vault/key"
)

func discardWriter(t testing.TB, opt Options) *Writer {
	return must[*Writer](t)(NewWriter(testRing(1), key.TypeManifestPack, testID(1), io.Discard, opt))
}

// fakeRecord makes a record that a Writer takes: it does not look into boxes.
func fakeRecord(w *Writer, length uint32, chunks int) (Record, []byte) {
	r := Record{Number: w.Reserve(), Codec: chunk.CodecPlain, Plain: length, Chunks: make([]Chunk, chunks)}
	for i := range r.Chunks {
		r.Chunks[i].Length = 1
	}
	r.Chunks[0].Length = length - uint32(chunks) + 1
	box := make([]byte, length+chunk.BoxOverhead)
	return approved(r, box), box
}

// approved is a record that passes for a verified one.
func approved(r Record, box []byte) Record {
	r.Stored = uint32(len(box))
	r.verified, r.sum = true, new(Verifier).sum(&r, box)
	return r
}

func TestWriterMisuse(t *testing.T) {
	w := discardWriter(t, Options{})
	if _, err := w.Finish(); err == nil {
		t.Error("a pack without records was finished")
	}
	if w.Full() {
		t.Error("a pack without records is full")
	}
	r, box := fakeRecord(w, 100, 3)
	before := w.Length()
	for i, change := range []func(r *Record){
		func(r *Record) { r.Number = 99 },
		func(r *Record) { r.Codec = 3 },
		func(r *Record) { r.Plain++ },
		func(r *Record) { r.Chunks = r.Chunks[1:] },
		func(r *Record) { r.Chunks = nil },
		func(r *Record) { r.Codec = 0 },
	} {
		bad := r
		change(&bad)
		if err := w.Append(bad, box); err == nil {
			t.Errorf("change %d was taken", i)
		}
	}
	if err := w.Append(r, box[1:]); err == nil {
		t.Error("a cut box was taken")
	}
	if err := w.Append(r, make([]byte, MaxStored+1)); err == nil {
		t.Error("a long box was taken")
	}
	if w.Length() != before {
		t.Error("refused records count")
	}
	if err := w.Append(r, box); err != nil {
		t.Fatal(err)
	}
	if err := w.Append(r, box); err == nil {
		t.Error("a repeated number was taken")
	}
	if _, err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Finish(); !errors.Is(err, ErrFinished) {
		t.Error(err)
	}
	if r, box := fakeRecord(w, 100, 3); !errors.Is(w.Append(r, box), ErrFinished) {
		t.Error("a record after Finish")
	}
	if _, err := NewWriter(testRing(1), key.TypeIndex, testID(1), io.Discard, Options{}); err == nil {
		t.Error("a pack of an index run's type")
	}
	if _, err := NewWriter(testRing(1), key.TypeDataPack, testID(1), io.Discard, Options{Target: MaxTarget + 1}); err == nil {
		t.Error("a target above the limit")
	}
}

// TestSpoiltAfterVerify changes what a Writer has or is given at each place behind
// the verifier: either Append or Finish finds it.
func TestSpoiltAfterVerify(t *testing.T) {
	for name, spoil := range map[string]func(w *Writer, r *Record, box []byte){
		"box":     func(_ *Writer, _ *Record, box []byte) { box[50] ^= 8 },
		"ID":      func(_ *Writer, r *Record, _ []byte) { r.Chunks[2].ID[0] ^= 1 },
		"lengths": func(_ *Writer, r *Record, _ []byte) { r.Chunks[0].Length--; r.Chunks[1].Length++ },
		"record":  func(*Writer, *Record, []byte) {}, // the one that is there already
	} {
		w := discardWriter(t, Options{})
		first, box := fakeRecord(w, 200, 2)
		if err := w.Append(first, box); err != nil {
			t.Fatal(err)
		}
		r, box := fakeRecord(w, 100, 3)
		spoil(w, &r, box)
		err := w.Append(r, box)
		if name == "record" {
			w.records[0].Chunks[1].ID[5] ^= 1
			_, err = w.Finish()
		}
		if !errors.Is(err, stage.ErrSpoilt) {
			t.Errorf("%s: %v", name, err)
		}
		if err := w.Append(approved(r, box), box); err == nil {
			t.Errorf("%s: the pack goes on", name)
		}
	}
	w := discardWriter(t, Options{})
	r, box := fakeRecord(w, 100, 3)
	r.verified = false
	if err := w.Append(r, box); err == nil {
		t.Error("a record that was not verified is appended")
	}
}

// TestIntact changes a directory in memory.
func TestIntact(t *testing.T) {
	w := discardWriter(t, Options{})
	for range 3 {
		r, box := fakeRecord(w, 100, 3)
		if err := w.Append(r, box); err != nil {
			t.Fatal(err)
		}
	}
	d := must[Directory](t)(w.Finish())
	for i, change := range []func(){
		func() { d.ID[0]++ }, func() { d.Type++ }, func() { d.Length++ },
		func() { d.Records[1].Number++ }, func() { d.Records[1].Codec++ }, func() { d.Records[1].Plain++ },
		func() { d.Records[1].Stored++ }, func() { d.Records[1].Offset++ },
		func() { d.Records[2].Chunks[1].ID[3]++ }, func() { d.Records[2].Chunks[1].Length++ },
		func() { d.Records = d.Records[1:] },
	} {
		if err := d.Intact(); err != nil {
			t.Fatal(err)
		}
		change()
		if err := d.Intact(); !errors.Is(err, stage.ErrSpoilt) {
			t.Errorf("change %d: %v", i, err)
		}
		d.Stamp()
	}
}

func TestAppendCopiesChunks(t *testing.T) {
	w := discardWriter(t, Options{})
	r, box := fakeRecord(w, 100, 3)
	if err := w.Append(r, box); err != nil {
		t.Fatal(err)
	}
	r.Chunks[0].Length = 77
	if dir := must[Directory](t)(w.Finish()); dir.Records[0].Chunks[0].Length != 98 {
		t.Error("the caller's slice was kept")
	}
}

func TestLimits(t *testing.T) {
	for _, c := range []struct {
		name   string
		length uint32
		chunks int
		most   int
	}{
		{"records", 1, 1, MaxRecords},
		{"chunks", MaxRecordChunks, MaxRecordChunks, 2},
		{"bytes", chunk.MaxChunk, 1, 31},
	} {
		w := discardWriter(t, Options{Target: MaxTarget})
		r, box := fakeRecord(w, c.length, c.chunks)
		full := -1
		for i := range c.most {
			if full < 0 && w.Full() {
				full = i
			}
			if err := w.Append(r, box); err != nil {
				t.Fatalf("%s: record %d: %v", c.name, i, err)
			}
			r.Number = w.Reserve()
			r = approved(r, box)
		}
		if err := w.Append(r, box); !errors.Is(err, ErrFull) {
			t.Errorf("%s: %v", c.name, err)
		}
		if full < 0 && !w.Full() {
			t.Errorf("%s: no room for any record, but not full", c.name)
		}
		if dir := must[Directory](t)(w.Finish()); dir.Length > MaxLength || !IsPadded(dir.Length) {
			t.Errorf("%s: length %d", c.name, dir.Length)
		}
	}
}

type failingWriter struct{ left int }

func (f *failingWriter) Write(b []byte) (int, error) {
	if f.left -= len(b); f.left < 0 {
		return 0, io.ErrClosedPipe
	}
	return len(b), nil
}

func TestWriteErrorSticks(t *testing.T) {
	if _, err := NewWriter(testRing(1), key.TypeDataPack, testID(1), &failingWriter{10}, Options{}); !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
	f := &failingWriter{60}
	w := must[*Writer](t)(NewWriter(testRing(1), key.TypeDataPack, testID(1), f, Options{}))
	r, box := fakeRecord(w, 100, 1)
	if err := w.Append(r, box); !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
	f.left = 1 << 20
	if err := w.Append(r, box); !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
	if _, err := w.Finish(); !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
}

func TestPadme(t *testing.T) {
	// The definition, with floors of logarithms by counting.
	log2 := func(n uint64) (e int) {
		for n >>= 1; n > 0; n >>= 1 {
			e++
		}
		return e
	}
	next := uint64(1 << 17)
	for n := next; n > 1; n-- {
		e := log2(n)
		padded := n&(1<<(e-log2(uint64(e))-1)-1) == 0
		if e == 1 {
			padded = true
		}
		if padded {
			next = n
		}
		if IsPadded(n) != padded || PaddedLength(n) != next {
			t.Fatalf("%d: padded %v, next %d", n, IsPadded(n), PaddedLength(n))
		}
		if e > 8 && (next-n)*100 > n*12 {
			t.Fatalf("%d is padded to %d", n, next)
		}
	}
	for e := 17; e < 62; e++ {
		n := uint64(1)<<e + 1
		if p := PaddedLength(n); !IsPadded(p) || p <= n || bits.Len64(p) != e+1 || PaddedLength(p) != p {
			t.Fatalf("2^%d + 1 is padded to %d", e, p)
		}
	}
}

// TestPaddingIsSmall holds closeHere to what its comment says.
func TestPaddingIsSmall(t *testing.T) {
	rng := newRand(t)
	zeros := make([]byte, MaxStored)
	for _, c := range []struct {
		name  string
		most  float64
		draw  func() uint32
		packs int
	}{
		{"segments", 0.0015, func() uint32 { return 60<<10 + rng.Uint32N(240<<10) }, 400},
		{"chunks", 0.007, func() uint32 { return min(512<<10+uint32(rng.ExpFloat64()*(1<<20)), 4<<20) }, 1000},
		{"mixed", 0.005, func() uint32 {
			if rng.IntN(4) == 0 {
				return 512<<10 + rng.Uint32N(3584<<10)
			}
			return 60<<10 + rng.Uint32N(240<<10)
		}, 600},
	} {
		var size, padding uint64
		for range c.packs {
			w := discardWriter(t, Options{})
			for !w.Full() {
				n := c.draw()
				r := Record{Number: w.Reserve(), Codec: chunk.CodecPlain, Plain: n, Chunks: []Chunk{{Length: n}}}
				box := zeros[:r.Plain+chunk.BoxOverhead]
				if err := w.Append(approved(r, box), box); err != nil {
					t.Fatal(err)
				}
			}
			unpadded := w.sizeWith(0, 0, 0)
			if unpadded < DefaultTarget/8*5 || unpadded > DefaultTarget/4*5+5<<20 {
				t.Fatalf("%s: closed at %d", c.name, unpadded)
			}
			size, padding = size+unpadded, padding+w.Length()-unpadded
		}
		mean := float64(padding) / float64(size)
		t.Logf("%s: padding %.3f %%, mean length %.1f MiB", c.name, 100*mean, float64(size)/float64(c.packs)/(1<<20))
		if mean > c.most {
			t.Errorf("%s: padding %.3f %%", c.name, 100*mean)
		}
	}
}

func BenchmarkAppendSegment(b *testing.B) {
	w := discardWriter(b, Options{})
	plain := make([]byte, 256<<10)
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range plain {
		plain[i] = byte(rng.Uint32())
	}
	v, ids := NewVerifier(testDecompressor(b)), chunk.NewHasher(testRing(1).PageID)
	chunks := []Chunk{NameChunk(ids, plain)}
	var box []byte
	b.SetBytes(int64(len(plain)))
	for b.Loop() {
		rec := Record{Number: w.Reserve(), Codec: chunk.CodecPlain, Plain: uint32(len(plain)), Chunks: chunks}
		box = w.Seal(box[:0], rec.Number, rec.Codec, plain, rec.Plain)
		if err := v.Verify(w.Opener, &rec, box, ids); err != nil {
			b.Fatal(err)
		}
		if err := w.Append(rec, box); errors.Is(err, ErrFull) {
			w = discardWriter(b, Options{})
		}
	}
}
