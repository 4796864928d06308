package log

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"

	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/key"
)

func TestOpenNothing(t *testing.T) {
	s := newSite(t, 0)
	if _, err := s.tryOpen(t, newMemory(), Options{}); !errors.Is(err, backend.ErrNotFound) {
		t.Fatal(err)
	}
	if _, err := s.tryOpen(t, newMemory(), Options{Expect: &Head{}}); !errors.Is(err, ErrRollback) {
		t.Fatal(err)
	}
	err := Create(t.Context(), s.store, s.ring, s.admin, s.genesis(), s.options())
	if !errors.Is(err, backend.ErrExists) {
		t.Fatal(err)
	}
	if err := Create(t.Context(), newMemory(), s.ring, s.stranger, s.genesis(), s.options()); err == nil {
		t.Fatal("made under another key than the admin's")
	}
}

func TestEntry0(t *testing.T) {
	s := newSite(t, 0)
	g := s.genesis()
	for name, e := range map[string]*Entry{
		"no GENESIS":   {Body: &Noted{}},
		"not by admin": {Body: &g},
		"has a prev":   {Body: &g, Prev: [32]byte{1}},
	} {
		signer := s.admin
		if name == "not by admin" {
			signer = s.stranger
		}
		object, err := e.Seal(s.ring, signer)
		if err != nil {
			t.Fatal(err)
		}
		b := newMemory()
		b.objects[entryName(0)] = object
		if _, err := s.tryOpen(t, b, Options{}); !errors.Is(err, key.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestHolesAndDamage(t *testing.T) {
	s := newSite(t, 1)
	l := s.open(t, Options{})
	s.fill(t, l, 40)
	for seq := range uint64(39) {
		b := s.store.copy()
		delete(b.objects, entryName(seq))
		if _, err := s.tryOpen(t, b, Options{}); !errors.Is(err, key.ErrDamaged) {
			t.Fatalf("entry %d is missing: %v", seq, err)
		}
		b.objects[entryName(seq)] = s.store.objects[entryName(seq+1)]
		if _, err := s.tryOpen(t, b, Options{}); !errors.Is(err, key.ErrDamaged) {
			t.Fatalf("entry %d stands for %d: %v", seq+1, seq, err)
		}
		b.objects[entryName(seq)] = make([]byte, MaxObjectBytes+10)
		if _, err := s.tryOpen(t, b, Options{}); !errors.Is(err, key.ErrDamaged) {
			t.Fatalf("entry %d is long: %v", seq, err)
		}
	}
	// A reader that stopped before a hole meets it when it reads on.
	early := s.open(t, Options{})
	s.fill(t, l, 44)
	delete(s.store.objects, entryName(41))
	if err := early.Refresh(t.Context()); !errors.Is(err, key.ErrDamaged) {
		t.Fatal(err)
	}
	if early.Head().Seq != 40 {
		t.Fatalf("stopped at %d", early.Head().Seq)
	}
}

func TestNewerVersion(t *testing.T) {
	s := newSite(t, 1)
	b := s.store.copy()
	object := slices.Clone(b.objects[entryName(1)])
	object[4]++
	object[8]++ // another key's commitment, as a newer version's is
	b.objects[entryName(1)] = object
	if _, err := s.tryOpen(t, b, Options{}); !errors.Is(err, key.ErrNewer) {
		t.Fatal(err)
	}
}

func TestBackendErrorsAreNoDamage(t *testing.T) {
	s := newSite(t, 1)
	s.fill(t, s.open(t, Options{}), 10)
	broken := errors.New("no route to host")
	for seq := range uint64(13) {
		b := s.store.copy()
		b.onGet = func(name string) error {
			if name == entryName(seq) {
				return broken
			}
			return nil
		}
		if _, err := s.tryOpen(t, b, Options{}); !errors.Is(err, broken) || isDamage(err) {
			t.Fatalf("entry %d: %v", seq, err)
		}
	}
}

func TestRollbackAndFork(t *testing.T) {
	s := newSite(t, 1)
	l := s.open(t, Options{})
	s.fill(t, l, 20)
	short := s.store.copy()
	shortLog, _ := s.tryOpen(t, s.store.copy(), Options{}) // another reader, as of now
	s.fill(t, l, 30)
	head := l.Head()

	fork := &site{ring: s.ring, store: short.copy(), admin: s.admin, machines: s.machines}
	forkLog := fork.open(t, Options{})
	s2 := fork.pointOf(0, 99)
	for forkLog.next < 35 {
		s2.ID[1]++
		fork.append(t, forkLog, s.machines[0], &Commit{Point: s2})
	}
	check := func(what string, b *memory, o Options, want error) {
		t.Helper()
		if _, err := s.tryOpen(t, b, o); !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	check("whole", s.store, Options{Expect: &head}, nil)
	check("short", short, Options{Expect: &head}, ErrRollback)
	check("fork", fork.store, Options{Expect: &head}, ErrForked)
	// What was seen in the log before the fork is in both.
	seen := shortLog.Head()
	check("before the fork", fork.store, Options{Expect: &seen}, nil)

	// A running reader, whose backend is put back to an old copy or a fork.
	for what, c := range map[string]struct {
		b    *memory
		want error
	}{"short": {short, ErrRollback}, "fork": {fork.store, ErrForked}, "same": {s.store.copy(), nil}} {
		r := s.open(t, Options{})
		r.backend = c.b
		err := r.Refresh(t.Context())
		if !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("refresh, %s: %v", what, err)
		}
		if c.want == nil {
			continue
		}
		if _, err := r.Append(t.Context(), s.admin, func(*State) (Body, error) { return &Noted{}, nil }); !errors.Is(err, c.want) {
			t.Errorf("append, %s: %v", what, err)
		}
	}
	// The newest entry seen is gone, but later ones are there: damage, no rollback.
	r := s.open(t, Options{})
	s.fill(t, l, 33)
	delete(s.store.objects, entryName(29))
	if err := r.Refresh(t.Context()); !errors.Is(err, key.ErrDamaged) {
		t.Error(err)
	}
	check("hole at the expected", s.store, Options{Expect: &head}, key.ErrDamaged)
	s.store.objects[entryName(29)] = []byte("rotten")
	if err := r.Refresh(t.Context()); !errors.Is(err, key.ErrDamaged) {
		t.Error(err)
	}
}

// bundled gives a vault with more than two bundles.
func bundled(t testing.TB) (*site, *Log) {
	s := newSite(t, 1)
	l := s.open(t, Options{})
	s.fill(t, l, 2*BundleEntries+5)
	return s, l
}

func TestBundles(t *testing.T) {
	s, l := bundled(t)
	for n := range uint64(2) {
		want := key.AppendShortHeader(nil, key.TypeBundle)
		for seq := n * 256; seq < n*256+256; seq++ {
			o := s.store.objects[entryName(seq)]
			want = append(want, byte(len(o)), byte(len(o)>>8), byte(len(o)>>16), 0)
			want = append(want, o...)
		}
		if !bytes.Equal(s.store.objects[bundleName(n)], want) {
			t.Fatalf("bundle %d is not its entries", n)
		}
	}
	if _, ok := s.store.objects[bundleName(2)]; ok {
		t.Fatal("a bundle that is not full")
	}
	counted := s.store.copy()
	r, err := s.tryOpen(t, counted, Options{})
	if err != nil {
		t.Fatal(err)
	}
	sameState(t, "by bundles", r.State(), l.State())
	if n := len(counted.gets); n > 20 {
		t.Errorf("%d objects were read", n)
	}
	// A bundle stands for entries that are lost, also at the newest one read.
	holes := s.store.copy()
	for seq := range uint64(512) {
		if seq != 100 && seq != 300 {
			delete(holes.objects, entryName(seq))
		}
	}
	if r, err = s.tryOpen(t, holes, Options{}); err != nil {
		t.Fatal(err)
	}
	sameState(t, "by bundles alone", r.State(), l.State())
	part := s.store.copy()
	for n := range uint64(3) {
		delete(part.objects, bundleName(n))
	}
	for seq := range part.objects {
		if seq > entryName(99) && seq[0] == 'l' {
			delete(part.objects, seq)
		}
	}
	if r, err = s.tryOpen(t, part, Options{}); err != nil || r.Head().Seq != 99 {
		t.Fatal(err)
	}
	for _, hidden := range [][]uint64{{}, {99}, {100}, {99, 100, 101, 150}} {
		r, _ := s.tryOpen(t, part, Options{})
		b := s.store.copy()
		for _, seq := range hidden {
			delete(b.objects, entryName(seq))
		}
		r.backend = b
		if err := r.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		sameState(t, fmt.Sprint("refreshed, hidden ", hidden), r.State(), l.State())
		if n := len(b.gets); n > 60 {
			t.Errorf("%d objects were read", n)
		}
	}
}

func TestDamagedBundle(t *testing.T) {
	s, l := bundled(t)
	good := s.store.objects[bundleName(0)]
	spoil := map[string]func(b []byte) []byte{
		"flip":     func(b []byte) []byte { b[s.rng.IntN(len(b))] ^= 1 << s.rng.IntN(8); return b },
		"cut":      func(b []byte) []byte { return b[:s.rng.IntN(len(b))] },
		"trailing": func(b []byte) []byte { return append(b, 0) },
		"other":    func([]byte) []byte { return s.store.objects[bundleName(1)] },
	}
	for name, f := range spoil {
		for range 3 {
			b := s.store.copy()
			b.objects[bundleName(0)] = f(slices.Clone(good))
			r, err := s.tryOpen(t, b, Options{})
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			sameState(t, name, r.State(), l.State())
		}
	}
}

// Every altered bundle is rejected: in its form, or by the entry that it changes.
func TestBundleAltered(t *testing.T) {
	s, _ := bundled(t)
	b := s.store.objects[bundleName(0)]
	var ends []int
	at := key.ShortHeaderBytes
	if err := scanBundle(bytes.NewReader(b), func(_ uint64, o []byte) error {
		at += 4 + len(o)
		ends = append(ends, at)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	check := func(what string, b []byte) {
		changed := false
		err := scanBundle(bytes.NewReader(b), func(seq uint64, o []byte) error {
			if bytes.Equal(o, s.store.objects[entryName(seq)]) {
				return nil
			}
			changed = true
			_, err := OpenEntry(s.ring, seq, o)
			return err
		})
		if !isDamage(err) {
			t.Fatalf("%s: %v, changed %v", what, err, changed)
		}
	}
	for i := range 40 * 8 {
		b[i/8] ^= 1 << (i % 8)
		check(fmt.Sprint("bit ", i), b)
		b[i/8] ^= 1 << (i % 8)
	}
	for i := s.rng.IntN(97); i < len(b); i += 97 {
		b[i] ^= 0x10
		check(fmt.Sprint("byte ", i), b)
		b[i] ^= 0x10
		check(fmt.Sprint("cut at ", i), b[:i])
	}
	for _, end := range ends[:255] {
		check(fmt.Sprint("cut at ", end), b[:end])
		check(fmt.Sprint("cut at ", end+4), b[:end+4])
	}
	check("trailing", append(b, 1))
}

// A bundle whose entries do not fit into memory is read from the backend.
func TestLargeBundle(t *testing.T) {
	s := newSite(t, 1)
	l := s.open(t, Options{})
	s.fill(t, l, BundleEntries)
	whole, err := l.collect(t.Context(), 0, bundleMemory)
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.collect(t.Context(), 0, 10_000)
	if err != nil {
		t.Fatal(err)
	}
	if b.held > 10_000 || b.size != whole.size || whole.held < 50_000 {
		t.Fatal(b.held, b.size, whole.held, whole.size)
	}
	for _, step := range []int64{1, 100, 4096, b.size} {
		want, got := make([]byte, step), make([]byte, step)
		for off := int64(0); off < b.size; off += step + 37 {
			n, err1 := whole.ReadAt(want, off)
			m, err2 := b.ReadAt(got, off)
			if n != m || err1 != err2 || !bytes.Equal(got, want) || (err1 == io.EOF) != (off+step > b.size) {
				t.Fatal(step, off, n, m, err1, err2)
			}
		}
	}
	// What is fetched again must be what the chain said.
	s.store.objects[entryName(200)] = s.store.objects[entryName(201)]
	if _, err := io.Copy(io.Discard, io.NewSectionReader(b, 0, b.size)); !errors.Is(err, key.ErrDamaged) {
		t.Fatal(err)
	}
}
