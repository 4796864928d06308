package index

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

func sumsOf(t *testing.T, s *Summer, r *Run) map[chunk.ID]Sum {
	t.Helper()
	all := map[chunk.ID]Sum{}
	check(t, r.Sums(bg, s, func(p *PackRow, sum Sum) error {
		all[p.ID] = sum
		return nil
	}))
	return all
}

func newSummer(t *testing.T) *Summer {
	t.Helper()
	s, err := NewSummer(nil)
	check(t, err)
	return s
}

// The sums of a run are those of its packs' directories, whatever else is in the run,
// and in whichever windows it is verified.
func TestSumsAreThoseOfDirectories(t *testing.T) {
	rng := newRand(t)
	s := newSummer(t)
	for range 20 {
		dirs := randomPacks(rng, 1+rng.IntN(300), 1+rng.IntN(5), 1+rng.IntN(6))
		id := randomID(rng)
		one := openRun(t, id, writeRun(t, id, dirs), nil)
		id = randomID(rng)
		part := randomPart(rng, dirs)
		if len(part) == 0 {
			part = dirs[:1]
		}
		merged, err := mergeRuns(t, randomID(rng), []*Run{one, openRun(t, id, writeRun(t, id, part), nil)}, nil)
		check(t, err)
		for _, r := range []*Run{one, merged} {
			sums := sumsOf(t, s, r)
			for i := range dirs {
				if sums[dirs[i].ID] != s.Directory(&dirs[i]) {
					t.Fatalf("pack %d of %d has another sum", i, len(dirs))
				}
			}
		}
		windowed := &packSums{Summer: s}
		check(t, one.verifyRecords(bg, windowed))
		check(t, one.verifyChunks(bg, 1+rng.Uint32N(50), windowed))
		i := 0
		for p, err := range one.Packs(bg) {
			check(t, err)
			if j := slices.IndexFunc(dirs, func(d pack.Directory) bool { return d.ID == p.ID }); windowed.sums[i] != s.Directory(&dirs[j]) {
				t.Fatal("another sum in windows")
			}
			i++
		}
	}
}

// change makes a directory another one in one way, which a run may hold all the same.
func change(rng *rand.Rand, d *pack.Directory) (what string) {
	r := &d.Records[rng.IntN(len(d.Records))]
	c := &r.Chunks[rng.IntN(len(r.Chunks))]
	switch rng.IntN(8) {
	case 0:
		c.ID[rng.IntN(32)] ^= 1 << rng.IntN(8)
		return "chunk's ID"
	case 1:
		r.Number += 1000
		return "record's number"
	case 2:
		d.Records[len(d.Records)-1].Offset++
		return "record's offset"
	case 3:
		d.Type ^= key.TypeDataPack ^ key.TypeManifestPack
		return "type"
	case 4:
		d.Length = pack.PaddedLength(d.Length + 1)
		return "length"
	case 5:
		if r.Codec == chunk.CodecZstd {
			r.Stored--
			return "stored length"
		}
		r.Codec = chunk.CodecZstd
		return "codec"
	case 6:
		if len(d.Records) > 1 {
			d.Records = d.Records[:len(d.Records)-1]
			return "records"
		}
	}
	if n := len(r.Chunks); n > 1 && r.Chunks[0] != r.Chunks[n-1] {
		r.Chunks[0], r.Chunks[n-1] = r.Chunks[n-1], r.Chunks[0]
		return "order of chunks"
	}
	c.ID[0]++
	return "chunk's ID"
}

func cloneDirectory(d *pack.Directory) pack.Directory {
	c := *d
	c.Records = slices.Clone(d.Records)
	for i := range c.Records {
		c.Records[i].Chunks = slices.Clone(d.Records[i].Chunks)
	}
	return c
}

// One difference between a run and a directory shows, and only in that pack.
func TestSumsDiffer(t *testing.T) {
	rng := newRand(t)
	s := newSummer(t)
	seen := map[string]int{}
	for range 400 {
		dirs := randomPacks(rng, 1+rng.IntN(6), 1+rng.IntN(4), 1+rng.IntN(4))
		wrong := slices.Clone(dirs)
		at := rng.IntN(len(dirs))
		wrong[at] = cloneDirectory(&dirs[at])
		what := change(rng, &wrong[at])
		seen[what]++
		id := randomID(rng)
		var b bytes.Buffer
		if _, err := Write(&b, ring, id, wrong); err != nil {
			continue // what no run may hold
		}
		sums := sumsOf(t, s, openRun(t, id, b.Bytes(), nil))
		for i := range dirs {
			if (sums[dirs[i].ID] == s.Directory(&dirs[i])) != (i != at) {
				t.Errorf("%s changed in pack %d, compared %d", what, at, i)
			}
		}
		right := locations(dirs)
		for id, locs := range locations(wrong) {
			for k := range locs {
				i := slices.IndexFunc(dirs, func(d pack.Directory) bool { return d.ID == locs[k].Pack })
				if got, want := locs[k].Says(&dirs[i], id), slices.Contains(right[id], locs[k]); got != want {
					t.Errorf("%s changed: a place is said to be right: %v, and is: %v", what, got, want)
				}
			}
		}
	}
	if len(seen) < 9 {
		t.Errorf("changed: %v", seen)
	}
}

// Salvage gives of a whole run just the directories; of a damaged one it gives
// records as they were, and all those of which no row was in a damaged block.
func TestSalvage(t *testing.T) {
	rng := newRand(t)
	for range 30 {
		dirs := randomPacks(rng, 1+rng.IntN(900), 1+rng.IntN(3), 1+rng.IntN(5))
		id := randomID(rng)
		object := writeRun(t, id, dirs)
		chosen := map[chunk.ID]*pack.Directory{}
		for i := range dirs {
			if rng.IntN(3) == 0 {
				chosen[dirs[i].ID] = &dirs[i]
			}
		}
		want := func(p chunk.ID) bool { return chosen[p] != nil }
		got, err := openRun(t, id, object, nil).Salvage(bg, want)
		check(t, err)
		if len(got) != len(chosen) {
			t.Fatalf("%d of %d packs of a whole run", len(got), len(chosen))
		}
		for i := range got {
			if !equalDirectories(&got[i], chosen[got[i].ID]) {
				t.Fatal("another directory")
			}
		}
		r := openRun(t, id, bytes.Clone(object), nil)
		at := key.HeaderBytes + rng.IntN(int(r.layout.chunks.end())-key.HeaderBytes)
		object[at] ^= 1
		got, err = openRun(t, id, object, nil).Salvage(bg, want)
		check(t, err)
		records, all := 0, 0
		for pos, hit := range hits(t, r, int64(at)) {
			if !hit && chosen[pos.pack] != nil {
				all++
			}
		}
		for i := range got {
			whole := chosen[got[i].ID]
			for k := range got[i].Records {
				records++
				rec := &got[i].Records[k]
				if !slices.ContainsFunc(whole.Records, func(o pack.Record) bool { return equalRecords(&o, rec) }) {
					t.Fatalf("a record that the pack does not have: %+v", rec)
				}
			}
		}
		if records != all {
			t.Errorf("%d records, and %d are not hurt", records, all)
		}
		// That an error of the source is not taken for damage.
		r.src = &failingSource{fail: true}
		if _, err := r.Salvage(bg, want); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("%v", err)
		}
	}
}

type recordPlace struct {
	pack   chunk.ID
	offset uint32
}

// hits tells of each record of a run whether one of its rows is in the block at an offset.
func hits(t *testing.T, r *Run, at int64) map[recordPlace]bool {
	t.Helper()
	in := func(tab *table, row uint32) bool {
		begin := tab.begin + int64(row/blockRows)*int64(tab.boxBytes())
		return at >= begin && at < begin+int64(tab.boxBytes()) && at < tab.end()
	}
	var packs []chunk.ID
	for p, err := range r.Packs(bg) {
		check(t, err)
		packs = append(packs, p.ID)
	}
	all := map[recordPlace]bool{}
	var places []recordPlace
	for rec, err := range r.Records(bg) {
		check(t, err)
		place := recordPlace{packs[rec.Pack], rec.Offset}
		all[place] = in(&r.layout.packs, rec.Pack) || in(&r.layout.records, uint32(len(places)))
		places = append(places, place)
	}
	n := uint32(0)
	for c, err := range r.Chunks(bg) {
		check(t, err)
		if in(&r.layout.chunks, n) {
			all[places[c.Record]] = true
		}
		n++
	}
	return all
}

func equalRecords(a, b *pack.Record) bool {
	return a.Number == b.Number && a.Codec == b.Codec && a.Plain == b.Plain && a.Stored == b.Stored && a.Offset == b.Offset &&
		slices.Equal(a.Chunks, b.Chunks)
}

func equalDirectories(a, b *pack.Directory) bool {
	return a.ID == b.ID && a.Type == b.Type && a.Length == b.Length && slices.EqualFunc(a.Records, b.Records, func(x, y pack.Record) bool {
		return equalRecords(&x, &y)
	})
}
