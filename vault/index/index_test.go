package index

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

var (
	bg   = context.Background()
	ring = key.NewRing(key.VaultID{1}, key.Root{2})
)

// newRand returns a source whose seed a failing test prints.
func newRand(t testing.TB) *rand.Rand {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

func randomID(rng *rand.Rand) (id chunk.ID) {
	for i := range id {
		id[i] = byte(rng.Uint32())
	}
	return id
}

// randomPack makes a directory. Some chunks are in pool, so that packs share them.
func randomPack(rng *rand.Rand, maxRecords, maxChunks int, pool []chunk.ID) pack.Directory {
	d := pack.Directory{ID: randomID(rng), Type: key.TypeDataPack + uint8(rng.IntN(2))}
	offset := uint32(key.HeaderBytes)
	for n := range 1 + rng.IntN(maxRecords) {
		r := pack.Record{Number: uint32(n) ^ 1, Codec: chunk.CodecPlain + chunk.Codec(rng.IntN(2)), Offset: offset}
		for range 1 + rng.IntN(maxChunks) {
			c := pack.Chunk{ID: randomID(rng), Length: 1 + rng.Uint32N(1000)}
			if len(pool) > 0 && rng.IntN(4) == 0 {
				c.ID = pool[rng.IntN(len(pool))]
			}
			r.Chunks = append(r.Chunks, c)
			r.Plain += c.Length
		}
		r.Stored = r.Plain + chunk.BoxOverhead
		if r.Codec == chunk.CodecZstd {
			r.Stored = r.Plain/2 + 30
		}
		offset += r.Stored
		d.Records = append(d.Records, r)
	}
	d.Length = pack.PaddedLength(uint64(offset) + 100)
	return d
}

func randomPacks(rng *rand.Rand, packs, maxRecords, maxChunks int) []pack.Directory {
	pool := []chunk.ID{randomID(rng), randomID(rng), randomID(rng)}
	var dirs []pack.Directory
	for range packs {
		dirs = append(dirs, randomPack(rng, maxRecords, maxChunks, pool))
	}
	return dirs
}

// locations is the model: all places of all chunks.
func locations(dirs []pack.Directory) map[chunk.ID][]Location {
	m := make(map[chunk.ID][]Location)
	for _, d := range dirs {
		for _, r := range d.Records {
			offset := uint32(0)
			for _, c := range r.Chunks {
				m[c.ID] = append(m[c.ID], Location{d.ID, d.Type, d.Length, r.Number, r.Offset, r.Stored, r.Plain, r.Codec, offset, c.Length})
				offset += c.Length
			}
		}
	}
	for _, l := range m {
		slices.SortFunc(l, func(a, b Location) int {
			if c := bytes.Compare(a.Pack[:], b.Pack[:]); c != 0 {
				return c
			}
			if a.RecordOffset != b.RecordOffset {
				return int(a.RecordOffset) - int(b.RecordOffset)
			}
			return int(a.Offset) - int(b.Offset)
		})
	}
	return m
}

func writeRun(t testing.TB, id chunk.ID, dirs []pack.Directory) []byte {
	t.Helper()
	var b bytes.Buffer
	size, err := Write(&b, ring, id, dirs)
	if err != nil || size != int64(b.Len()) {
		t.Fatalf("size %d, %d bytes written, %v", size, b.Len(), err)
	}
	return b.Bytes()
}

func openBytes(id chunk.ID, object []byte, cache *BlockCache) (*Run, error) {
	return OpenRun(bg, ring, id, FileSource(bytes.NewReader(object)), int64(len(object)), cache)
}

func openRun(t testing.TB, id chunk.ID, object []byte, cache *BlockCache) *Run {
	t.Helper()
	r, err := openBytes(id, object, cache)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// plaintext is all rows of a run, as they were before they were sealed.
func plaintext(t testing.TB, r *Run) []byte {
	t.Helper()
	b := appendFooter(nil, r.counts, r.fences)
	for row, err := range r.Packs(bg) {
		check(t, err)
		b = appendPackRow(b, &row)
	}
	for row, err := range r.Records(bg) {
		check(t, err)
		b = appendRecordRow(b, &row)
	}
	for row, err := range r.Chunks(bg) {
		check(t, err)
		b = appendChunkRow(b, &row)
	}
	return b
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestLookup(t *testing.T) {
	rng := newRand(t)
	for range 30 {
		dirs := randomPacks(rng, 1+rng.IntN(300), 1+rng.IntN(5), 1+rng.IntN(8))
		id := randomID(rng)
		r := openRun(t, id, writeRun(t, id, dirs), NewBlockCache(rng.IntN(1<<20)))
		check(t, r.Verify(bg))
		model := locations(dirs)
		for id, want := range model {
			got, err := r.Lookup(bg, id, nil)
			if err != nil || !slices.Equal(got, want) {
				t.Fatalf("chunk %s: %v, want %v, %v", id.Short(), got, want, err)
			}
			id[rng.IntN(32)] ^= 1 << rng.IntN(8) // a near miss, most likely absent
			if got, err := r.Lookup(bg, id, nil); err != nil || !slices.Equal(got, model[id]) {
				t.Fatalf("absent chunk %s: %v, %v", id.Short(), got, err)
			}
		}
		for _, id := range []chunk.ID{{}, chunk.ID(bytes.Repeat([]byte{0xff}, 32))} {
			if got, err := r.Lookup(bg, id, nil); err != nil || len(got) != 0 {
				t.Fatalf("%v, %v", got, err)
			}
		}
	}
}

// TestManyPlaces has one chunk in more places than a block has rows, and chunks
// with an equal fence around it.
func TestManyPlaces(t *testing.T) {
	rng := newRand(t)
	pool := []chunk.ID{{5, 8: 1}, {5, 8: 2}, {5, 8: 2, 31: 1}, {5, 8: 3}}
	var dirs []pack.Directory
	for range 1500 {
		dirs = append(dirs, randomPack(rng, 4, 5, pool))
	}
	r := openRun(t, chunk.ID{1}, writeRun(t, chunk.ID{1}, dirs), NewBlockCache(0))
	check(t, r.Verify(bg))
	model := locations(dirs)
	for _, id := range append(pool, chunk.ID{5}, chunk.ID{5, 8: 2, 30: 1}, chunk.ID{5, 8: 4}) {
		got, err := r.Lookup(bg, id, nil)
		if err != nil || !slices.Equal(got, model[id]) {
			t.Errorf("%s: %d places, want %d, %v", id, len(got), len(model[id]), err)
		}
	}
	if len(model[pool[0]]) < 2*blockRows {
		t.Errorf("only %d places", len(model[pool[0]]))
	}
}

func TestWriteIsDeterministic(t *testing.T) {
	rng := newRand(t)
	dirs := randomPacks(rng, 100, 5, 10)
	id := randomID(rng)
	want := plaintext(t, openRun(t, id, writeRun(t, id, dirs), nil))
	rng.Shuffle(len(dirs), func(i, j int) { dirs[i], dirs[j] = dirs[j], dirs[i] })
	r := openRun(t, id, writeRun(t, id, dirs), nil)
	if !bytes.Equal(plaintext(t, r), want) {
		t.Error("another order makes another run")
	}
	chunks := 0
	for _, places := range locations(dirs) {
		chunks += len(places)
	}
	if c := r.Counts(); c.Packs != 100 || int(c.Chunks) != chunks || r.ID() != id {
		t.Errorf("%+v, want %d chunks", c, chunks)
	}
}

func TestWriteRefuses(t *testing.T) {
	rng := newRand(t)
	for i, change := range []func(d *pack.Directory){
		func(d *pack.Directory) { d.Type = key.TypeIndex },
		func(d *pack.Directory) { d.Length++ },
		func(d *pack.Directory) { d.Length /= 2 },
		func(d *pack.Directory) { d.Records = nil },
		func(d *pack.Directory) { d.Records[1].Offset-- },
		func(d *pack.Directory) { d.Records[0].Offset = 10 },
		func(d *pack.Directory) { d.Records[0].Chunks = nil },
		func(d *pack.Directory) { d.Records[0].Plain++ },
		func(d *pack.Directory) { d.Records[0].Codec = 9 },
	} {
		d := randomPack(rng, 1, 1, nil)
		second := d.Records[0]
		second.Offset += second.Stored
		d.Records = append(d.Records, second)
		d.Length = pack.PaddedLength(uint64(second.Offset + second.Stored + 100))
		if _, err := Write(io.Discard, ring, chunk.ID{1}, []pack.Directory{d}); err != nil {
			t.Fatal(err)
		}
		change(&d)
		if _, err := Write(io.Discard, ring, chunk.ID{1}, []pack.Directory{d}); err == nil {
			t.Errorf("change %d was taken", i)
		}
	}
	d := randomPack(rng, 3, 3, nil)
	if _, err := Write(io.Discard, ring, chunk.ID{1}, []pack.Directory{d, d}); err == nil {
		t.Error("a pack was taken twice")
	}
	var b bytes.Buffer
	if _, err := Write(&b, ring, chunk.ID{1}, nil); !errors.Is(err, ErrEmpty) || b.Len() != 0 {
		t.Errorf("%v, %d bytes", err, b.Len())
	}
}

// readAll opens a run and checks all of it.
func readAll(id chunk.ID, object []byte) error {
	r, err := openBytes(id, object, nil)
	if err != nil {
		return err
	}
	return r.Verify(bg)
}

func isDetected(err error) bool {
	return errors.Is(err, key.ErrDamaged) || errors.Is(err, key.ErrNewer)
}

func TestEveryBitFlip(t *testing.T) {
	rng := newRand(t)
	id := randomID(rng)
	object := writeRun(t, id, randomPacks(rng, 3, 2, 3))
	for i := range 8 * len(object) {
		object[i/8] ^= 1 << (i % 8)
		if err := readAll(id, object); !isDetected(err) {
			t.Fatalf("bit %d of byte %d of %d flipped: %v", i%8, i/8, len(object), err)
		}
		object[i/8] ^= 1 << (i % 8)
	}
	check(t, readAll(id, object))
}

func TestFlipsInManyBlocks(t *testing.T) {
	rng := newRand(t)
	id := randomID(rng)
	object := writeRun(t, id, randomPacks(rng, 600, 2, 3))
	for i := rng.IntN(500); i < len(object); i += 1 + rng.IntN(500) {
		bit := byte(1) << rng.IntN(8)
		object[i] ^= bit
		if err := readAll(id, object); !isDetected(err) {
			t.Fatalf("byte %d of %d changed: %v", i, len(object), err)
		}
		object[i] ^= bit
	}
}

func TestEveryLength(t *testing.T) {
	rng := newRand(t)
	id := randomID(rng)
	object := writeRun(t, id, randomPacks(rng, 3, 2, 3))
	for n := range len(object) {
		if err := readAll(id, object[:n]); !errors.Is(err, key.ErrDamaged) {
			t.Fatalf("cut to %d of %d: %v", n, len(object), err)
		}
		// The length that the log or a listing told is right, the object is cut.
		_, err := OpenRun(bg, ring, id, FileSource(bytes.NewReader(object[:n])), int64(len(object)), nil)
		if !errors.Is(err, key.ErrDamaged) {
			t.Fatalf("cut to %d of %d: %v", n, len(object), err)
		}
	}
	for n := 1; n < 200; n++ {
		if err := readAll(id, append(bytes.Clone(object), make([]byte, n)...)); !errors.Is(err, key.ErrDamaged) {
			t.Fatalf("%d bytes more: %v", n, err)
		}
	}
}

func TestMisplaced(t *testing.T) {
	rng := newRand(t)
	id := randomID(rng)
	object := writeRun(t, id, randomPacks(rng, 600, 2, 3))
	if err := readAll(randomID(rng), object); !errors.Is(err, key.ErrDamaged) {
		t.Errorf("other ID: %v", err)
	}
	other := key.NewRing(key.VaultID{9}, key.Root{2})
	if _, err := OpenRun(bg, other, id, FileSource(bytes.NewReader(object)), int64(len(object)), nil); !errors.Is(err, key.ErrDamaged) {
		t.Errorf("other vault: %v", err)
	}
	r := openRun(t, id, object, nil)
	for _, tab := range []table{r.layout.packs, r.layout.chunks} {
		swapped := bytes.Clone(object)
		n := tab.boxBytes()
		a, b := swapped[tab.begin:][:n], swapped[tab.begin+int64(n):][:n]
		saved := bytes.Clone(a)
		copy(a, b)
		copy(b, saved)
		if err := readAll(id, swapped); !errors.Is(err, key.ErrDamaged) {
			t.Errorf("blocks of table %d swapped: %v", tab.number, err)
		}
	}
}

type failingSource struct {
	Source
	fail bool
}

func (s *failingSource) ReadAt(ctx context.Context, p []byte, off int64) error {
	if s.fail {
		return io.ErrClosedPipe
	}
	return s.Source.ReadAt(ctx, p, off)
}

func TestSourceErrors(t *testing.T) {
	rng := newRand(t)
	id := randomID(rng)
	dirs := randomPacks(rng, 10, 2, 3)
	object := writeRun(t, id, dirs)
	src := &failingSource{FileSource(bytes.NewReader(object)), true}
	isIO := func(err error) {
		t.Helper()
		if !errors.Is(err, io.ErrClosedPipe) || errors.Is(err, key.ErrDamaged) {
			t.Error(err)
		}
	}
	_, err := OpenRun(bg, ring, id, src, int64(len(object)), nil)
	isIO(err)
	src.fail = false
	r, err := OpenRun(bg, ring, id, src, int64(len(object)), nil)
	check(t, err)
	ctx, cancel := context.WithCancel(bg)
	cancel()
	if err := r.Verify(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	src.fail = true
	_, err = r.Lookup(bg, dirs[0].Records[0].Chunks[0].ID, nil)
	isIO(err)
	isIO(r.Verify(bg))
	_, err = BuildFilter(bg, r)
	isIO(err)
	_, err = Merge(bg, io.Discard, ring, id, []*Run{r}, nil)
	isIO(err)
}

func TestIteratorsStop(t *testing.T) {
	rng := newRand(t)
	id := randomID(rng)
	r := openRun(t, id, writeRun(t, id, randomPacks(rng, 300, 2, 3)), nil)
	n := 0
	for _, err := range r.Chunks(bg) {
		check(t, err)
		if n++; n == 300 {
			break
		}
	}
	if n != 300 {
		t.Error(n)
	}
}
