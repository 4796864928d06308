package manifest

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/wire"
	"github.com/tharsis-backup/tharsis/vault/key"
)

func decode(raw []byte, e *Entry) error {
	var d wire.Decoder
	d.Reset(raw)
	if err := DecodeEntry(&d, e); err != nil {
		return err
	}
	return d.Done()
}

func mustDecode(raw []byte) *Entry {
	e := new(Entry)
	if err := decode(raw, e); err != nil {
		panic(err)
	}
	return e
}

func TestEntryRoundTrip(t *testing.T) {
	var reused Entry
	for seed := range uint64(3000) {
		e := randomEntry(rand.New(rand.NewPCG(seed, 6)))
		if err := e.Check(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		raw := AppendEntry(nil, e)
		if err := decode(raw, &reused); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if len(reused.Extents) == 0 {
			reused.Extents = e.Extents // nil and empty are one
		}
		if !reflect.DeepEqual(&reused, e) {
			t.Fatalf("seed %d: %+v, want %+v", seed, &reused, e)
		}
		if c := reused.Clone(); !reflect.DeepEqual(AppendEntry(nil, c), raw) {
			t.Fatalf("seed %d: clone", seed)
		}
		for n := range raw {
			if decode(raw[:n], &reused) == nil {
				t.Fatalf("seed %d: cut at %d is accepted", seed, n)
			}
		}
	}
}

func TestEntryCheck(t *testing.T) {
	id := chunk.ID{1}
	for i, e := range []Entry{
		{}, {Kind: 7}, {Kind: KindDir, Flags: 4}, {Kind: KindDir, Mode: 0o10000}, {Kind: KindDir, User: strings.Repeat("x", 257)},
		{Kind: KindDir, MTime: Time{0, 1e9}}, {Kind: KindFile, FSID: "x"}, {Kind: KindDir, Target: "x"}, {Kind: KindSymlink},
		{Kind: KindFile, Major: 1}, {Kind: KindDir, Size: 1}, {Kind: KindDir, Table: id}, {Kind: KindFile, Size: 1},
		{Kind: KindFile, Size: 2, Extents: []Extent{{1, chunk.ID{}}, {1, chunk.ID{}}}}, {Kind: KindFile, Extents: []Extent{{0, id}}},
		{Kind: KindFile, Size: maxChunkBytes + 1, Extents: []Extent{{maxChunkBytes + 1, id}}},
		{Kind: KindFile, Size: 17, Extents: bytesOf(17)}, {Kind: KindFile, Size: 1, Extents: bytesOf(1), Table: id},
		{Kind: KindDir, Xattrs: []byte("junk")}, {Kind: KindDir, Xattrs: make([]byte, 129)}, {Kind: KindDir, XattrRef: Extent{128, id}},
		{Kind: KindDir, XattrRef: Extent{Length: 129}}, {Kind: KindDir, XattrRef: Extent{ID: id}}, {Kind: KindFile, Size: 1 << 63, Table: id},
	} {
		if e.Check() == nil {
			t.Errorf("entry %d is accepted: %+v", i, e)
		}
		raw := AppendEntry(nil, &e)
		var back Entry
		if decode(raw, &back) == nil && !bytes.Equal(AppendEntry(nil, &back), raw) {
			t.Errorf("entry %d: decoder takes what isn't canonical", i)
		}
	}
}

func bytesOf(n int) (x []Extent) {
	for range n {
		x = append(x, Extent{1, chunk.ID{9}})
	}
	return x
}

func TestXattrs(t *testing.T) {
	set, err := AppendXattrs(nil, []Xattr{{"user.z", []byte("1")}, {"security.capability", nil}, {"user.a", bytes.Repeat([]byte{7}, 65536)}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeXattrs(nil, set)
	if err != nil || len(got) != 3 || got[0].Name != "security.capability" || len(got[1].Value) != 65536 || string(got[2].Value) != "1" {
		t.Fatal(got, err)
	}
	for n := 1; n < len(set); n += 1 + n/50 {
		if _, err := DecodeXattrs(nil, set[:n]); !errors.Is(err, key.ErrDamaged) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
	for i, x := range [][]Xattr{{{"", nil}}, {{strings.Repeat("x", 256), nil}}, {{"a", make([]byte, 65537)}}, {{"a", nil}, {"a", nil}}, make([]Xattr, 20000)} {
		if _, err := AppendXattrs(nil, x); !errors.Is(err, ErrXattrs) {
			t.Errorf("case %d: %v", i, err)
		}
	}
}

func TestKeys(t *testing.T) {
	k := AppendChild(nil, AppendChild(nil, nil, "a"), []byte("b.c"))
	if string(k) != "a\x00b.c" || string(Name(k)) != "b.c" || PathOf(k) != "a/b.c" || ValidateKey(k) != nil {
		t.Fatalf("%q", k)
	}
	p, ok := Parent(k)
	if !ok || string(p) != "a" {
		t.Fatalf("%q", p)
	}
	if p, ok = Parent(p); !ok || len(p) != 0 {
		t.Fatalf("%q", p)
	}
	if _, ok = Parent(p); ok || len(Name(nil)) != 0 {
		t.Fatal("root has a parent")
	}
	for _, c := range []struct {
		key, folder string
		below       bool
	}{{"a", "", true}, {"", "", false}, {"a", "a", false}, {"a\x00b", "a", true}, {"ab", "a", false}, {"a\x00b\x00c", "a", true}, {"a", "a\x00b", false}} {
		if Below([]byte(c.key), []byte(c.folder)) != c.below {
			t.Errorf("%q below %q", c.key, c.folder)
		}
	}
	var names []string
	for n := range Components(k) {
		names = append(names, string(n))
	}
	if !reflect.DeepEqual(names, []string{"a", "b.c"}) {
		t.Fatal(names)
	}
	for path, good := range map[string]bool{"": true, "a/b": true, "/a": false, "a/": false, "a//b": false, "a/../b": false, "a\x00b": false, "...": true, ".a": true} {
		if _, err := KeyOf(path); (err == nil) != good {
			t.Errorf("%q: %v", path, err)
		}
	}
	for name, good := range map[string]bool{"a": true, "": false, "a\x00b": false, "..": false, "a/b": false} {
		if err := ValidateName([]byte(name)); (err == nil) != good {
			t.Errorf("name %q: %v", name, err)
		}
	}
}

// TestTruncatedPages: a page cut anywhere, or with a byte behind it, is damaged.
func TestTruncatedPages(t *testing.T) {
	s := newStore()
	build(t, s, shape{bits: 3}, flat(300))
	b := NewTableBuilder(s)
	b.shape = tableShape{rows: 8}
	for _, x := range randomExtents(rand.New(rand.NewPCG(1, 7)), 100) {
		if err := b.Add(ctx, x); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := b.Finish(ctx); err != nil {
		t.Fatal(err)
	}
	kinds := map[byte]bool{}
	for _, p := range s.pages {
		kinds[p[0]] = true
		for n := range p {
			if err := CheckPage(p[:n]); !errors.Is(err, key.ErrDamaged) {
				t.Fatalf("page of kind %d cut at %d: %v", p[0], n, err)
			}
		}
		if CheckPage(append(bytes.Clone(p), 0)) == nil {
			t.Fatal("trailing byte")
		}
	}
	if len(kinds) != 4 {
		t.Fatal(kinds)
	}
}
