// Package backendtest is the conformance suite of backend.Backend: what the
// interface promises, as tests that each driver and each decorator runs. A
// driver for a service runs it against the real one too.
//
// The suite needs nothing but the backend, asserts nothing about time, and
// writes some 50 MiB.
package backendtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/tharsis-backup/tharsis/vault/backend"
)

// Run runs the suite. newBackend makes an empty backend, and is called once a
// subtest; Run closes what it made.
func Run(t *testing.T, newBackend func(t *testing.T) backend.Backend) {
	for _, c := range []struct {
		name string
		test func(*testing.T, backend.Backend)
	}{
		{"Names", testNames},
		{"NotFound", testNotFound},
		{"CreateOnly", testCreateOnly},
		{"Sizes", testSizes},
		{"Ranges", testRanges},
		{"Short", testShortBody},
		{"ReadTwice", testReadTwice},
		{"List", testList},
		{"ListStops", testListStops},
		{"Delete", testDelete},
		{"Cancelled", testCancelled},
		{"CancelRead", testCancelRead},
		{"Race", testRace},
		{"RaceDelete", testRaceDelete},
		{"NeverPartial", testNeverPartial},
		{"Helpers", testHelpers},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBackend(t)
			defer func() {
				if err := b.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			}()
			c.test(t, b)
		})
	}
}

// contentPeriod is after how many bytes content repeats itself: odd, and so
// large that a driver that mixes up its parts is found out.
const contentPeriod = 1<<20 - 1

// content makes n bytes that look random and are the same for the same seed.
func content(n int, seed uint64) []byte {
	data := make([]byte, n)
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	rand.NewChaCha8(key).Read(data[:min(n, contentPeriod)])
	for off := contentPeriod; off < n; off += contentPeriod {
		copy(data[off:], data[:contentPeriod])
	}
	return data
}

func mustPut(t *testing.T, b backend.Backend, name string, data []byte) {
	t.Helper()
	if err := backend.PutBytes(t.Context(), b, name, data); err != nil {
		t.Fatal(err)
	}
}

// get reads a range; errors of Get and of the stream are the same to it.
func get(ctx context.Context, b backend.Backend, name string, off, length int64) ([]byte, error) {
	r, err := b.Get(ctx, name, off, length)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(r)
	if cerr := r.Close(); err == nil {
		err = cerr
	}
	return data, err
}

func wantContent(t *testing.T, b backend.Backend, name string, want []byte) {
	t.Helper()
	r, err := b.Get(t.Context(), name, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got := make([]byte, len(want)+1)
	n, err := io.ReadFull(r, got)
	if err != io.EOF && err != io.ErrUnexpectedEOF && err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got[:n], want) {
		t.Fatalf("%s: got %d bytes that differ from the %d put", name, n, len(want))
	}
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
}

// list collects "name size", sorted, and fails on a name that comes twice.
func list(t *testing.T, b backend.Backend, prefix string) []string {
	t.Helper()
	var got []string
	for info, err := range b.List(t.Context(), prefix) {
		if err != nil {
			t.Fatalf("list %q: %v", prefix, err)
		}
		got = append(got, fmt.Sprint(info.Name, " ", info.Size))
	}
	slices.Sort(got)
	if n := len(got); n != len(slices.Compact(slices.Clone(got))) {
		t.Errorf("list %q: a name comes twice", prefix)
	}
	return got
}

func listErr(ctx context.Context, b backend.Backend, prefix string) error {
	for _, err := range b.List(ctx, prefix) {
		if err != nil {
			return err
		}
	}
	return nil
}

// badNames are names that every method must refuse.
var badNames = []string{
	"", "/", "/a", "a/", "a//b", "..", "../a", "a/../b", ".", "A", "a b", "a-b", "a.tmp", "a\\b", "ä", "a\x00",
	strings.Repeat("a", backend.MaxNameBytes+1),
}

func testNames(t *testing.T, b backend.Backend) {
	ctx := t.Context()
	for _, name := range badNames {
		if err := backend.PutBytes(ctx, b, name, nil); err == nil {
			t.Errorf("put %q: no error", name)
		}
		if _, err := get(ctx, b, name, 0, -1); err == nil || errors.Is(err, backend.ErrNotFound) {
			t.Errorf("get %q: %v", name, err)
		}
		if err := b.Delete(ctx, name); err == nil || errors.Is(err, backend.ErrNotFound) {
			t.Errorf("delete %q: %v", name, err)
		}
	}
	for _, prefix := range []string{"/", "../", "a//", "A", "a b", "a\\", strings.Repeat("a", backend.MaxNameBytes+1)} {
		if err := listErr(ctx, b, prefix); err == nil {
			t.Errorf("list %q: no error", prefix)
		}
	}
	if got := list(t, b, ""); len(got) != 0 {
		t.Errorf("something was made: %q", got)
	}
	for _, name := range []string{
		"a", "0", "tmp/a", "packs/3f/3fa2", strings.Repeat("a", backend.MaxNameBytes),
		strings.Repeat("b/", backend.MaxNameBytes/2-1) + "bb",
	} {
		mustPut(t, b, name, []byte(name))
		wantContent(t, b, name, []byte(name))
	}
}

func testNotFound(t *testing.T, b backend.Backend) {
	mustPut(t, b, "packs/aa/one", []byte("1"))
	for _, name := range []string{"none", "none/at/all", "packs", "packs/aa", "packs/aa/two", "packs/aa/one/more"} {
		_, err := get(t.Context(), b, name, 0, -1)
		wantErr(t, "get "+name, err, backend.ErrNotFound)
		_, err = get(t.Context(), b, name, 10, 0)
		wantErr(t, "get nothing of "+name, err, backend.ErrNotFound)
		wantErr(t, "delete "+name, b.Delete(t.Context(), name), backend.ErrNotFound)
	}
	wantContent(t, b, "packs/aa/one", []byte("1"))
}

func testCreateOnly(t *testing.T, b backend.Backend) {
	for _, name := range []string{"config", "packs/aa/one"} {
		mustPut(t, b, name, []byte("first"))
		for _, other := range []string{"second one", "", "first"} {
			err := backend.PutBytes(t.Context(), b, name, []byte(other))
			wantErr(t, "put again", err, backend.ErrExists)
			if errors.Is(err, backend.ErrNotFound) {
				t.Errorf("put again: the error is both: %v", err)
			}
		}
		wantContent(t, b, name, []byte("first"))
	}
	if err := b.Put(t.Context(), "negative", strings.NewReader("a"), -1); err == nil {
		t.Error("put of a negative size: no error")
	}
	_, err := get(t.Context(), b, "negative", 0, -1)
	wantErr(t, "get", err, backend.ErrNotFound)
}

func testSizes(t *testing.T, b backend.Backend) {
	var want []string
	for i, n := range []int{0, 1, 4095, 4096, 256<<10 - 1, 256 << 10, 256<<10 + 1, 20 << 20} {
		name := fmt.Sprintf("size/%d", n)
		data := content(n, uint64(i))
		mustPut(t, b, name, data)
		wantContent(t, b, name, data)
		want = append(want, fmt.Sprint(name, " ", n))
	}
	slices.Sort(want)
	if got := list(t, b, "size/"); !slices.Equal(got, want) {
		t.Errorf("list: got %q, want %q", got, want)
	}
}

func testRanges(t *testing.T, b backend.Backend) {
	const size = 300_000
	data := content(size, 1)
	mustPut(t, b, "a/b", data)
	for _, off := range []int64{0, 1, size / 2, size - 1, size, size + 1, 1 << 40} {
		for _, length := range []int64{-1, -1 << 62, 0, 1, 4096, size - 1, size, size + 1, 1<<63 - 1} {
			from := min(off, size)
			want := data[from:]
			if length >= 0 {
				want = want[:min(length, size-from)]
			}
			got, err := get(t.Context(), b, "a/b", off, length)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("get %d at %d: got %d bytes, %v, want %d", length, off, len(got), err, len(want))
			}
		}
	}
	if _, err := get(t.Context(), b, "a/b", -1, 1); err == nil {
		t.Error("get at a negative offset: no error")
	}
	mustPut(t, b, "empty", nil)
	if got, err := get(t.Context(), b, "empty", 0, -1); err != nil || len(got) != 0 {
		t.Errorf("get all of nothing: %d bytes, %v", len(got), err)
	}
}

func testShortBody(t *testing.T, b backend.Backend) {
	for i, size := range []int64{1, 11, 1 << 20} {
		name := fmt.Sprintf("short/%d", i)
		if err := b.Put(t.Context(), name, strings.NewReader("0123456789"[:i*5]), size); err == nil {
			t.Errorf("put %d bytes of fewer: no error", size)
		}
		_, err := get(t.Context(), b, name, 0, -1)
		wantErr(t, "get what had no content", err, backend.ErrNotFound)
	}
	if got := list(t, b, ""); len(got) != 0 {
		t.Errorf("list: %q", got)
	}
	if err := b.Put(t.Context(), "longer", strings.NewReader("0123456789"), 4); err != nil {
		t.Fatal(err)
	}
	wantContent(t, b, "longer", []byte("0123"))
}

func testReadTwice(t *testing.T, b backend.Backend) {
	// The same body serves several Puts, and is not kept: it may change after.
	data := content(100_000, 2)
	want := bytes.Clone(data)
	body := bytes.NewReader(data)
	for i := range 3 {
		if err := b.Put(t.Context(), fmt.Sprintf("twice/%d", i), body, body.Size()); err != nil {
			t.Fatal(err)
		}
	}
	clear(data)
	for i := range 3 {
		wantContent(t, b, fmt.Sprintf("twice/%d", i), want)
	}
}

func testHelpers(t *testing.T, b backend.Backend) {
	data := content(1000, 3)
	mustPut(t, b, "a", data)
	for _, limit := range []int64{1000, 1001, 1 << 40} {
		if got, err := backend.ReadAll(t.Context(), b, "a", limit); err != nil || !bytes.Equal(got, data) {
			t.Errorf("read all up to %d: %d bytes, %v", limit, len(got), err)
		}
	}
	for _, limit := range []int64{-1, 0, 999, 1<<63 - 1} {
		if _, err := backend.ReadAll(t.Context(), b, "a", limit); err == nil {
			t.Errorf("read all up to %d: no error", limit)
		}
	}
	p := make([]byte, 100)
	if err := backend.ReadAt(t.Context(), b, "a", 900, p); err != nil || !bytes.Equal(p, data[900:]) {
		t.Errorf("read at 900: %v", err)
	}
	for _, off := range []int64{901, 1000, 5000} {
		wantErr(t, "read at the end", backend.ReadAt(t.Context(), b, "a", off, p), io.ErrUnexpectedEOF)
	}
	if err := backend.ReadAt(t.Context(), b, "a", 5, nil); err != nil {
		t.Errorf("read nothing: %v", err)
	}
	_, err := backend.ReadAll(t.Context(), b, "b", 1)
	wantErr(t, "read all", err, backend.ErrNotFound)
	wantErr(t, "read at", backend.ReadAt(t.Context(), b, "b", 0, p), backend.ErrNotFound)
}
