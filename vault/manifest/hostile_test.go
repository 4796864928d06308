package manifest

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/wire"
	"github.com/tharsis-backup/tharsis/vault/key"
)

// rawPage is a page made by hand: its rows as shared length, suffix and the rest.
type rawPage struct {
	kind, level uint8
	rows        []rawRow
	tail        []byte
}

type rawRow struct {
	shared uint64
	suffix string
	rest   []byte
}

func (p rawPage) put(t *testing.T, s *store) chunk.ID {
	t.Helper()
	s.check = false
	b := wire.AppendUvarint([]byte{p.kind, p.level}, uint64(len(p.rows)))
	for _, r := range p.rows {
		b = append(wire.AppendBlob(wire.AppendUvarint(b, r.shared), r.suffix), r.rest...)
	}
	id, err := s.PutPage(ctx, append(b, p.tail...))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func walkError(s *store, root chunk.ID) error {
	c := NewCursor(s, root)
	for range 1000 {
		if _, _, err := c.Next(ctx); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
	return errors.New("no end")
}

func TestHostilePages(t *testing.T) {
	s := newStore()
	e := AppendEntry(nil, &Entry{Kind: KindDir})
	file := AppendEntry(nil, &Entry{Kind: KindFile, Size: 5, Extents: []Extent{{5, chunk.ID{1}}}})
	leafOf := func(rows ...rawRow) chunk.ID { return rawPage{kind: 1, rows: rows}.put(t, s) }
	child := func(id chunk.ID, entries, bytes uint64) []byte {
		return appendChildRef(nil, id, Totals{entries, bytes})
	}
	innerOf := func(level uint8, rows ...rawRow) chunk.ID {
		return rawPage{kind: 2, level: level, rows: rows}.put(t, s)
	}
	one := leafOf(rawRow{0, "", e}, rawRow{0, "b", file})
	two := leafOf(rawRow{0, "c", e}, rawRow{1, "\x00d", e})
	inner := innerOf(1, rawRow{0, "", child(one, 2, 5)}, rawRow{0, "c", child(two, 2, 0)})
	if err := walkError(s, inner); err != nil {
		t.Fatal(err)
	}
	a := leafOf(rawRow{0, "a", e}, rawRow{0, "d", e})
	innerA := innerOf(1, rawRow{0, "a", child(a, 2, 0)})
	for name, root := range map[string]chunk.ID{
		"keys descend":        leafOf(rawRow{0, "b", e}, rawRow{0, "a", e}),
		"key twice":           leafOf(rawRow{0, "b", e}, rawRow{1, "", e}),
		"shared too long":     leafOf(rawRow{0, "b", e}, rawRow{2, "c", e}),
		"shared in the first": leafOf(rawRow{1, "b", e}),
		"shared not maximal":  leafOf(rawRow{0, "b", e}, rawRow{0, "bc", e}),
		"bad component":       leafOf(rawRow{0, "b", e}, rawRow{1, "\x00..", e}),
		"component ends":      leafOf(rawRow{0, "b", e}, rawRow{1, "\x00", e}),
		"slash":               leafOf(rawRow{0, "b/c", e}),
		"trailing bytes":      rawPage{kind: 1, rows: []rawRow{{0, "b", e}}, tail: []byte{0}}.put(t, s),
		"leaf at level 1":     rawPage{kind: 1, level: 1, rows: []rawRow{{0, "b", e}}}.put(t, s),
		"inner at level 0":    innerOf(0, rawRow{0, "", child(one, 2, 5)}),
		"inner at level 17":   innerOf(17, rawRow{0, "", child(one, 2, 5)}),
		"unknown kind":        rawPage{kind: 9}.put(t, s),
		"empty inner":         innerOf(1),
		"level skips":         innerOf(2, rawRow{0, "", child(one, 2, 5)}),
		"same level":          innerOf(1, rawRow{0, "", child(inner, 4, 5)}),
		"other first key":     innerOf(1, rawRow{0, "a", child(one, 2, 5)}),
		"other entry count":   innerOf(1, rawRow{0, "", child(one, 3, 5)}),
		"other byte count":    innerOf(1, rawRow{0, "", child(one, 2, 6)}, rawRow{0, "c", child(two, 2, 0)}),
		"inner entry count":   innerOf(2, rawRow{0, "", child(inner, 5, 5)}),
		"empty child":         innerOf(1, rawRow{0, "", child(leafOf(), 0, 0)}),
		"key over the bound":  innerOf(1, rawRow{0, "", child(one, 2, 5)}, rawRow{0, "a", child(a, 2, 0)}),
		"inner key over it":   innerOf(2, rawRow{0, "", child(inner, 4, 5)}, rawRow{0, "a", child(innerA, 2, 0)}),
		"inner keys descend":  innerOf(1, rawRow{0, "c", child(two, 2, 0)}, rawRow{0, "", child(one, 2, 5)}),
		"zero ID":             innerOf(1, rawRow{0, "", child(chunk.ID{}, 2, 5)}),
		"block table page":    tablePageOf(t, s, 0, 1, appendExtent(nil, Extent{Length: 1})),
		"too large":           leafOf(rawRow{0, "b", e}, rawRow{1, string(make([]byte, MaxPageBytes)), e}),
	} {
		if err := walkError(s, root); !errors.Is(err, key.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
		w := Walker{Reader: s, Visit: func(Ref) error { return nil }}
		if err := w.Walk(ctx, root); !errors.Is(err, key.ErrDamaged) {
			t.Errorf("%s: walker: %v", name, err)
		}
		reports := 0
		w.Damaged = func([]byte, chunk.ID, error) error { reports++; return nil }
		if err := w.Walk(ctx, root); err != nil || reports == 0 || reports > 5 {
			t.Errorf("%s: walker goes on: %v, %d reports", name, err, reports)
		}
		resumeToEnd(t, name, s, root)
		if _, _, err := Merge(ctx, root, &records{{Key: []byte("zz")}}, s, newStore(), MergeOptions{Plain: true}); err == nil {
			t.Errorf("%s: merged", name)
		}
	}
}

// resumeToEnd checks that Resume gets a cursor through anything.
func resumeToEnd(t *testing.T, name string, s *store, root chunk.ID) {
	t.Helper()
	c := NewCursor(s, root)
	for range 100 {
		_, _, err := c.Next(ctx)
		if err == io.EOF {
			return
		}
		if err != nil {
			c.Resume()
		}
	}
	t.Errorf("%s: Resume comes to no end", name)
}

// TestOrphanBehindGap: lost pages excuse the folders that they may have held, and no others.
func TestOrphanBehindGap(t *testing.T) {
	s := newStore()
	rows := append(flat(500), row{"dir99999\x00orphan", &Entry{Kind: KindFIFO}})
	root, _ := build(t, s, shape{bits: 3}, rows)
	lost := NewCursor(s, root)
	if err := lost.Seek(ctx, []byte("dir00001")); err != nil || lost.t.row(ctx) != nil {
		t.Fatal(err)
	}
	s.broken[lost.t.leaf.want.child.ID] = true
	c := NewCursor(s, root)
	c.CheckParents()
	gaps := 0
	for {
		k, _, err := c.Next(ctx)
		switch {
		case err == io.EOF || string(k) == "dir99999\x00orphan":
			t.Fatal("orphan passes")
		case errors.Is(err, key.ErrDamaged):
			if gaps != 1 {
				t.Fatal(gaps, err)
			}
			return
		case err != nil:
			gaps++
			c.Resume()
		}
	}
}

// TestWalker: all pages and chunks are visited, shared ones once; with pages
// missing, all the others.
func TestWalker(t *testing.T) {
	for seed := range uint64(100) {
		rng := rand.New(rand.NewPCG(seed, 9))
		s := newStore()
		m := newModel().grow(rng, 200)
		chunks := map[chunk.ID]bool{}
		for i := range m.list {
			e := m.list[i].entry
			if e.Kind == KindFile && rng.IntN(3) == 0 {
				x := contentOf(t, s, tableShape{rows: 5}, randomExtents(rng, rng.IntN(60)))
				e.Extents, e.Table, e.Size = x.Extents, x.Table, x.Size
			}
			if e.XattrRef.Length > 0 {
				chunks[e.XattrRef.ID] = true
			}
			for x, err := range Extents(ctx, s, e) {
				if err != nil {
					t.Fatal(err)
				}
				if !x.Hole() {
					chunks[x.ID] = true
				}
			}
		}
		root, _ := build(t, s, shape{bits: 2, size: 1500}, m.list)
		visited := map[chunk.ID]bool{}
		seen := func(id chunk.ID) (bool, error) { return visited[id], nil }
		visit := func(r Ref) error {
			if r.Page && visited[r.ID] {
				t.Fatalf("seed %d: page twice", seed)
			}
			if visited[r.ID] = true; !r.Page {
				delete(chunks, r.ID)
				delete(visited, r.ID)
			}
			return nil
		}
		s.reads = 0
		if err := Pages(ctx, s, root, seen, visit); err != nil || len(visited) != len(s.pages) || len(chunks) != 0 || s.reads != len(visited) {
			t.Fatalf("seed %d: %v, %d of %d pages, %d chunks missed", seed, err, len(visited), len(s.pages), len(chunks))
		}
		checkBroken(t, s, rng, root, seed)
	}
}

func checkBroken(t *testing.T, s *store, rng *rand.Rand, root chunk.ID, seed uint64) {
	t.Helper()
	for id := range s.pages {
		s.broken[id] = rng.IntN(10) == 0
	}
	bad, visited := map[chunk.ID]bool{}, map[chunk.ID]bool{}
	w := Walker{Reader: s, Seen: func(id chunk.ID) (bool, error) { return visited[id], nil },
		Visit: func(r Ref) error {
			if r.Page {
				visited[r.ID] = true
			}
			return nil
		},
		Damaged: func(_ []byte, id chunk.ID, err error) error { bad[id] = true; return nil }}
	if err := w.Walk(ctx, root); err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	for id := range visited {
		if s.broken[id] != bad[id] {
			t.Fatalf("seed %d: broken %v, reported %v", seed, s.broken[id], bad[id])
		}
	}
	if s.broken[root] {
		return
	}
	if err := Pages(ctx, s, root, nil, func(Ref) error { return nil }); (err != nil) != (len(bad) > 0) {
		t.Fatalf("seed %d: %v with %d damaged pages", seed, err, len(bad))
	}
}

func FuzzEntry(f *testing.F) {
	for seed := range uint64(40) {
		f.Add(AppendEntry(nil, randomEntry(rand.New(rand.NewPCG(seed, 10)))))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var e Entry
		if decode(in, &e) != nil {
			return
		}
		if err := e.Check(); err != nil {
			t.Fatalf("decoded, but: %v", err)
		}
		if out := AppendEntry(nil, &e); !bytes.Equal(in, out) {
			t.Fatalf("not canonical: %x, written as %x", in, out)
		}
	})
}

func FuzzXattrs(f *testing.F) {
	set, _ := AppendXattrs(nil, []Xattr{{"user.a", []byte("x")}, {"user.b", nil}})
	f.Add(set)
	f.Fuzz(func(t *testing.T, in []byte) {
		x, err := DecodeXattrs(nil, in)
		if err != nil {
			return
		}
		if out, err := AppendXattrs(nil, x); err != nil || !bytes.Equal(in, out) {
			t.Fatalf("not canonical: %x, written as %x, %v", in, out, err)
		}
	})
}

// FuzzPage: what CheckPage takes is what writing its rows again gives.
func FuzzPage(f *testing.F) {
	s := newStore()
	build(f, s, shape{bits: 3, size: 500}, flat(300))
	contentOf(f, s, tableShape{rows: 5}, randomExtents(rand.New(rand.NewPCG(1, 11)), 60))
	for _, p := range s.pages {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if CheckPage(in) != nil {
			return
		}
		if out := rewrite(t, in); !bytes.Equal(in, out) {
			t.Fatalf("not canonical: %x, written as %x", in, out)
		}
	})
}

func rewrite(t *testing.T, page []byte) []byte {
	t.Helper()
	var d wire.Decoder
	if page[0] == pageTableLeaf || page[0] == pageTableInner {
		p, err := parseTablePage(page)
		if err != nil {
			t.Fatal(err)
		}
		out := pageHeader{page[0], p.level, p.rows}.append(nil)
		for p.left > 0 {
			if p.level == 0 {
				out = appendExtent(out, p.extent())
			} else {
				id, n := p.child()
				out = wire.AppendUvarint(append(out, id[:]...), n)
			}
		}
		return out
	}
	h := decodeHeader(&d, page, pageLeaf, pageInner, maxPageRows)
	out := h.append(nil)
	var last []byte
	if h.kind == pageLeaf {
		var l leaf
		for ok, _ := l.reset(d, page, h, expectation{}); ok; ok, _ = l.next() {
			out = AppendEntry(appendKey(out, last, l.key), &l.entry)
			last = append(last[:0], l.key...)
		}
		return out
	}
	var n inner
	if err := n.reset(d, h, expectation{}); err != nil {
		t.Fatal(err)
	}
	for ok := true; ok; ok, _ = n.advance() {
		out = appendChildRef(appendKey(out, last, n.cur.Key), n.cur.ID, n.cur.Totals)
		last = append(last[:0], n.cur.Key...)
	}
	return out
}
