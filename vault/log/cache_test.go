package log

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// memoryCache is a Cache in memory.
type memoryCache struct {
	b     []byte
	fails error
}

func (c *memoryCache) Open() (io.ReadCloser, error) {
	if c.b == nil {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader(c.b)), nil
}

func (c *memoryCache) Append(b []byte) error {
	if c.fails == nil {
		c.b = append(c.b, b...)
	}
	return c.fails
}

func (c *memoryCache) Truncate(n int64) error {
	c.b = c.b[:n:n]
	return nil
}

func TestFileCache(t *testing.T) {
	s := newSite(t, 1)
	l := s.open(t, Options{})
	s.fill(t, l, 30)
	path := filepath.Join(t.TempDir(), "log")
	open := func(reads int) {
		t.Helper()
		b := s.store.copy()
		r, err := s.tryOpen(t, b, Options{Cache: FileCache(path)})
		if err != nil {
			t.Fatal(err)
		}
		sameState(t, "cached", r.State(), s.open(t, Options{}).State())
		found := 0
		for _, n := range b.gets {
			found += n
		}
		if found > reads {
			t.Errorf("%d objects were read", found)
		}
	}
	open(60)
	open(10) // the newest, and some that are not there
	s.fill(t, l, 35)
	open(20)
	open(10)
	if i, err := os.Stat(path); err != nil || i.Mode().Perm()&0o077 != 0 && os.PathSeparator == '/' {
		t.Error(i.Mode(), err)
	}
	// What a writer appends goes to its cache.
	w := s.open(t, Options{Cache: FileCache(path)})
	s.fill(t, w, 40)
	open(10)
	// Two processes that read the same log append the same entries.
	w2, w3 := s.open(t, Options{Cache: FileCache(path)}), s.open(t, Options{Cache: FileCache(path)})
	s.fill(t, w, 41)
	for _, l := range []*Log{w2, w3} {
		if err := l.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	open(10)
	// A torn tail is cut off.
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.Write([]byte("torn"))
	f.Close()
	open(10)
	s.fill(t, l, 42)
	open(12)
	open(10)
	// A folder that is not there only costs the cache.
	path = filepath.Join(t.TempDir(), "none", "log")
	open(60)
}

func TestCacheSpoiltAnywhere(t *testing.T) {
	s := newSite(t, 1)
	s.fill(t, s.open(t, Options{}), 4)
	good := &memoryCache{}
	want := s.open(t, Options{Cache: good}).State()
	for i := range good.b {
		for _, cut := range []bool{false, true} {
			c := &memoryCache{b: slices.Clone(good.b)}
			if cut {
				c.b = c.b[:i]
			} else {
				c.b[i] ^= 1 << s.rng.IntN(8)
			}
			sameState(t, "spoilt", s.open(t, Options{Cache: c}).State(), want)
			if !bytes.Equal(c.b, good.b) {
				t.Fatalf("spoilt at %d, cut %v: not mended", i, cut)
			}
		}
	}
	// Whole records in another order, or of another vault.
	half := len(good.b) / 2
	for _, b := range [][]byte{append(good.b[half:], good.b[:half]...), append(slices.Clone(good.b), good.b...), {}} {
		sameState(t, "mixed", s.open(t, Options{Cache: &memoryCache{b: slices.Clone(b)}}).State(), want)
	}
	other := &site{ring: s.ring, store: newMemory(), admin: s.admin, machines: s.machines}
	g := s.genesis()
	g.SoftDeleteDays = 99
	if err := Create(t.Context(), other.store, s.ring, s.admin, g, s.options()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.tryOpen(t, other.store, Options{Cache: good}); !errors.Is(err, ErrRollback) && !errors.Is(err, ErrForked) {
		t.Fatal(err)
	}
	sameState(t, "unwritable", s.open(t, Options{Cache: &memoryCache{fails: errors.New("disk full")}}).State(), want)
}

// Without the MAC an entry that is not signed is not believed.
func TestCacheDoesNotReplaceSignatures(t *testing.T) {
	s := newSite(t, 1)
	l := s.open(t, Options{})
	e := &Entry{Seq: l.next, Prev: l.prev, Body: &Purge{}}
	object, err := e.Seal(s.ring, s.admin)
	if err != nil {
		t.Fatal(err)
	}
	c := &memoryCache{}
	s.open(t, Options{Cache: c})
	forged := newRecorder(s.ring, c)
	forged.mac.Reset()
	rec := forged.record(nil, l.next, object)
	rec[len(rec)-1] ^= 1
	c.b = append(c.b, rec...)
	if r := s.open(t, Options{Cache: c}); r.next != l.next {
		t.Fatal("believed")
	}
}

func TestCacheNoticesRollbackAndFork(t *testing.T) {
	s := newSite(t, 1)
	l := s.open(t, Options{})
	s.fill(t, l, 20)
	old := s.store.copy()
	s.fill(t, l, 30)
	c := &memoryCache{}
	s.open(t, Options{Cache: c})
	if _, err := s.tryOpen(t, old, Options{Cache: c}); !errors.Is(err, ErrRollback) {
		t.Fatal(err)
	}
	fork := &site{ring: s.ring, store: old.copy(), admin: s.admin, machines: s.machines}
	fl := fork.open(t, Options{})
	p := s.pointOf(0, 9)
	for fl.next < 31 {
		p.ID[1]++
		fork.append(t, fl, s.machines[0], &Commit{Point: p})
	}
	if _, err := s.tryOpen(t, fork.store, Options{Cache: c}); !errors.Is(err, ErrForked) {
		t.Fatal(err)
	}
	// What is expected is asked of the cache, too.
	forkHead := fl.Head()
	forkHead.Seq = 25
	if _, err := s.tryOpen(t, s.store, Options{Cache: c, Expect: &forkHead}); !errors.Is(err, ErrForked) {
		t.Fatal(err)
	}
	// Emptied, it is no witness any more.
	c.Truncate(0)
	if _, err := s.tryOpen(t, fork.store, Options{Cache: c}); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkOpenWarm1000(b *testing.B) {
	s := newSite(b, 1)
	s.fill(b, s.open(b, Options{}), 1000)
	path := FileCache(filepath.Join(b.TempDir(), "log"))
	s.open(b, Options{Cache: path})
	for b.Loop() {
		s.open(b, Options{Cache: path})
	}
}

func BenchmarkOpenCold1000(b *testing.B) {
	s := newSite(b, 1)
	s.fill(b, s.open(b, Options{}), 1000)
	for b.Loop() {
		s.open(b, Options{})
	}
}
