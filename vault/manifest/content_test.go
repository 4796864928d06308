package manifest

import (
	"errors"
	"io"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/wire"
	"github.com/tharsis-backup/tharsis/vault/key"
)

func contentOf(t testing.TB, s *store, sh tableShape, extents []Extent) *Entry {
	t.Helper()
	c := NewContentWriter(s)
	c.shape = sh
	for _, x := range extents {
		if err := c.Add(ctx, x); err != nil {
			t.Fatal(err)
		}
	}
	e := &Entry{Kind: KindFile}
	if err := c.Finish(ctx, e); err != nil {
		t.Fatal(err)
	}
	if err := e.Check(); err != nil {
		t.Fatal(err)
	}
	return e
}

func readExtents(r PageReader, e *Entry) (got []Extent, err error) {
	for x, err := range Extents(ctx, r, e) {
		if err != nil {
			return got, err
		}
		got = append(got, x)
	}
	return got, nil
}

// splitHoles cuts holes in two, which the writer has to join.
func splitHoles(rng *rand.Rand, in []Extent) (out []Extent) {
	for _, x := range in {
		if x.Hole() && x.Length > 1 {
			n := 1 + rng.Uint64N(x.Length-1)
			out = append(out, Extent{Length: n}, Extent{Length: x.Length - n})
			continue
		}
		out = append(out, x)
	}
	return out
}

func TestContent(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 8))
		s := newStore()
		n := rng.IntN(40)
		if rng.IntN(4) == 0 {
			n = rng.IntN(1500)
		}
		want := randomExtents(rng, n)
		sh := tableShape{bits: uint(2 + rng.IntN(2)), rows: 3 + rng.IntN(20)}
		e := contentOf(t, s, sh, splitHoles(rng, want))
		if (n > MaxInlineExtents) == e.Table.IsZero() {
			t.Fatalf("seed %d: table for %d extents", seed, n)
		}
		got, err := readExtents(s, e)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d: %d extents, want %d: %v", seed, len(got), len(want), err)
		}
		if e.Table.IsZero() {
			continue
		}
		checkOffsets(t, s, rng, e, want, seed)
		wrong := *e
		for _, wrong.Size = range []uint64{0, e.Size - 1, e.Size + 1} {
			if _, err := readExtents(s, &wrong); !errors.Is(err, key.ErrDamaged) {
				t.Fatalf("seed %d: size %d of %d: %v", seed, wrong.Size, e.Size, err)
			}
		}
		for _, id := range somePages(s, 5) {
			s.broken[id] = true
			if got, err := readExtents(s, e); err == nil || err == io.EOF {
				t.Fatalf("seed %d: missing page passes, %d extents", seed, len(got))
			}
			s.broken[id] = false
		}
	}
}

func somePages(s *store, n int) (ids []chunk.ID) {
	for id := range s.pages {
		if ids = append(ids, id); len(ids) == n {
			break
		}
	}
	return ids
}

func checkOffsets(t *testing.T, s *store, rng *rand.Rand, e *Entry, want []Extent, seed uint64) {
	t.Helper()
	c := NewTableCursor(s, e.Table, e.Size)
	for range 20 {
		off := rng.Uint64N(e.Size + 1)
		i, start := 0, uint64(0)
		for i < len(want) && off >= start+want[i].Length {
			start += want[i].Length
			i++
		}
		if err := c.SeekOffset(ctx, off); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for ; i < len(want) && rng.IntN(10) != 0; i++ {
			at, x, err := c.Next(ctx)
			if err != nil || at != start || x != want[i] {
				t.Fatalf("seed %d: at %d: %v %v, want %d: %v", seed, at, x, err, start, want[i])
			}
			start += x.Length
		}
		if i == len(want) {
			if _, _, err := c.Next(ctx); err != io.EOF {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
	}
}

// TestRepeatedChunk: a file of one chunk over and over, with an ID that ends a
// page after every row, still gets a table of a sane height.
func TestRepeatedChunk(t *testing.T) {
	s := newStore()
	var extents []Extent
	for range 5000 {
		extents = append(extents, Extent{Length: 1 << 20, ID: chunk.ID{0, 1}})
	}
	e := contentOf(t, s, tableShape{}, extents)
	if got, err := readExtents(s, e); err != nil || len(got) != 5000 {
		t.Fatal(len(got), err)
	}
	if h := height(t, s, e.Table); h > 3 {
		t.Fatal(h)
	}
}

func TestTooLargeContent(t *testing.T) {
	c := NewContentWriter(newStore())
	for range 3 {
		if err := c.Add(ctx, Extent{Length: MaxFileBytes}); err != nil {
			return
		}
		if err := c.Add(ctx, Extent{Length: 1, ID: chunk.ID{1}}); err != nil {
			return
		}
	}
	if err := c.Finish(ctx, new(Entry)); err == nil {
		t.Fatal("a file of 3 * 2^63 bytes")
	}
}

// tablePageOf makes a page by hand.
func tablePageOf(t *testing.T, s *store, level int, rows int, body []byte) chunk.ID {
	t.Helper()
	s.check = false
	h := pageHeader{kind: pageTableInner, level: level, rows: rows}
	if level == 0 {
		h.kind = pageTableLeaf
	}
	id, err := s.PutPage(ctx, append(h.append(nil), body...))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestHostileTables(t *testing.T) {
	s := newStore()
	one := appendExtent(nil, Extent{1, chunk.ID{1}})
	var many []byte
	for range 20 {
		many = append(many, one...)
	}
	hole := appendExtent(nil, Extent{Length: 1})
	leaf20 := tablePageOf(t, s, 0, 20, many)
	holes := tablePageOf(t, s, 0, 2, append(append([]byte{}, one...), hole...))
	holes2 := tablePageOf(t, s, 0, 2, append(append([]byte{}, hole...), one...))
	child := func(id chunk.ID, n uint64) []byte { return wire.AppendUvarint(append([]byte{}, id[:]...), n) }
	for name, c := range map[string]struct {
		root chunk.ID
		size uint64
	}{
		"few extents":       {tablePageOf(t, s, 0, 1, one), 1},
		"wrong level":       {tablePageOf(t, s, 2, 1, child(leaf20, 20)), 20},
		"wrong sum":         {tablePageOf(t, s, 1, 1, child(leaf20, 21)), 21},
		"two holes":         {tablePageOf(t, s, 0, 18, append(append(many[:0:0], many[:16*len(one)]...), append(hole, hole...)...)), 18},
		"holes over pages":  {tablePageOf(t, s, 1, 3, append(append(child(leaf20, 20), child(holes, 2)...), child(holes2, 2)...)), 24},
		"zero child":        {tablePageOf(t, s, 1, 1, child(chunk.ID{}, 20)), 20},
		"empty child":       {tablePageOf(t, s, 1, 2, append(child(leaf20, 20), child(leaf20, 0)...)), 20},
		"overflow":          {tablePageOf(t, s, 1, 3, append(append(child(leaf20, 1<<63-1), child(leaf20, 1<<63-1)...), child(leaf20, 22)...)), 20},
		"level 17":          {tablePageOf(t, s, 17, 1, child(leaf20, 20)), 20},
		"a manifest page":   {func() chunk.ID { id, _ := s.PutPage(ctx, []byte{1, 0, 0}); return id }(), 20},
		"no rows":           {tablePageOf(t, s, 0, 0, nil), 0},
		"inner without any": {tablePageOf(t, s, 1, 0, nil), 0},
	} {
		e := &Entry{Kind: KindFile, Table: c.root, Size: c.size}
		if _, err := readExtents(s, e); !errors.Is(err, key.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, err := readExtents(s, &Entry{Kind: KindFile, Table: tablePageOf(t, s, 1, 1, child(leaf20, 20)), Size: 20}); err != nil || len(got) != 20 {
		t.Error(len(got), err)
	}
}
