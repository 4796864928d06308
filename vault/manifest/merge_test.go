package manifest

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/tharsis-backup/tharsis/chunk"
)

type records []Record

func (r *records) Next(context.Context) (Record, error) {
	if len(*r) == 0 {
		return Record{}, io.EOF
	}
	x := (*r)[0]
	*r = (*r)[1:]
	return x, nil
}

// edits changes the model at random and returns what changed.
func (m *model) edits(rng *rand.Rand, n int) records {
	changed := map[string]*Record{}
	set := func(k string, e *Entry) {
		if changed[k] == nil {
			changed[k] = &Record{Key: []byte(k)}
		}
		changed[k].Entry = nil
		if m.set(k, e); e != nil {
			changed[k].Entry = AppendEntry(nil, e)
		}
	}
	for range n {
		if len(m.list) == 0 {
			set("", &Entry{Kind: KindDir})
			continue
		}
		at := rng.IntN(len(m.list))
		k := m.list[at].key
		switch rng.IntN(7) {
		case 0, 1: // new
			set(string(AppendChild(nil, []byte(k), randomName(rng))), randomEntry(rng))
		case 2: // changed
			set(k, randomEntry(rng))
		case 3: // gone, or never there
			set(k, nil)
			set(k+"\x00nothing", nil)
		case 4: // a run of neighbours is gone
			for at < len(m.list) && rng.IntN(12) != 0 {
				set(m.list[at].key, nil)
			}
		case 5: // a subtree is gone
			if k == "" && rng.IntN(10) != 0 {
				continue
			}
			below := func(s string) bool { return Below([]byte(s), []byte(k)) }
			m.list = slices.DeleteFunc(m.list, func(r row) bool { return below(r.key) })
			maps.DeleteFunc(changed, func(c string, _ *Record) bool { return below(c) })
			set(k, nil)
			if changed[k].Subtree = true; rng.IntN(2) == 0 {
				set(k, randomEntry(rng))
			}
		case 6: // a run of new neighbours
			for i := range rng.IntN(40) {
				set(string(AppendChild(nil, []byte(k), fmt.Sprintf("run%03d", i))), randomEntry(rng))
			}
		}
	}
	var out records
	for _, r := range changed {
		out = append(out, *r)
	}
	slices.SortFunc(out, func(a, b Record) int { return strings.Compare(string(a.Key), string(b.Key)) })
	return out
}

// TestMergeIsBuild is the property I8: whatever the edits and however they are
// grouped into merges, the root is that of building the outcome at once.
func TestMergeIsBuild(t *testing.T) {
	seeds := uint64(1000)
	if testing.Short() {
		seeds = 300
	}
	for seed := range seeds {
		rng := rand.New(rand.NewPCG(seed, 4))
		sh := shape{bits: uint(1 + rng.IntN(3)), size: 150 + rng.IntN(1500)}
		m := newModel().grow(rng, rng.IntN(150))
		s := newStore()
		var root chunk.ID
		if rng.IntN(8) != 0 {
			root, _ = build(t, s, sh, m.list)
		} else {
			m = &model{}
		}
		for step := range 1 + rng.IntN(4) {
			before := root
			diff := m.edits(rng, rng.IntN(8))
			opts := MergeOptions{Plain: rng.IntN(4) == 0, shape: sh}
			want, total := build(t, newStore(), sh, m.list)
			in := slices.Clone(diff)
			got, gotTotal, err := Merge(ctx, root, &in, s, s, opts)
			if err != nil || got != want || gotTotal != total {
				t.Fatalf("seed %d step %d: root %s %v, want %s %v: %v", seed, step, got.Short(), gotTotal, want.Short(), total, err)
			}
			root = got
			if !before.IsZero() {
				checkDiff(t, s, before, root, seed)
			}
		}
	}
}

// checkDiff compares Diff with the difference of two whole walks.
func checkDiff(t *testing.T, s *store, a, b chunk.ID, seed uint64) {
	t.Helper()
	all := func(root chunk.ID) map[string]string {
		m := map[string]string{}
		c := NewCursor(s, root)
		for {
			k, _, err := c.Next(ctx)
			if err == io.EOF {
				return m
			}
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			m[string(k)] = string(c.Raw())
		}
	}
	ma, mb := all(a), all(b)
	want := map[string][2]string{}
	for k, v := range ma {
		if mb[k] != v {
			want[k] = [2]string{v, mb[k]}
		}
	}
	for k, v := range mb {
		if ma[k] == "" {
			want[k] = [2]string{"", v}
		}
	}
	got, last := map[string][2]string{}, ""
	err := Diff(ctx, s, a, b, func(key []byte, ea, eb *Entry) error {
		var x [2]string
		for i, e := range []*Entry{ea, eb} {
			if e != nil {
				x[i] = string(AppendEntry(nil, e))
			}
		}
		if len(got) > 0 && string(key) <= last {
			t.Fatalf("seed %d: diff out of order", seed)
		}
		last = string(key)
		got[last] = x
		return nil
	})
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("seed %d: diff has %d keys, want %d: %v", seed, len(got), len(want), err)
	}
}

// TestMergeEnds: whatever is cut off at either end, down to nothing, the tree has
// the height that its entries ask for.
func TestMergeEnds(t *testing.T) {
	sh := shape{bits: 1}
	rows := flat(70)
	s := newStore()
	for n := range len(rows) {
		root, _ := build(t, s, sh, rows[:n])
		for from := range n {
			for _, keep := range [][]row{rows[from:n], rows[:from]} {
				var diff records
				for _, r := range rows[:n] {
					if len(keep) == 0 || r.key < keep[0].key || r.key > keep[len(keep)-1].key {
						diff = append(diff, Record{Key: []byte(r.key)})
					}
				}
				want, total := build(t, s, sh, keep)
				got, gotTotal, err := Merge(ctx, root, &diff, s, s, MergeOptions{shape: sh})
				if err != nil || got != want || gotTotal != total {
					t.Fatalf("%d of %d rows from %d: %v", len(keep), n, from, err)
				}
			}
		}
	}
}

// TestMergeNestedRemoval: a folder's removal holds on behind a removal within it.
func TestMergeNestedRemoval(t *testing.T) {
	s := newStore()
	dir := &Entry{Kind: KindDir}
	root, _ := build(t, s, shape{}, []row{{"", dir}, {"a", dir}, {"a\x00b", dir}, {"a\x00b\x00c", dir}, {"a\x00d", dir}, {"e", dir}})
	diff := records{{Key: []byte("a"), Entry: AppendEntry(nil, dir), Subtree: true},
		{Key: []byte("a\x00b"), Entry: AppendEntry(nil, dir), Subtree: true}, {Key: []byte("a\x00c"), Subtree: true}}
	got, _, err := Merge(ctx, root, &diff, s, s, MergeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	readAll(t, s, got, []row{{"", dir}, {"a", dir}, {"a\x00b", dir}, {"e", dir}})
}

// TestDiffHeights: trees of different heights share what they can, too.
func TestDiffHeights(t *testing.T) {
	s := newStore()
	rows := flat(9000)
	high, _ := build(t, s, shape{bits: 4}, rows)
	for _, n := range []int{3, 20, 100, 1000, 4000} {
		low, _ := build(t, s, shape{bits: 4}, rows[:n])
		for _, pair := range [][2]chunk.ID{{low, high}, {high, low}} {
			s.reads = 0
			got := 0
			err := Diff(ctx, s, pair[0], pair[1], func([]byte, *Entry, *Entry) error { got++; return nil })
			beyond := len(rows) - n
			if err != nil || got != beyond || s.reads > beyond/10+30 {
				t.Errorf("%d rows: %d differ, want %d; %d reads: %v", n, got, beyond, s.reads, err)
			}
		}
	}
}

// TestMergeCost: few changes in a large, high tree read and write few pages, and
// so does comparing with the base.
func TestMergeCost(t *testing.T) {
	for _, sh := range []shape{{}, {bits: 3}} {
		s := newStore()
		rows := flat(20000)
		root, _ := build(t, s, sh, rows)
		h := height(t, s, root)
		if sh.bits == 3 && h < 4 {
			t.Fatalf("height %d", h)
		}
		for seed := range uint64(8) {
			rng := rand.New(rand.NewPCG(seed, 5))
			var diff records
			for range 3 {
				r := rows[1+rng.IntN(len(rows)-1)]
				e := r.entry.Clone()
				e.Mode ^= 0o111
				diff = append(diff, Record{Key: []byte(r.key), Entry: AppendEntry(nil, e)})
				if gone := rows[1+rng.IntN(len(rows)-1)]; gone.entry.Kind != KindDir {
					diff = append(diff, Record{Key: []byte(gone.key)})
				}
			}
			slices.SortStableFunc(diff, func(a, b Record) int { return strings.Compare(string(a.Key), string(b.Key)) })
			diff = slices.CompactFunc(diff, func(a, b Record) bool { return string(a.Key) == string(b.Key) })
			want, _ := build(t, newStore(), sh, applyRows(rows, diff))
			s.reads, s.puts = 0, 0
			got, _, err := Merge(ctx, root, &diff, s, s, MergeOptions{shape: sh})
			if err != nil || got != want {
				t.Fatalf("seed %d: %v", seed, err)
			}
			// Six places, a page a level each, and as many again where a page's
			// end moved; the last page of each level.
			if limit := 16 * (h + 1); s.reads > limit || s.puts > limit {
				t.Fatalf("seed %d: height %d: %d reads, %d puts", seed, h, s.reads, s.puts)
			}
			s.reads = 0
			if err := Diff(ctx, s, root, got, func([]byte, *Entry, *Entry) error { return nil }); err != nil {
				t.Fatal(err)
			}
			if limit := 2 * 16 * (h + 1); s.reads > limit {
				t.Fatalf("seed %d: diff reads %d pages", seed, s.reads)
			}
		}
	}
}

func applyRows(rows []row, diff records) []row {
	gone := map[string]bool{}
	set := map[string][]byte{}
	for _, d := range diff {
		if set[string(d.Key)] = d.Entry; d.Entry == nil {
			gone[string(d.Key)] = true
		}
	}
	var out []row
	for _, r := range rows {
		if gone[r.key] {
			continue
		}
		if raw := set[r.key]; raw != nil {
			r.entry = mustDecode(raw)
		}
		out = append(out, r)
	}
	return out
}

// TestMergeChecksBase: the plain path without records shows a base of another shape.
func TestMergeChecksBase(t *testing.T) {
	s := newStore()
	rows := flat(3000)
	good, _ := build(t, s, shape{}, rows)
	odd, _ := build(t, s, shape{bits: 3}, rows)
	for _, root := range []chunk.ID{good, odd} {
		got, total, err := Merge(ctx, root, &records{}, s, s, MergeOptions{Plain: true})
		if err != nil || got != good || total.Entries != uint64(len(rows)) {
			t.Fatal(got, total, err)
		}
	}
}

func TestMergeRejects(t *testing.T) {
	s := newStore()
	root, _ := build(t, s, shape{}, flat(10))
	e := AppendEntry(nil, &Entry{Kind: KindDir})
	for i, diff := range []records{
		{{Key: []byte("b"), Entry: e}, {Key: []byte("a"), Entry: e}},
		{{Key: []byte("b"), Entry: e}, {Key: []byte("b"), Entry: e}},
		{{Key: []byte("b"), Entry: e[:len(e)-1]}},
		{{Key: []byte("b"), Entry: append(slices.Clone(e), 0)}},
		{{Key: []byte("b/c"), Entry: e}},
	} {
		if _, _, err := Merge(ctx, root, &diff, s, s, MergeOptions{}); err == nil {
			t.Errorf("case %d is accepted", i)
		}
	}
}
