package index

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// benchPacks has n chunks, 32 in a record and 2048 in a pack.
func benchPacks(n int) ([]pack.Directory, []chunk.ID) {
	rng := rand.New(rand.NewPCG(1, 2))
	var dirs []pack.Directory
	var ids []chunk.ID
	for len(ids) < n {
		d := randomPack(rng, 1, 1, nil)
		d.Records = d.Records[:0]
		offset := uint32(40)
		for i := range uint32(64) {
			r := pack.Record{Number: i, Codec: chunk.CodecZstd, Offset: offset, Stored: 4000}
			for range 32 {
				c := pack.Chunk{ID: randomID(rng), Length: 300}
				r.Chunks = append(r.Chunks, c)
				r.Plain += c.Length
				ids = append(ids, c.ID)
			}
			offset += r.Stored
			d.Records = append(d.Records, r)
		}
		d.Length = pack.PaddedLength(uint64(offset) + 100_000)
		dirs = append(dirs, d)
	}
	rng.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	return dirs, ids
}

func benchLookup(b *testing.B, cache *BlockCache, f func(set *Set, id chunk.ID)) {
	dirs, ids := benchPacks(200_000)
	r := openRun(b, chunk.ID{1}, writeRun(b, chunk.ID{1}, dirs), cache)
	filter, err := BuildFilter(bg, r)
	check(b, err)
	set := NewSet(nil, Member{r, filter})
	for _, id := range ids {
		f(set, id)
	}
	i := 0
	for b.Loop() {
		f(set, ids[i%len(ids)])
		i++
	}
}

func mustFind(b *testing.B) func(set *Set, id chunk.ID) {
	return func(set *Set, id chunk.ID) {
		if _, ok, err := set.Lookup(bg, id); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}

func BenchmarkLookupWarm(b *testing.B) { benchLookup(b, NewBlockCache(0), mustFind(b)) }

func BenchmarkLookupCold(b *testing.B) { benchLookup(b, NewBlockCache(1<<20), mustFind(b)) }

func BenchmarkLookupAbsent(b *testing.B) {
	benchLookup(b, NewBlockCache(0), func(set *Set, id chunk.ID) {
		id[15] ^= 0x55 // what the filter looks at, not what the fences do
		id[20] ^= 0x55
		if _, ok, err := set.Lookup(bg, id); ok || err != nil {
			b.Fatal(ok, err)
		}
	})
}

func BenchmarkWrite200k(b *testing.B) {
	dirs, _ := benchPacks(200_000)
	for b.Loop() {
		if _, err := Write(io.Discard, ring, chunk.ID{1}, dirs); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMerge200k(b *testing.B) {
	dirs, _ := benchPacks(200_000)
	var runs []*Run
	for i := range 8 {
		n := len(dirs) / 8
		id := chunk.ID{byte(i)}
		runs = append(runs, openRun(b, id, writeRun(b, id, dirs[n*i:n*i+n]), nil))
	}
	for b.Loop() {
		if _, err := Merge(bg, io.Discard, ring, chunk.ID{1}, runs, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerify200k(b *testing.B) {
	dirs, _ := benchPacks(200_000)
	var buf bytes.Buffer
	_, err := Write(&buf, ring, chunk.ID{1}, dirs)
	check(b, err)
	r := openRun(b, chunk.ID{1}, buf.Bytes(), nil)
	b.SetBytes(r.Size())
	for b.Loop() {
		check(b, r.Verify(bg))
	}
}
