package log

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tharsis-backup/tharsis/vault/key"

	"github.com/tharsis-backup/tharsis/vault/backend"
)

func TestRacingWriters(t *testing.T) {
	for _, writers := range []int{2, 8} {
		t.Run(fmt.Sprint(writers), func(t *testing.T) {
			const each = 40
			s := newSite(t, writers)
			first := s.open(t, Options{}).Head().Seq
			logs := make([]*Log, writers)
			heads := make([][]Head, writers)
			var wg sync.WaitGroup
			for w := range writers {
				logs[w] = s.open(t, Options{})
				points := make([]Point, each)
				for i := range points {
					points[i] = s.pointOf(w, byte(i))
					points[i].ID[1] = byte(w)
				}
				wg.Go(func() {
					for i := range points {
						h, err := logs[w].Append(t.Context(), s.machines[w], func(st *State) (Body, error) {
							if h := st.Head(); h.Seq+1 != logs[w].next {
								return nil, fmt.Errorf("built on %d for %d", h.Seq, logs[w].next)
							}
							return &Commit{Point: points[i]}, nil
						})
						if err != nil {
							t.Error(err)
							return
						}
						heads[w] = append(heads[w], h)
					}
				})
			}
			wg.Wait()
			seen := map[uint64]Head{}
			whole := s.open(t, Options{Observe: func(e *Entry, h Head) { seen[e.Seq] = h }})
			if n := uint64(writers * each); whole.Head().Seq != first+n {
				t.Fatalf("head %d, want %d", whole.Head().Seq, first+n)
			}
			for w := range writers {
				if err := logs[w].Refresh(t.Context()); err != nil {
					t.Fatal(err)
				}
				sameState(t, "a writer's", logs[w].State(), whole.State())
				for _, h := range heads[w] {
					if seen[h.Seq] != h {
						t.Fatalf("writer %d was told entry %d, which is another", w, h.Seq)
					}
				}
			}
			if n := len(whole.State().Points()); n != writers*each {
				t.Fatalf("%d points", n)
			}
		})
	}
}

// One Log is used by many goroutines of a process.
func TestOneLogManyUsers(t *testing.T) {
	s := newSite(t, 1)
	l := s.open(t, Options{})
	var wg sync.WaitGroup
	for w := range 4 {
		p := s.pointOf(0, byte(w))
		wg.Go(func() {
			for i := range 10 {
				q := p
				q.ID[1] = byte(i)
				if _, err := l.Append(t.Context(), s.machines[0], func(*State) (Body, error) { return &Commit{Point: q}, nil }); err != nil {
					t.Error(err)
				}
				if err := l.Refresh(t.Context()); err != nil {
					t.Error(err)
				}
				for _, p := range l.State().Points() {
					_ = p.Point.Sources[0].Path
				}
				l.State().Usable(q.Sources[0].Root)
			}
		})
	}
	wg.Wait()
	if n := len(l.State().Points()); n != 40 {
		t.Fatal(n)
	}
}

// A lost race calls build again with the newer State, and it may refuse.
func TestFence(t *testing.T) {
	s := newSite(t, 1)
	pack := maker{s.rng}.id()
	other, l := s.open(t, Options{}), s.open(t, Options{})
	calls := 0
	gone := errors.New("a pack is gone")
	_, err := l.Append(t.Context(), s.machines[0], func(st *State) (Body, error) {
		calls++
		if calls == 1 {
			s.append(t, other, s.admin, &Condemn{Packs: []ID{pack}})
		}
		if !st.Usable(pack) {
			return nil, gone
		}
		return &Commit{Point: s.pointOf(0, 1)}, nil
	})
	if err != gone || calls != 2 {
		t.Fatal(err, calls)
	}
	if n := len(l.State().Points()); n != 0 {
		t.Fatal("committed")
	}
}

func TestAmbiguousPut(t *testing.T) {
	broken := errors.New("connection reset")
	commit := func(s *site) Body { return &Commit{Point: s.pointOf(0, 1)} }
	for _, test := range []struct {
		name  string
		put   func(s *site, try int, name string, put func() error) error
		fails bool // Append fails, with the outcome unknown
	}{
		{"after the effect", func(_ *site, _ int, _ string, put func() error) error {
			return errors.Join(put(), broken)
		}, false},
		{"before the effect, once", func(_ *site, try int, _ string, put func() error) error {
			if try == 0 {
				return broken
			}
			return put()
		}, false},
		{"before the effect, always", func(*site, int, string, func() error) error { return broken }, true},
		{"retried below, so that it exists", func(_ *site, _ int, _ string, put func() error) error {
			put()
			return put()
		}, false},
		{"appears before the next try", func(_ *site, try int, _ string, put func() error) error {
			if try < 2 {
				return broken
			}
			put()
			return put()
		}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newSite(t, 1)
			l := s.open(t, Options{})
			try := 0
			s.store.onPut = func(name string, put func() error) error {
				try++
				return test.put(s, try-1, name, put)
			}
			h, err := l.Append(t.Context(), s.machines[0], func(*State) (Body, error) { return commit(s), nil })
			if test.fails {
				if !errors.Is(err, broken) || !strings.Contains(err.Error(), "unknown") || try != putTries {
					t.Fatal(err, try)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			s.store.onPut = nil
			r := s.open(t, Options{})
			if r.Head() != h || len(r.State().Points()) != 1 || l.Head() != h {
				t.Fatal("not there once")
			}
		})
	}
}

// A Put whose object may be gone after a power cut cannot be settled by finding it,
// and is not made again: that would count a failed sync as done.
func TestPutThatIsNotDurable(t *testing.T) {
	s := newSite(t, 1)
	l := s.open(t, Options{})
	puts := 0
	s.store.onPut = func(_ string, put func() error) error {
		puts++
		return errors.Join(put(), backend.ErrNotDurable)
	}
	_, err := l.Append(t.Context(), s.machines[0], func(*State) (Body, error) { return &Commit{Point: s.pointOf(0, 1)}, nil })
	if !errors.Is(err, backend.ErrNotDurable) || !strings.Contains(err.Error(), "unknown") || puts != 1 {
		t.Fatal(err, puts)
	}
}

// The Put fails, another writer takes the number, and we find it when settling.
func TestAmbiguousPutLost(t *testing.T) {
	s := newSite(t, 2)
	l, other := s.open(t, Options{}), s.open(t, Options{})
	tries := 0
	s.store.onPut = func(name string, put func() error) error {
		if tries++; tries != 1 {
			return put()
		}
		s.store.onPut = nil
		s.append(t, other, s.machines[1], &Commit{Point: s.pointOf(1, 2)})
		return errors.New("timeout")
	}
	h := s.append(t, l, s.machines[0], &Commit{Point: s.pointOf(0, 1)})
	if h.Seq != other.Head().Seq+1 {
		t.Fatal(h.Seq)
	}
	sameState(t, "after", l.State(), s.open(t, Options{}).State())
}

// The Put fails for good, and its object appears later: the job, started anew
// with the same ID, finds its COMMIT; in its place another writer finds it.
func TestAmbiguousPutAppearsLater(t *testing.T) {
	s := newSite(t, 2)
	l, other := s.open(t, Options{}), s.open(t, Options{})
	var late func() error
	s.store.onPut = func(_ string, put func() error) error {
		late = put
		return errors.New("timeout")
	}
	body := &Commit{Point: s.pointOf(0, 1)}
	if _, err := l.Append(t.Context(), s.machines[0], func(*State) (Body, error) { return body, nil }); err == nil {
		t.Fatal("no error")
	}
	s.store.onPut = func(_ string, put func() error) error {
		s.store.onPut = nil
		late()
		return put()
	}
	theirs := s.append(t, other, s.machines[1], &Commit{Point: s.pointOf(1, 2)})
	again := s.append(t, l, s.machines[0], body)
	if again.Seq+1 != theirs.Seq || len(l.State().Points()) != 2 {
		t.Fatal(again.Seq, theirs.Seq)
	}
}

func TestCommitIsIdempotent(t *testing.T) {
	s := newSite(t, 2)
	l := s.open(t, Options{})
	p := s.pointOf(0, 1)
	h := s.append(t, l, s.machines[0], &Commit{Point: p})
	s.append(t, l, s.admin, &Noted{})
	if again := s.append(t, l, s.machines[0], &Commit{Point: p}); again != h {
		t.Fatal(again, h)
	}
	// Also once it was purged.
	s.append(t, l, s.admin, &Forget{Points: []PointID{p.ID}})
	s.append(t, l, s.admin, &Purge{Points: []PointID{p.ID}})
	head := l.Head()
	if again := s.append(t, l, s.machines[0], &Commit{Point: p}); again != h || l.Head() != head {
		t.Fatal(again, h)
	}
	// Another machine, or a clone, that took the ID did not do this job.
	q := s.pointOf(1, 1)
	clone := p
	clone.Install[0]++
	for i, p := range []Point{clone, q} {
		if _, err := l.Append(t.Context(), s.machines[i], func(*State) (Body, error) { return &Commit{Point: p}, nil }); err == nil {
			t.Fatal("no error")
		}
	}
}

func TestAppendRefusesWhatHasNoEffect(t *testing.T) {
	s := newSite(t, 2)
	l := s.open(t, Options{})
	head := l.Head()
	for _, b := range []Body{&Commit{Point: s.pointOf(1, 1)}, &Purge{}, &Genesis{SoftDeleteDays: 14}} {
		_, err := l.Append(t.Context(), s.machines[0], func(*State) (Body, error) { return b, nil })
		if !errors.Is(err, ErrNoAuthority) {
			t.Errorf("%s: %v", b.Type(), err)
		}
	}
	if _, err := l.Append(t.Context(), s.admin, func(*State) (Body, error) { return &Condemn{Packs: make([]ID, 40000)}, nil }); err == nil {
		t.Error("above the limit")
	}
	if l.Head() != head {
		t.Fatal("appended")
	}
}

// A vault where every race is lost makes the writer wait longer each time, and
// only its context ends it.
func TestBusyVault(t *testing.T) {
	s := newSite(t, 1)
	other := s.open(t, Options{})
	var waits []time.Duration
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	l := s.open(t, Options{Rand: ones{}, Sleep: func(ctx context.Context, d time.Duration) error {
		waits = append(waits, d)
		if len(waits) == 40 {
			cancel()
		}
		return ctx.Err()
	}})
	s.store.onPut = func(_ string, put func() error) error {
		s.store.onPut = nil
		s.append(t, other, s.admin, &Noted{})
		return put()
	}
	again := s.store.onPut
	_, err := l.Append(ctx, s.machines[0], func(*State) (Body, error) {
		s.store.onPut = again
		return &Commit{Point: s.pointOf(0, 1)}, nil
	})
	if !errors.Is(err, context.Canceled) || len(waits) != 40 {
		t.Fatal(err, len(waits))
	}
	for i, d := range waits {
		if d >= maxPause || i > 0 && i < 6 && waits[i-1] >= firstPause<<i {
			t.Fatal(waits)
		}
	}
	if waits[39] == waits[0] {
		t.Fatal("it does not back off")
	}
}

// ones is a source of randomness that is none.
type ones struct{}

func (ones) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 0xff
	}
	return len(b), nil
}

func TestWaitForTurnEndsWithContext(t *testing.T) {
	s := newSite(t, 1)
	l := s.open(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	_, err := l.Append(t.Context(), s.admin, func(*State) (Body, error) {
		cancel()
		if err := l.Refresh(ctx); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		return &Noted{}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A crash, or an error, at every Put around a bundle's end.
func TestBundleBoundary(t *testing.T) {
	for _, end := range []uint64{256, 512} {
		s := newSite(t, 1)
		l := s.open(t, Options{})
		s.fill(t, l, end)
		name := bundleName(end/256 - 1)
		if s.store.objects[name] != nil {
			t.Fatal("made too early")
		}
		base := s.store.copy()
		body := &Commit{Point: s.pointOf(0, 1)}
		crash := errors.New("crash")
		for _, mode := range []string{"before the bundle", "after the bundle", "before the entry", "after the entry"} {
			s.store = base.copy()
			ctx, cancel := context.WithCancel(t.Context())
			w := s.open(t, Options{})
			s.store.onPut = func(at string, put func() error) error {
				if at != name && s.store.objects[name] == nil {
					t.Error("the entry was put without the bundle")
				}
				if strings.HasSuffix(mode, "bundle") != (at == name) {
					return put()
				}
				if strings.HasPrefix(mode, "after") {
					put()
				}
				cancel()
				return crash
			}
			if _, err := w.Append(ctx, s.machines[0], func(*State) (Body, error) { return body, nil }); err == nil {
				t.Fatalf("%s: no error", mode)
			}
			s.store.onPut = nil
			w = s.open(t, Options{})
			if h := s.append(t, w, s.machines[0], body); h.Seq != end {
				t.Fatalf("%s: entry %d", mode, h.Seq)
			}
			r := s.open(t, Options{})
			sameState(t, mode, r.State(), w.State())
			if s.store.objects[name] == nil || s.store.gets[name] == 0 {
				t.Fatalf("%s: no bundle, or not read", mode)
			}
		}
		// An unclear Put of the bundle is settled like others.
		s.store = base.copy()
		tries := 0
		s.store.onPut = func(at string, put func() error) error {
			if tries++; tries == 1 {
				return crash
			}
			if tries == 2 {
				put()
				return crash
			}
			return put()
		}
		if h := s.append(t, s.open(t, Options{}), s.machines[0], body); h.Seq != end {
			t.Fatal(h.Seq)
		}
		// An entry that rotted in the vault is not sealed into a bundle.
		s.store = base.copy()
		w := s.open(t, Options{})
		s.store.objects[entryName(end-3)] = s.store.objects[entryName(end-4)]
		if _, err := w.Append(t.Context(), s.machines[0], func(*State) (Body, error) { return body, nil }); !errors.Is(err, key.ErrDamaged) {
			t.Fatal(err)
		}
	}
}

func TestObserve(t *testing.T) {
	s := newSite(t, 1)
	var seqs []uint64
	l := s.open(t, Options{Observe: func(e *Entry, h Head) {
		if e.Seq != h.Seq {
			t.Error(e.Seq, h.Seq)
		}
		seqs = append(seqs, e.Seq)
	}})
	s.append(t, l, s.machines[0], &Commit{Point: s.pointOf(0, 1)})
	if !reflect.DeepEqual(seqs, []uint64{0, 1, 2}) {
		t.Fatal(seqs)
	}
}
