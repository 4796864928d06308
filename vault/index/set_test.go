package index

import (
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

func TestFilter(t *testing.T) {
	rng := newRand(t)
	var dirs []pack.Directory
	for range 300 {
		dirs = append(dirs, randomPack(rng, 10, 10, nil))
	}
	id := randomID(rng)
	r := openRun(t, id, writeRun(t, id, dirs), nil)
	built, err := BuildFilter(bg, r)
	check(t, err)
	f, err := LoadFilter(built.Bytes(), id)
	check(t, err)
	for id := range locations(dirs) {
		if !f.MayHave(id) {
			t.Fatalf("chunk %s is denied", id)
		}
	}
	wrong := 0
	for range 20_000 {
		if f.MayHave(randomID(rng)) {
			wrong++
		}
	}
	t.Logf("%d of 20000 absent chunks pass, %d bytes for %d chunks", wrong, len(f.Bytes()), r.Counts().Chunks)
	if wrong > 300 {
		t.Errorf("%d of 20000 absent chunks pass", wrong)
	}
	if _, err := LoadFilter(built.Bytes(), randomID(rng)); !errors.Is(err, key.ErrDamaged) {
		t.Error(err)
	}
}

func TestSpoiltFilter(t *testing.T) {
	rng := newRand(t)
	id := randomID(rng)
	f, err := BuildFilter(bg, openRun(t, id, writeRun(t, id, randomPacks(rng, 3, 3, 3)), nil))
	check(t, err)
	b := f.Bytes()
	for i := range 8 * len(b) {
		b[i/8] ^= 1 << (i % 8)
		if _, err := LoadFilter(b, id); !errors.Is(err, key.ErrDamaged) {
			t.Fatalf("bit %d: %v", i, err)
		}
		b[i/8] ^= 1 << (i % 8)
	}
	for n := range len(b) {
		if _, err := LoadFilter(b[:n], id); !errors.Is(err, key.ErrDamaged) {
			t.Fatalf("cut to %d: %v", n, err)
		}
	}
}

func TestSet(t *testing.T) {
	rng := newRand(t)
	dirs := randomPacks(rng, 200, 3, 4)
	usable := func(id chunk.ID) bool { return id[0]%2 == 0 }
	var members []Member
	for i := range 4 {
		id := randomID(rng)
		r := openRun(t, id, writeRun(t, id, dirs[50*i:50*i+50]), NewBlockCache(0))
		m := Member{Run: r}
		if i%2 == 0 {
			f, err := BuildFilter(bg, r)
			check(t, err)
			m.Filter = f
		}
		members = append(members, m)
	}
	set := NewSet(usable, members...)
	for id := range locations(dirs) {
		var want []Location
		for i := range 4 {
			for _, l := range locations(dirs[50*i : 50*i+50])[id] {
				if usable(l.Pack) {
					want = append(want, l)
				}
			}
		}
		all, err := set.LookupAll(bg, id, nil)
		if err != nil || !slices.Equal(all, want) {
			t.Fatalf("%v, want %v, %v", all, want, err)
		}
		l, ok, err := set.Lookup(bg, id)
		if err != nil || ok != (len(want) > 0) || ok && l != want[0] {
			t.Fatalf("%v %v %v", l, ok, err)
		}
		if l, ok, err := NewSet(nil, members...).Lookup(bg, id); !ok || err != nil || l.Length == 0 {
			t.Fatalf("%v %v %v", l, ok, err)
		}
	}
	if _, ok, err := NewSet(nil).Lookup(bg, chunk.ID{1}); ok || err != nil {
		t.Error(ok, err)
	}
}

// TestBlockCache compares with a list, and checks the budget.
func TestBlockCache(t *testing.T) {
	rng := newRand(t)
	const blockBytes, most = 100, 10
	c := NewBlockCache(most * (blockBytes + blockOverhead))
	var model []blockKey // newest first
	for range 5000 {
		k := blockKey{run: uint64(rng.IntN(3)), number: rng.Uint32N(4), table: uint8(rng.IntN(3))}
		i := slices.Index(model, k)
		if b := c.get(k); (b != nil) != (i >= 0) {
			t.Fatalf("%v: cached %v, want %v", k, b != nil, i >= 0)
		}
		if i < 0 {
			c.put(k, make([]byte, blockBytes))
		} else {
			model = slices.Delete(model, i, i+1)
		}
		if model = slices.Insert(model, 0, k); len(model) > most {
			model = model[:most]
		}
		if c.used > c.budget || len(c.entries) != len(model) {
			t.Fatalf("%d bytes in %d entries", c.used, len(c.entries))
		}
	}
	c.put(blockKey{run: 9}, make([]byte, c.budget+1))
	if c.used != 0 || c.get(blockKey{run: 9}) != nil {
		t.Error("a block above the budget stays")
	}
}

// TestConcurrentLookups shares runs and a cache that is too small for them.
func TestConcurrentLookups(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	dirs := randomPacks(rng, 300, 3, 4)
	model := locations(dirs)
	cache := NewBlockCache(50 << 10)
	id := randomID(rng)
	object := writeRun(t, id, dirs)
	set := NewSet(nil, Member{Run: openRun(t, id, object, cache)}, Member{Run: openRun(t, id, object, cache)})
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(worker)))
			for range 300 {
				r := &dirs[rng.IntN(len(dirs))].Records[0]
				id := r.Chunks[rng.IntN(len(r.Chunks))].ID
				l, ok, err := set.Lookup(bg, id)
				if err != nil || !ok || l != model[id][0] {
					t.Errorf("%v %v %v", l, ok, err)
					return
				}
			}
			if err := set.members[0].Run.Verify(bg); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// TestVerifyInWindows makes Verify read the chunks several times.
func TestVerifyInWindows(t *testing.T) {
	id := chunk.ID{7}
	for _, window := range []uint32{1, 100, 256, 1199, 1200, 5000} {
		rs := someRows(600)
		if window == 1 {
			rs = someRows(20)
		}
		check(t, openRun(t, id, rs.seal(id), nil).verifyChunks(bg, window, nil))
		rs.chunks[len(rs.chunks)-1].Offset = 150
		if err := openRun(t, id, rs.seal(id), nil).verifyChunks(bg, window, nil); !errors.Is(err, key.ErrDamaged) {
			t.Errorf("window %d: %v", window, err)
		}
	}
}
