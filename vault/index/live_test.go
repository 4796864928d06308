package index

import (
	"maps"
	"slices"
	"testing"

	"github.com/tharsis-backup/tharsis/chunk"
)

// TestLive marks random chunks of runs that share some, with filters of which one
// lies, goes over to other runs in between, and compares with sets.
func TestLive(t *testing.T) {
	rng := newRand(t)
	pool := make([]chunk.ID, 40)
	for i := range pool {
		pool[i] = randomID(rng)
	}
	var members []Member
	all := map[chunk.ID][]Place{}
	for i := range 4 {
		dirs := randomPacks(rng, 30, 3, 40)
		for range 5 {
			dirs = append(dirs, randomPack(rng, 3, 4, pool))
		}
		id := randomID(rng)
		m := Member{Run: openRun(t, id, writeRun(t, id, dirs), NewBlockCache(0))}
		switch i {
		case 1:
			f, err := BuildFilter(bg, m.Run)
			check(t, err)
			m.Filter = f
		case 2: // that of another run
			f, err := BuildFilter(bg, members[0].Run)
			check(t, err)
			m.Filter = f
		}
		members = append(members, m)
		for c, locs := range locations(dirs) {
			for _, l := range locs {
				all[c] = append(all[c], Place{Pack: l.Pack, Length: l.Length})
			}
		}
	}
	live := NewLive(members[:2]...)
	if live.Replace(members...) {
		t.Fatal("nothing was dropped")
	}
	needed := map[chunk.ID]bool{}
	ids := slices.SortedFunc(maps.Keys(all), func(a, b chunk.ID) int { return slices.Compare(a[:], b[:]) })
	for range len(ids) / 2 {
		id := ids[rng.IntN(len(ids))]
		found, before, err := live.Mark(bg, id)
		if !found || err != nil || before != needed[id] {
			t.Fatalf("mark: %v %v %v, was %v", found, before, err, needed[id])
		}
		needed[id] = true
	}
	if found, _, err := live.Mark(bg, randomID(rng)); found || err != nil {
		t.Fatal(found, err)
	}
	n := 0
	check(t, live.Each(bg, func(id chunk.ID, need bool, places []Place) error {
		if id != ids[n] || need != needed[id] || !samePlaces(places, all[id]) {
			t.Fatalf("chunk %d: %v %v %v, want %v", n, id == ids[n], need, places, all[id])
		}
		if is, err := live.Needed(bg, id); err != nil || is != need {
			t.Fatal(is, err)
		}
		n++
		return nil
	}))
	if n != len(ids) {
		t.Errorf("%d of %d", n, len(ids))
	}
	if !live.Replace(members[1:]...) {
		t.Error("a run was dropped")
	}
}

func samePlaces(a, b []Place) bool {
	count := map[Place]int{}
	for _, p := range a {
		count[Place{Pack: p.Pack, Length: p.Length}]++
	}
	for _, p := range b {
		count[p]--
	}
	for _, n := range count {
		if n != 0 {
			return false
		}
	}
	return true
}
