package backendtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tharsis-backup/tharsis/vault/backend"
)

// writers is how many goroutines race for a name.
const writers = 16

// testRace has writers race for each of some names: one wins, the others get
// ErrExists, and the content is the winner's.
func testRace(t *testing.T, b backend.Backend) {
	for round := range 6 {
		name := fmt.Sprintf("race/%d/x", round)
		var winner atomic.Int64
		winner.Store(-1)
		start := make(chan struct{})
		var wg sync.WaitGroup
		for i := range writers {
			wg.Go(func() {
				data := content(20_000+i*1000, uint64(i))
				<-start
				switch err := backend.PutBytes(t.Context(), b, name, data); {
				case err == nil:
					if !winner.CompareAndSwap(-1, int64(i)) {
						t.Errorf("%s: two winners", name)
					}
				case !errors.Is(err, backend.ErrExists):
					t.Error(err)
				default:
					if _, err := get(t.Context(), b, name, 0, 1); err != nil {
						t.Errorf("what exists can't be read: %v", err)
					}
				}
			})
		}
		close(start)
		wg.Wait()
		i := winner.Load()
		if i < 0 {
			t.Fatalf("%s: no winner", name)
		}
		wantContent(t, b, name, content(20_000+int(i)*1000, uint64(i)))
	}
	if got := list(t, b, ""); len(got) != 6 {
		t.Errorf("list: %q", got)
	}
}

// testRaceDelete has deleters race for an object: it is gone, and nobody fails in
// another way. (How many are told that they did it differs by service.)
func testRaceDelete(t *testing.T, b backend.Backend) {
	mustPut(t, b, "a/b", []byte("x"))
	var deleted atomic.Int64
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			switch err := b.Delete(t.Context(), "a/b"); {
			case err == nil:
				deleted.Add(1)
			case !errors.Is(err, backend.ErrNotFound):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := deleted.Load(); n < 1 {
		t.Errorf("deleted by %d", n)
	}
	_, err := get(t.Context(), b, "a/b", 0, -1)
	wantErr(t, "get", err, backend.ErrNotFound)
}

// testNeverPartial reads and lists objects while they are written: a reader
// gets nothing or all.
func testNeverPartial(t *testing.T, b backend.Backend) {
	const objects, size = 6, 512 << 10
	var want [objects][]byte
	for i := range want {
		want[i] = content(size, uint64(i))
	}
	name := func(i int) string { return fmt.Sprintf("part/%d", i) }
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				for i := range objects {
					got, err := get(t.Context(), b, name(i), 0, -1)
					if errors.Is(err, backend.ErrNotFound) {
						continue
					}
					if err != nil || !bytes.Equal(got, want[i]) {
						t.Errorf("%s: %d bytes that are not all, %v", name(i), len(got), err)
					}
				}
				for info, err := range b.List(t.Context(), "") {
					if err != nil || info.Size != size {
						t.Errorf("list: %v, %v", info, err)
					}
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	for i := range objects {
		body := slowBody{bytes.NewReader(want[i])}
		if err := b.Put(t.Context(), name(i), body, size); err != nil {
			t.Error(err)
		}
	}
	close(done)
	wg.Wait()
}

// slowBody lets others run in the middle of a Put.
type slowBody struct{ r *bytes.Reader }

func (s slowBody) ReadAt(p []byte, off int64) (int, error) {
	half := len(p) / 2
	if n, err := s.r.ReadAt(p[:half], off); err != nil {
		return n, err
	}
	n, err := s.r.ReadAt(p[half:], off+int64(half))
	return half + n, err
}

func testCancelled(t *testing.T, b backend.Backend) {
	mustPut(t, b, "a/old", []byte("x"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantErr(t, "put", backend.PutBytes(ctx, b, "a/new", []byte("x")), context.Canceled)
	_, err := get(ctx, b, "a/old", 0, -1)
	wantErr(t, "get", err, context.Canceled)
	wantErr(t, "list", listErr(ctx, b, ""), context.Canceled)
	wantErr(t, "list of nothing", listErr(ctx, b, "none/"), context.Canceled)
	wantErr(t, "delete", b.Delete(ctx, "a/old"), context.Canceled)
	if got := list(t, b, ""); !slices.Equal(got, []string{"a/old 1"}) {
		t.Errorf("list: %q", got)
	}
}

// testCancelRead cancels a Put, a Get and a List in their middle.
func testCancelRead(t *testing.T, b backend.Backend) {
	data := content(4<<20, 4)
	ctx, cancel := context.WithCancel(t.Context())
	err := b.Put(ctx, "a/cancelled", cancelBody{bytes.NewReader(data), cancel}, int64(len(data)))
	wantErr(t, "put", err, context.Canceled)
	if _, err := get(t.Context(), b, "a/cancelled", 0, -1); !errors.Is(err, backend.ErrNotFound) {
		wantContent(t, b, "a/cancelled", data) // it may exist, then whole
	}

	mustPut(t, b, "a/x", data)
	mustPut(t, b, "a/y", nil)
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	r, err := b.Get(ctx, "a/x", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadFull(r, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	cancel()
	_, err = io.Copy(io.Discard, r)
	wantErr(t, "read", err, context.Canceled)

	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	var last error
	for _, err := range b.List(ctx, "a/") {
		cancel()
		last = err
	}
	wantErr(t, "list", last, context.Canceled)
}

// cancelBody cancels when it is read.
type cancelBody struct {
	io.ReaderAt
	cancel context.CancelFunc
}

func (c cancelBody) ReadAt(p []byte, off int64) (int, error) {
	c.cancel()
	return c.ReaderAt.ReadAt(p, off)
}
