package target

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// node is a thing that should be in the target.
type node struct {
	e       *manifest.Entry
	content []byte
	x       []manifest.Xattr
	kids    map[string]*node
	further bool // a further name of another node
}

// grower makes random trees.
type grower struct {
	*rand.Rand
	files []*node // those with a link key
}

func (g *grower) name() string {
	n := 1 + g.IntN(12)
	if g.IntN(20) == 0 {
		n = 255
	}
	b := make([]byte, n)
	for i := range b {
		for b[i] = byte(g.Uint32()); b[i] == 0 || b[i] == '/'; {
			b[i] = byte(g.Uint32())
		}
	}
	if s := string(b); s != "." && s != ".." {
		return s
	}
	return "dots"
}

func (g *grower) entry(kind manifest.Kind) *manifest.Entry {
	e := entry(kind, g.Uint32()&0o7777)
	e.MTime = manifest.Time{Sec: g.Int64N(8_000_000_000) - 2_000_000_000, Nsec: g.Uint32N(1e9)}
	if isRoot && g.IntN(2) == 0 {
		e.UID, e.GID = g.Uint32N(1<<31), g.Uint32N(1<<31)
	}
	return e
}

func (g *grower) grow(depth int) *node {
	n := &node{e: g.entry(manifest.KindDir), kids: map[string]*node{}}
	for range g.IntN(10) {
		name := g.name()
		kid := &node{}
		switch k := g.IntN(10); {
		case k < 3 && depth > 0:
			kid = g.grow(depth - 1)
		case k == 4:
			kid.e = g.entry(manifest.KindSymlink)
			kid.e.Target = g.name()
		case k == 5:
			kid.e = g.entry(manifest.KindFIFO)
		case k == 6 && len(g.files) > 0:
			*kid = *g.files[g.IntN(len(g.files))]
			kid.further = true
		default:
			kid.e = g.entry(manifest.KindFile)
			kid.content = make([]byte, g.IntN(20000))
			for i := range kid.content {
				kid.content[i] = byte(g.Uint32())
			}
			kid.e.Size = uint64(len(kid.content))
			if g.IntN(2) == 0 {
				kid.x = []manifest.Xattr{{Name: "user.x", Value: []byte(g.name())}}
			}
			if g.IntN(3) == 0 {
				kid.e.LinkKey = g.Uint64() | 1
			}
		}
		if n.kids[name] != nil {
			continue
		}
		if n.kids[name] = kid; kid.e.LinkKey != 0 && !kid.further {
			g.files = append(g.files, kid)
		}
	}
	return n
}

// put restores n's content into d, in the order of points; files are completed
// at some time by other goroutines.
func (n *node) put(t *testing.T, d *Dir, work chan<- func()) {
	for _, name := range slices.Sorted(maps.Keys(n.kids)) {
		kid := n.kids[name]
		e := *kid.e // may be reused by its owner
		switch kid.e.Kind {
		case manifest.KindDir:
			sub := enter(t, d, name, &e, kid.x...)
			kid.put(t, sub, work)
			sub.Leave()
		case manifest.KindFile:
			if d.Link(name, &e, func(out Outcome, err error) {
				if out != Restored || err != nil {
					t.Errorf("link %q: %v, %v", name, out, err)
				}
			}) {
				break
			}
			f, _, err := d.Create(name, &e)
			must(t, err)
			work <- func() {
				half := len(kid.content) / 2
				f.WriteAt(kid.content[half:], int64(half))
				f.WriteAt(kid.content[:half], 0)
				if out, err := f.Commit(kid.x); out != Restored || err != nil {
					t.Errorf("%q: %v, %v", name, out, err)
				}
			}
		default:
			if out, err := d.Make(name, &e, kid.x); out != Restored || err != nil {
				t.Errorf("%q: %v, %v", name, out, err)
			}
		}
		e = manifest.Entry{}
	}
}

func (n *node) check(t *testing.T, path string) {
	checkMeta(t, path, n.e)
	switch n.e.Kind {
	case manifest.KindFile:
		must(t, os.Chmod(path, 0o600))
		if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, n.content) {
			t.Errorf("%q has other content: %v", path, err)
		}
		checkXattrs(t, path, n.x)
		must(t, unix.Chmod(path, n.e.Mode)) // it may have more names
	case manifest.KindSymlink:
		if to, err := os.Readlink(path); err != nil || to != n.e.Target {
			t.Errorf("%q leads to %q, %v", path, to, err)
		}
	case manifest.KindDir:
		must(t, os.Chmod(path, 0o700))
		if got := len(listing(t, path)); got != len(n.kids) {
			t.Errorf("%q has %d names, want %d", path, got, len(n.kids))
		}
		for name, kid := range n.kids {
			kid.check(t, filepath.Join(path, name))
		}
	}
}

// checkLinks runs before check, which changes modes.
func (n *node) checkLinks(t *testing.T, path string, inodes map[uint64]uint64) {
	for name, kid := range n.kids {
		at := filepath.Join(path, name)
		if isRoot || n.e.Mode&0o100 != 0 {
			kid.checkLinks(t, at, inodes)
		}
	}
	var st unix.Stat_t
	if n.e.LinkKey == 0 || unix.Lstat(path, &st) != nil {
		return
	}
	if was := inodes[n.e.LinkKey]; was != 0 && was != st.Ino {
		t.Errorf("%q is not linked", path)
	}
	inodes[n.e.LinkKey] = st.Ino
}

// Whatever the tree, it is there afterwards.
func TestRandomTrees(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for i := range uint64(12) {
		g := &grower{rand.New(rand.NewPCG(seed, i)), nil}
		tree := g.grow(4)
		dir := filepath.Join(scratch(t), "t")
		r := open(t, dir, Options{Failed: func(err error) { t.Error(err) }})
		work := make(chan func(), 8)
		done := make(chan struct{})
		for range 3 {
			go func() {
				for f := range work {
					f()
				}
				done <- struct{}{}
			}()
		}
		r.Top().Describe(tree.e, nil)
		tree.put(t, r.Top(), work)
		close(work)
		for range 3 {
			<-done
		}
		finish(t, r)
		if len(r.Notes()) != 0 {
			t.Errorf("notes %+v", r.Notes())
		}
		if isRoot {
			tree.checkLinks(t, dir, map[uint64]uint64{})
		}
		tree.check(t, dir)
		if t.Failed() {
			t.Fatalf("tree %d", i)
		}
	}
}
