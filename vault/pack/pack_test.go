package pack

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/stage"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/key"
)

func testRing(b byte) *key.Ring { return key.NewRing(key.VaultID{b}, key.Root{b, 1}) }

func testID(b byte) chunk.ID { return chunk.ID{0xab, b, 31: 0xcd} }

// newRand returns a source whose seed a failing test prints.
func newRand(t testing.TB) *rand.Rand {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func testDecompressor(t testing.TB) *chunk.Decompressor {
	return must[*chunk.Decompressor](t)(chunk.NewDecompressor())
}

// randomRecord makes a plaintext, compressible or not, and its chunks.
func randomRecord(rng *rand.Rand, hasher *chunk.Hasher, maxChunks, maxLength int) ([]byte, []Chunk) {
	var plain []byte
	var chunks []Chunk
	random := rng.IntN(2) == 0
	for range 1 + rng.IntN(maxChunks) {
		b := make([]byte, 1+rng.IntN(maxLength))
		for i := range b {
			if random || i%50 == 0 {
				b[i] = byte(rng.Uint32())
			}
		}
		plain = append(plain, b...)
		chunks = append(chunks, NameChunk(hasher, b))
	}
	return plain, chunks
}

// addRecord takes a record through all that a worker does.
func addRecord(w *Writer, v *Verifier, c *chunk.Compressor, ids *chunk.Hasher, plain []byte, chunks []Chunk) error {
	rec := Record{Number: w.Reserve(), Plain: uint32(len(plain)), Chunks: chunks}
	stored, codec := c.Compress(nil, plain)
	rec.Codec = codec
	box := w.Seal(nil, rec.Number, rec.Codec, stored, rec.Plain)
	if err := v.Verify(w.Opener, &rec, box, ids); err != nil {
		return err
	}
	return w.Append(rec, box)
}

// buildPack makes a pack of random records.
func buildPack(t testing.TB, rng *rand.Rand, ring *key.Ring, id chunk.ID, records, maxChunks, maxLength int) ([]byte, Directory, [][]byte) {
	var object bytes.Buffer
	w := must[*Writer](t)(NewWriter(ring, key.TypeDataPack, id, &object, Options{}))
	v, c := NewVerifier(testDecompressor(t)), must[*chunk.Compressor](t)(chunk.NewCompressor(chunk.CompressorOptions{}))
	hasher := chunk.NewHasher(ring.ChunkID)
	var plains [][]byte
	for range records {
		plain, chunks := randomRecord(rng, hasher, maxChunks, maxLength)
		if err := addRecord(w, v, c, hasher, plain, chunks); err != nil {
			t.Fatal(err)
		}
		plains = append(plains, plain)
	}
	before := w.Length()
	dir := must[Directory](t)(w.Finish())
	if before != dir.Length || uint64(object.Len()) != dir.Length || !IsPadded(dir.Length) {
		t.Fatalf("length is %d, was announced as %d, in the directory %d", object.Len(), before, dir.Length)
	}
	return object.Bytes(), dir, plains
}

// readPack checks all of an object, as verify does, and returns its plaintexts.
func readPack(ring *key.Ring, id chunk.ID, object []byte, dec *chunk.Decompressor) (Directory, [][]byte, error) {
	o, err := NewOpener(ring, key.TypeDataPack, id)
	if err != nil {
		return Directory{}, nil, err
	}
	if err := o.CheckHeader(object); err != nil {
		return Directory{}, nil, err
	}
	dir, err := o.ParseDirectory(uint64(len(object)), object)
	if err != nil {
		return Directory{}, nil, err
	}
	var plains [][]byte
	for _, r := range dir.Records {
		box := bytes.Clone(object[r.Offset:][:r.Stored])
		plain, err := o.OpenRecord(nil, r, box, dec)
		if err != nil {
			return dir, nil, err
		}
		if err := CheckChunks(chunk.NewHasher(ring.ChunkID), r, plain); err != nil {
			return dir, nil, err
		}
		plains = append(plains, plain)
	}
	return dir, plains, nil
}

func TestRoundTrip(t *testing.T) {
	rng, ring, dec := newRand(t), testRing(1), testDecompressor(t)
	for range 30 {
		object, want, plains := buildPack(t, rng, ring, testID(1), 1+rng.IntN(20), 1+rng.IntN(30), 1+rng.IntN(9000))
		got, gotPlains, err := readPack(ring, testID(1), object, dec)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) || !reflect.DeepEqual(plains, gotPlains) {
			t.Fatal("what was read differs from what was written")
		}
	}
}

func TestEveryBitFlip(t *testing.T) {
	ring, dec := testRing(1), testDecompressor(t)
	object, _, _ := buildPack(t, newRand(t), ring, testID(1), 4, 3, 100)
	for i := range 8 * len(object) {
		object[i/8] ^= 1 << (i % 8)
		_, _, err := readPack(ring, testID(1), object, dec)
		if !errors.Is(err, key.ErrDamaged) && !errors.Is(err, key.ErrNewer) {
			t.Fatalf("bit %d of byte %d of %d flipped: %v", i%8, i/8, len(object), err)
		}
		object[i/8] ^= 1 << (i % 8)
	}
	if _, _, err := readPack(ring, testID(1), object, dec); err != nil {
		t.Fatal(err)
	}
}

func TestEveryLength(t *testing.T) {
	ring, dec := testRing(1), testDecompressor(t)
	object, _, _ := buildPack(t, newRand(t), ring, testID(1), 3, 3, 100)
	for n := range len(object) {
		if _, _, err := readPack(ring, testID(1), object[:n], dec); !errors.Is(err, key.ErrDamaged) {
			t.Fatalf("cut to %d of %d: %v", n, len(object), err)
		}
	}
	long := append(bytes.Clone(object), make([]byte, 1000)...)
	for n := len(object) + 1; n <= len(long); n++ {
		if _, _, err := readPack(ring, testID(1), long[:n], dec); !errors.Is(err, key.ErrDamaged) {
			t.Fatalf("lengthened to %d from %d: %v", n, len(object), err)
		}
	}
}

func TestMisplaced(t *testing.T) {
	rng, ring, dec := newRand(t), testRing(1), testDecompressor(t)
	object, dir, _ := buildPack(t, rng, ring, testID(1), 2, 1, 100)
	for name, err := range map[string]error{
		"other ID":    third(readPack(ring, testID(2), object, dec)),
		"other vault": third(readPack(testRing(2), testID(1), object, dec)),
	} {
		if !errors.Is(err, key.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	o := must[*Opener](t)(NewOpener(ring, key.TypeDataPack, testID(1)))
	open := func(r Record) error {
		_, err := o.OpenRecord(nil, r, bytes.Clone(object[r.Offset:][:r.Stored]), dec)
		return err
	}
	for i, change := range []func(r *Record){
		func(r *Record) { r.Number ^= 1 },
		func(r *Record) { r.Codec ^= 3 },
		func(r *Record) { r.Codec = 0 },
		func(r *Record) { r.Plain++ },
		func(r *Record) { r.Plain = 0 },
		func(r *Record) { r.Plain = chunk.MaxChunk + 1 },
		func(r *Record) { r.Stored-- },
		func(r *Record) { r.Stored = 5 },
		func(r *Record) { r.Offset++ },
	} {
		r := dir.Records[0]
		change(&r)
		if err := open(r); !errors.Is(err, key.ErrDamaged) {
			t.Errorf("change %d: %v", i, err)
		}
	}
	if err := open(dir.Records[0]); err != nil {
		t.Error(err)
	}
	if _, err := NewOpener(ring, key.TypeIndex, testID(1)); err == nil {
		t.Error("an index run was taken for a pack")
	}
}

func third[A, B any](_ A, _ B, err error) error { return err }

func TestCheckChunks(t *testing.T) {
	ring := testRing(1)
	h := chunk.NewHasher(ring.ChunkID)
	plain := []byte("onetwo")
	r := Record{Plain: 6, Chunks: []Chunk{{ID: h.Sum(plain[:3]), Length: 3}, {ID: h.Sum(plain[3:]), Length: 3}}}
	if err := CheckChunks(h, r, plain); err != nil {
		t.Fatal(err)
	}
	for i, change := range []func(){
		func() { plain[5]++ },
		func() { r.Chunks[0].Length++ },
		func() { r.Chunks[1].Length-- },
		func() { r.Chunks = r.Chunks[:1] },
		func() { r.Chunks = append(r.Chunks, Chunk{Length: 1}) },
		func() { plain = plain[:5] },
	} {
		savedPlain, saved := bytes.Clone(plain), Record{Plain: 6, Chunks: append([]Chunk{}, r.Chunks...)}
		change()
		if err := CheckChunks(h, r, plain); !errors.Is(err, key.ErrDamaged) {
			t.Errorf("change %d: %v", i, err)
		}
		plain, r = savedPlain, saved
	}
}

// TestVerifier spoils each thing that the verifier is given.
func TestVerifier(t *testing.T) {
	for how, name := range map[string]func(*chunk.Hasher, []byte) Chunk{
		"by checksum": NameChunk,
		"by ID":       func(ids *chunk.Hasher, b []byte) Chunk { return Chunk{ID: ids.Sum(b), Length: uint32(len(b))} },
	} {
		t.Run(how, func(t *testing.T) { verifierSpoilt(t, name) })
	}
}

func verifierSpoilt(t *testing.T, name func(*chunk.Hasher, []byte) Chunk) {
	ring := testRing(1)
	w := must[*Writer](t)(NewWriter(ring, key.TypeDataPack, testID(1), io.Discard, Options{}))
	v, ids := NewVerifier(testDecompressor(t)), chunk.NewHasher(ring.ChunkID)
	c := must[*chunk.Compressor](t)(chunk.NewCompressor(chunk.CompressorOptions{}))
	plain := bytes.Repeat([]byte("some plaintext "), 100)
	try := func(change func(plain []byte, rec *Record), spoil func(stored []byte) []byte, flip int) error {
		plain := bytes.Clone(plain)
		rec := Record{Number: w.Reserve(), Plain: uint32(len(plain)), Chunks: []Chunk{
			name(ids, plain[:100]), name(ids, plain[100:]),
		}}
		change(plain, &rec)
		stored, codec := c.Compress(nil, plain)
		rec.Codec = codec
		box := w.Seal(nil, rec.Number, codec, spoil(stored), rec.Plain)
		if flip >= 0 {
			box[flip] ^= 1
		}
		if err := v.Verify(w.Opener, &rec, box, ids); err != nil {
			if aerr := w.Append(rec, box); aerr == nil {
				t.Error("a record that was not verified is appended")
			}
			return err
		}
		return w.Append(rec, box)
	}
	keep, whole := func([]byte, *Record) {}, func(stored []byte) []byte { return stored }
	if err := try(keep, whole, -1); err != nil {
		t.Fatal(err)
	}
	other, _ := c.Compress(nil, bytes.Repeat([]byte("SOME plaintext "), 100))
	for what, err := range map[string]error{
		"plaintext":      try(func(plain []byte, _ *Record) { plain[700] ^= 1 }, whole, -1),
		"ID":             try(func(_ []byte, rec *Record) { rec.Chunks[1].ID[31] ^= 1 }, whole, -1),
		"length":         try(func(_ []byte, rec *Record) { rec.Chunks[0].Length++; rec.Chunks[1].Length-- }, whole, -1),
		"frame":          try(keep, func(stored []byte) []byte { stored[len(stored)/2] ^= 1; return stored }, -1),
		"another frame":  try(keep, func([]byte) []byte { return other }, -1),
		"shortened":      try(keep, func(stored []byte) []byte { return stored[:len(stored)-1] }, -1),
		"nonce":          try(keep, whole, 0),
		"box":            try(keep, whole, 20),
		"plaintext size": try(func(_ []byte, rec *Record) { rec.Plain++ }, whole, -1),
	} {
		if !errors.Is(err, stage.ErrSpoilt) || errors.Is(err, key.ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestConcurrentWorkers(t *testing.T) {
	ring, dec := testRing(1), testDecompressor(t)
	var object bytes.Buffer
	w := must[*Writer](t)(NewWriter(ring, key.TypeDataPack, testID(1), &object, Options{}))
	seed := rand.Uint64()
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(worker)))
			d, _ := chunk.NewDecompressor()
			c, _ := chunk.NewCompressor(chunk.CompressorOptions{})
			v, hasher := NewVerifier(d), chunk.NewHasher(ring.ChunkID)
			for range 20 {
				plain, chunks := randomRecord(rng, hasher, 5, 2000)
				if err := addRecord(w, v, c, hasher, plain, chunks); err != nil {
					t.Errorf("seed %d: %v", seed, err)
				}
				w.Full()
				w.Length()
			}
		})
	}
	wg.Wait()
	if _, err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	dir, _, err := readPack(ring, testID(1), object.Bytes(), dec)
	if err != nil || len(dir.Records) != 160 {
		t.Fatalf("%d records, %v", len(dir.Records), err)
	}
}

// objects is a backend that can only Get, and counts it.
type objects struct {
	backend.Backend
	m    map[string][]byte
	gets int
	fail error
}

func (o *objects) Get(_ context.Context, name string, off, length int64) (io.ReadCloser, error) {
	o.gets++
	if o.fail != nil {
		return nil, o.fail
	}
	b, ok := o.m[name]
	if !ok {
		return nil, backend.ErrNotFound
	}
	b = b[min(off, int64(len(b))):]
	return io.NopCloser(bytes.NewReader(b[:min(length, int64(len(b)))])), nil
}

func TestReadDirectory(t *testing.T) {
	rng, ring, ctx := newRand(t), testRing(1), context.Background()
	for _, c := range []struct{ records, gets int }{{1, 2}, {30, 2}, {300, 3}} {
		object, want, _ := buildPack(t, rng, ring, testID(1), c.records, 20, 5)
		b := &objects{m: map[string][]byte{Name(testID(1)): object}}
		got, err := ReadDirectory(ctx, b, ring, key.TypeDataPack, testID(1), want.Length)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%d records: %v", c.records, err)
		}
		if b.gets != c.gets {
			t.Errorf("%d records: %d requests, want %d", c.records, b.gets, c.gets)
		}
		for _, length := range []uint64{0, 1, want.Length / 2, want.Length * 2, 1 << 40} {
			if _, err := ReadDirectory(ctx, b, ring, key.TypeDataPack, testID(1), length); !errors.Is(err, key.ErrDamaged) {
				t.Errorf("length %d: %v", length, err)
			}
		}
		if _, err := ReadDirectory(ctx, b, ring, key.TypeDataPack, testID(2), want.Length); !errors.Is(err, backend.ErrNotFound) {
			t.Errorf("missing: %v", err)
		}
		b.fail = io.ErrClosedPipe
		if _, err := ReadDirectory(ctx, b, ring, key.TypeDataPack, testID(1), want.Length); !errors.Is(err, b.fail) || errors.Is(err, key.ErrDamaged) {
			t.Errorf("I/O error: %v", err)
		}
	}
}

func TestNames(t *testing.T) {
	id := must[chunk.ID](t)(NewID(bytes.NewReader(bytes.Repeat([]byte{0xa7}, 32))))
	if got := Name(id); got != "packs/a7/"+id.String() || len(got) > backend.MaxNameBytes {
		t.Error(got)
	}
	if _, err := NewID(bytes.NewReader(nil)); err == nil {
		t.Error("an ID of no randomness")
	}
	if a, b := must[chunk.ID](t)(NewID(nil)), must[chunk.ID](t)(NewID(nil)); a == b {
		t.Error("IDs repeat")
	}
}

// IDOf takes the names of packs, as Name makes them, and no others.
func TestIDOf(t *testing.T) {
	rng := newRand(t)
	for range 200 {
		var id chunk.ID
		for i := range id {
			id[i] = byte(rng.Uint32())
		}
		name := Name(id)
		if got, ok := IDOf(name); !ok || got != id {
			t.Fatalf("%s: %v, %v", name, got, ok)
		}
		cut := rng.IntN(len(name))
		for _, other := range []string{
			name[:cut], name + "0", name[:cut] + "x" + name[cut+1:], strings.ToUpper(name), "packs/" + name, "index/" + id.String(),
			name[len(Prefix):], "packs/zz/" + id.String(), "packs//" + id.String(), "packs/" + id.String(),
		} {
			if _, ok := IDOf(other); ok {
				t.Errorf("%q is taken for a pack", other)
			}
		}
	}
}
