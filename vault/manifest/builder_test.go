package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/key"
)

// readAll walks a manifest and compares it with rows.
func readAll(t testing.TB, s PageReader, root chunk.ID, rows []row) {
	t.Helper()
	c := NewCursor(s, root)
	c.CheckParents()
	for i, want := range rows {
		k, e, err := c.Next(ctx)
		if err != nil || string(k) != want.key {
			t.Fatalf("row %d: %q, %v; want %q", i, k, err, want.key)
		}
		if got, w := AppendEntry(nil, e), AppendEntry(nil, want.entry); !bytes.Equal(got, w) {
			t.Fatalf("row %d %q: %+v, want %+v", i, k, e, want.entry)
		}
		if !bytes.Equal(c.Raw(), AppendEntry(nil, e)) {
			t.Fatalf("row %d: raw differs", i)
		}
	}
	if _, _, err := c.Next(ctx); err != io.EOF {
		t.Fatalf("end: %v", err)
	}
}

func height(t testing.TB, s PageReader, root chunk.ID) int {
	t.Helper()
	p, err := s.Page(ctx, root)
	if err != nil {
		t.Fatal(err)
	}
	return int(p[1])
}

func TestBuildAndRead(t *testing.T) {
	for seed := range uint64(100) {
		rng := rand.New(rand.NewPCG(seed, 1))
		rows := newModel().grow(rng, rng.IntN(400)).dirs().list
		sh := shape{bits: uint(1 + rng.IntN(3)), size: 200 + rng.IntN(2000)}
		s := newStore()
		root, total := build(t, s, sh, rows)
		var want Totals
		for _, r := range rows {
			want = want.plus(Totals{1, r.entry.Size})
		}
		if total != want {
			t.Fatalf("seed %d: totals %v, want %v", seed, total, want)
		}
		readAll(t, s, root, rows)
		for range 20 {
			r := rows[rng.IntN(len(rows))]
			s.reads = 0
			e, err := Get(ctx, s, root, []byte(r.key))
			if err != nil || !reflect.DeepEqual(AppendEntry(nil, e), AppendEntry(nil, r.entry)) {
				t.Fatalf("seed %d: get %q: %v", seed, r.key, err)
			}
			if reads := s.reads; reads > height(t, s, root)+1 {
				t.Fatalf("seed %d: get reads %d pages", seed, reads)
			}
			got, err := SubtreeTotals(ctx, s, root, []byte(r.key))
			var want Totals
			for _, x := range rows {
				if x.key == r.key || Below([]byte(x.key), []byte(r.key)) {
					want = want.plus(Totals{1, x.entry.Size})
				}
			}
			if err != nil || got != want {
				t.Fatalf("seed %d: totals below %q: %v %v, want %v", seed, r.key, got, err, want)
			}
		}
	}
}

func TestSeek(t *testing.T) {
	for seed := range uint64(80) {
		rng := rand.New(rand.NewPCG(seed, 2))
		rows := newModel().grow(rng, 300).dirs().list
		s := newStore()
		root, _ := build(t, s, shape{bits: 2, size: 1000}, rows)
		c := NewCursor(s, root)
		c.CheckParents()
		for range 40 {
			k := []byte(rows[rng.IntN(len(rows))].key)
			if rng.IntN(3) == 0 {
				k = append(k, byte(rng.IntN(3)))
			}
			i := 0
			for i < len(rows) && rows[i].key < string(k) {
				i++
			}
			if err := c.Seek(ctx, k); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			for range rng.IntN(30) {
				got, e, err := c.Next(ctx)
				if i == len(rows) {
					if err != io.EOF {
						t.Fatalf("seed %d: %v, want EOF", seed, err)
					}
					break
				}
				if err != nil || string(got) != rows[i].key {
					t.Fatalf("seed %d: seek %q: got %q %v, want %q", seed, k, got, err, rows[i].key)
				}
				last := rows[i].key
				i++
				if rng.IntN(4) == 0 {
					skip := e.Kind == KindDir
					if err := c.SkipSubtree(ctx); err != nil {
						t.Fatal(err)
					}
					for skip && i < len(rows) && Below([]byte(rows[i].key), []byte(last)) {
						i++
					}
				}
			}
		}
		if seed%10 == 0 {
			checkChildren(t, s, root, rows)
		}
	}
}

func checkChildren(t *testing.T, s *store, root chunk.ID, rows []row) {
	t.Helper()
	for _, f := range rows {
		var want, got []string
		for _, r := range rows {
			if p, ok := Parent([]byte(r.key)); ok && string(p) == f.key {
				want = append(want, string(Name([]byte(r.key))))
			}
		}
		err := Children(ctx, s, root, []byte(f.key), func(name []byte, e *Entry) error {
			got = append(got, string(name))
			return nil
		})
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("children of %q: %q %v, want %q", f.key, got, err, want)
		}
	}
}

func TestEmptyManifest(t *testing.T) {
	s := newStore()
	root, total := build(t, s, shape{}, nil)
	if total != (Totals{}) || !bytes.Equal(s.pages[root], []byte{1, 0, 0}) {
		t.Fatal(total, s.pages[root])
	}
	readAll(t, s, root, nil)
	if _, err := Get(ctx, s, root, nil); !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	if _, _, err := NewCursor(s, chunk.ID{}).Next(ctx); err == nil || err == io.EOF {
		t.Fatal("zero root is taken", err)
	}
}

// TestLongKeys: levels shrink even where one key fills a page.
func TestLongKeys(t *testing.T) {
	long := strings.Repeat(strings.Repeat("x", 1000)+"\x00", 65) // 65,065 bytes
	var rows []row
	for i := range 60 {
		rows = append(rows, row{fmt.Sprintf("%02d", i) + long + "end" + strings.Repeat("y", 460), &Entry{Kind: KindDir}})
	}
	s := newStore()
	root, _ := build(t, s, shape{}, rows)
	if h := height(t, s, root); h < 2 || h > 6 || s.maxPlain > MaxPageBytes/4 {
		t.Fatalf("height %d, largest page %d", h, s.maxPlain)
	}
	c := NewCursor(s, root)
	for _, r := range rows {
		if k, _, err := c.Next(ctx); err != nil || string(k) != r.key {
			t.Fatal(err)
		}
	}
}

func TestBuilderRejects(t *testing.T) {
	dir := &Entry{Kind: KindDir}
	for name, keys := range map[string][]string{
		"order": {"", "b", "a"}, "twice": {"", "a", "a"}, "empty component": {"", "a", "a\x00\x00b"},
		"dot": {"."}, "dots": {"a\x00.."}, "slash": {"a/b"}, "trailing": {"a\x00"}, "leading": {"\x00a"},
		"long name": {strings.Repeat("x", 1025)}, "long key": {strings.Repeat("x\x00", 33000) + "x"},
	} {
		b := NewBuilder(newStore())
		var err error
		for _, k := range keys {
			err = b.Add(ctx, []byte(k), dir)
		}
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
		if _, _, err := b.Finish(ctx); err == nil {
			t.Errorf("%s: finished", name)
		}
	}
}

// TestSaturation: sums of sparse files don't overflow.
func TestSaturation(t *testing.T) {
	var rows []row
	for i := range 500 {
		e := &Entry{Kind: KindFile, Size: MaxFileBytes, Extents: []Extent{{Length: MaxFileBytes}}}
		rows = append(rows, row{fmt.Sprintf("%05d", i), e})
	}
	s := newStore()
	root, total := build(t, s, shape{bits: 2}, rows)
	if total != (Totals{500, 1<<64 - 1}) {
		t.Fatal(total)
	}
	c := NewCursor(s, root)
	for range rows {
		if _, _, err := c.Next(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

// TestMissingParents: a checking cursor rejects manifests without folders, a
// manifest of one file passes.
func TestMissingParents(t *testing.T) {
	dir, fifo := &Entry{Kind: KindDir}, &Entry{Kind: KindFIFO}
	good := [][]row{{{"", fifo}}, {{"", dir}, {"a", dir}, {"a\x00b", fifo}, {"c", dir}}}
	bad := [][]row{
		{{"a", fifo}}, {{"", fifo}, {"a", fifo}}, {{"", dir}, {"a\x00b", fifo}},
		{{"", dir}, {"a", fifo}, {"a\x00b", fifo}}, {{"", dir}, {"a", dir}, {"a\x00b", fifo}, {"ab\x00c", fifo}},
		{{"", dir}, {"a", dir}, {"a\x00b\x00c", fifo}}, {{"", dir}, {"a", dir}, {"a\x00b", fifo}, {"a\x00b\x00c", fifo}},
	}
	for i, rows := range append(bad, good...) {
		s := newStore()
		root, _ := build(t, s, shape{}, rows)
		c := NewCursor(s, root)
		c.CheckParents()
		var err error
		for err == nil {
			_, _, err = c.Next(ctx)
		}
		if wantBad := i < len(bad); wantBad != errors.Is(err, key.ErrDamaged) {
			t.Errorf("case %d: %v", i, err)
		}
		last := rows[len(rows)-1].key
		c = NewCursor(s, root)
		c.CheckParents()
		if err = c.Seek(ctx, []byte(last)); err == nil {
			_, _, err = c.Next(ctx)
		}
		if wantBad := i < len(bad); wantBad != errors.Is(err, key.ErrDamaged) {
			t.Errorf("case %d after a seek: %v", i, err)
		}
	}
}

// TestResume: with pages lost, a cursor gives all other entries and names the gaps.
func TestResume(t *testing.T) {
	for seed := range uint64(80) {
		rng := rand.New(rand.NewPCG(seed, 3))
		rows := newModel().grow(rng, 400).dirs().list
		s := newStore()
		root, _ := build(t, s, shape{bits: 2, size: 1000}, rows)
		for id := range s.pages {
			s.broken[id] = rng.IntN(6) == 0
		}
		c := NewCursor(s, root)
		c.CheckParents()
		i := 0
		for {
			k, _, err := c.Next(ctx)
			if err == io.EOF {
				break
			}
			if err != nil {
				if _, _, again := c.Next(ctx); again == nil || again == io.EOF {
					t.Fatalf("seed %d: an error was forgotten: %v", seed, err)
				}
				to := c.Resume()
				for i < len(rows) && (to == nil || rows[i].key < string(to)) {
					i++
				}
				continue
			}
			if rows[i].key != string(k) {
				t.Fatalf("seed %d: %q, want %q", seed, k, rows[i].key)
			}
			i++
		}
		if i != len(rows) {
			t.Fatalf("seed %d: %d of %d rows", seed, i, len(rows))
		}
	}
}
