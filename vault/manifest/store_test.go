package manifest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/tharsis-backup/tharsis/chunk"
)

var ctx = context.Background()

// store is a PageReader and a PageWriter in memory that counts.
type store struct {
	pages      map[chunk.ID][]byte
	reads      int
	puts       int
	fresh      int // puts of pages that were not there
	broken     map[chunk.ID]bool
	check      bool // that pages which are put pass CheckPage
	maxPlain   int
	unreadable error
}

func newStore() *store {
	return &store{pages: map[chunk.ID][]byte{}, broken: map[chunk.ID]bool{}, check: true,
		unreadable: fmt.Errorf("object is gone: %w", io.EOF)} // must not pass as an end
}

func (s *store) Page(_ context.Context, id chunk.ID) ([]byte, error) {
	s.reads++
	p, ok := s.pages[id]
	if !ok || s.broken[id] {
		return nil, s.unreadable
	}
	return p, nil
}

func (s *store) PutPage(_ context.Context, plaintext []byte) (chunk.ID, error) {
	s.puts++
	id := chunk.ID(sha256.Sum256(plaintext))
	s.maxPlain = max(s.maxPlain, len(plaintext))
	if _, ok := s.pages[id]; !ok {
		if s.check {
			if err := CheckPage(plaintext); err != nil {
				return id, err
			}
		}
		s.fresh++
		s.pages[id] = bytes.Clone(plaintext)
	}
	return id, nil
}

// row is an entry with its key.
type row struct {
	key   string
	entry *Entry
}

func build(t testing.TB, s *store, sh shape, rows []row) (chunk.ID, Totals) {
	t.Helper()
	b := NewBuilder(s)
	b.shape = sh
	for _, r := range rows {
		if err := b.Add(ctx, []byte(r.key), r.entry); err != nil {
			t.Fatal(err)
		}
	}
	root, total, err := b.Finish(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return root, total
}

// model is a manifest as a sorted list.
type model struct{ list []row }

func newModel() *model { return &model{list: []row{{"", &Entry{Kind: KindDir, Mode: 0o755}}}} }

func (m *model) find(k string) (int, bool) {
	return slices.BinarySearchFunc(m.list, k, func(r row, k string) int { return strings.Compare(r.key, k) })
}

func (m *model) get(k string) *Entry {
	if i, ok := m.find(k); ok {
		return m.list[i].entry
	}
	return nil
}

// set puts an entry, or with nil takes it away.
func (m *model) set(k string, e *Entry) {
	i, ok := m.find(k)
	switch {
	case e == nil && ok:
		m.list = slices.Delete(m.list, i, i+1)
	case e != nil && ok:
		m.list[i].entry = e
	case e != nil:
		m.list = slices.Insert(m.list, i, row{k, e})
	}
}

// dirs makes a folder of everything that has entries below it.
func (m *model) dirs() *model {
	for _, r := range m.list {
		for p, ok := Parent([]byte(r.key)); ok; p, ok = Parent(p) {
			if e := m.get(string(p)); e.Kind != KindDir {
				m.set(string(p), &Entry{Kind: KindDir})
			}
		}
	}
	return m
}

// randomName draws from few characters, so that names collide and share.
func randomName(rng *rand.Rand) string {
	const alphabet = "ab.\x01\xff-"
	for {
		n := 1 + rng.IntN(5)
		b := make([]byte, n)
		for i := range b {
			b[i] = alphabet[rng.IntN(len(alphabet))]
		}
		if ValidateName(b) == nil {
			return string(b)
		}
	}
}

func randomID(rng *rand.Rand) (id chunk.ID) {
	for i := range id {
		id[i] = byte(rng.Uint32())
	}
	id[31] |= 1
	return id
}

func randomExtents(rng *rand.Rand, n int) []Extent {
	var x []Extent
	for range n {
		e := Extent{Length: 1 + rng.Uint64N(maxChunkBytes), ID: randomID(rng)}
		if rng.IntN(3) == 0 && (len(x) == 0 || !x[len(x)-1].Hole()) {
			e = Extent{Length: 1 + rng.Uint64N(1<<40)}
		}
		x = append(x, e)
	}
	return x
}

func randomTime(rng *rand.Rand) Time {
	return Time{Sec: int64(rng.Uint64()) >> rng.IntN(64), Nsec: rng.Uint32N(1e9)}
}

func randomEntry(rng *rand.Rand) *Entry {
	e := &Entry{Kind: Kind(1 + rng.IntN(6)), Mode: rng.Uint32N(0o10000), UID: rng.Uint32() >> rng.IntN(32),
		GID: rng.Uint32() >> rng.IntN(32), MTime: randomTime(rng), CTime: randomTime(rng)}
	if rng.IntN(2) == 0 {
		e.User, e.Group, e.Inode = "me", "us", rng.Uint64()>>rng.IntN(64)
	}
	if rng.IntN(5) == 0 {
		e.LinkKey, e.Flags = rng.Uint64()|1, Flags(rng.IntN(4))
	}
	switch rng.IntN(6) {
	case 0:
		e.Xattrs, _ = AppendXattrs(nil, []Xattr{{"user.b", []byte("x")}, {"user.a", nil}})
	case 1:
		e.XattrRef = Extent{Length: 129 + rng.Uint64N(5000), ID: randomID(rng)}
	}
	switch e.Kind {
	case KindDir:
		if rng.IntN(3) == 0 {
			e.FSID = "fs-1"
		}
	case KindFile:
		e.Extents = randomExtents(rng, rng.IntN(5))
		for _, x := range e.Extents {
			e.Size += x.Length
		}
	case KindSymlink:
		e.Target = randomName(rng)
	case KindBlock, KindChar:
		e.Major, e.Minor = rng.Uint32(), rng.Uint32N(300)
	}
	return e
}

// grow adds up to n random entries below others.
func (m *model) grow(rng *rand.Rand, n int) *model {
	for range n {
		over := m.list[rng.IntN(len(m.list))].key
		if k := string(AppendChild(nil, []byte(over), randomName(rng))); m.get(k) == nil {
			m.set(k, randomEntry(rng))
		}
	}
	return m
}

func flat(n int) []row {
	rows := []row{{"", &Entry{Kind: KindDir}}}
	for i := range n {
		dir := fmt.Sprintf("dir%05d", i/100)
		if i%100 == 0 {
			rows = append(rows, row{dir, &Entry{Kind: KindDir, Mode: 0o755, User: "root", Group: "root"}})
			continue
		}
		id := chunk.ID(sha256.Sum256(fmt.Append(nil, i)))
		rows = append(rows, row{fmt.Sprintf("%s\x00file-%07d.go", dir, i), &Entry{
			Kind: KindFile, Mode: 0o644, UID: 1000, GID: 1000, User: "someone", Group: "someone",
			MTime: Time{1790000000 + int64(i), 123456789}, CTime: Time{1790000000, 987654321},
			Inode: uint64(100000 + i), Size: 4096, Extents: []Extent{{Length: 4096, ID: id}}}})
	}
	return rows
}
