package local

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tharsis-backup/tharsis/internal/durable"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/backend/backendtest"
)

func TestConformance(t *testing.T) {
	backendtest.Run(t, func(t *testing.T) backend.Backend {
		b, err := Create(filepath.Join(t.TempDir(), "a", "vault"), Options{})
		if err != nil {
			t.Fatal(err)
		}
		return b
	})
}

// create makes a vault folder and opens it until the test ends.
func create(t *testing.T) (*Backend, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "vault")
	return open(t, dir, Create), dir
}

func open(t *testing.T, dir string, how func(string, Options) (*Backend, error)) *Backend {
	t.Helper()
	b, err := how(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func put(t *testing.T, b *Backend, name, data string) {
	t.Helper()
	if err := backend.PutBytes(t.Context(), b, name, []byte(data)); err != nil {
		t.Fatal(err)
	}
}

func list(t *testing.T, b *Backend, prefix string) ([]string, error) {
	t.Helper()
	var names []string
	for info, err := range b.List(t.Context(), prefix) {
		if err != nil {
			return names, err
		}
		names = append(names, info.Name)
	}
	slices.Sort(names)
	return names, nil
}

func wantList(t *testing.T, b *Backend, prefix string, want ...string) {
	t.Helper()
	if got, err := list(t, b, prefix); err != nil || !slices.Equal(got, want) {
		t.Errorf("list %q: got %q, %v, want %q", prefix, got, err, want)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestOpenMissing(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, nil, 0o600))
	for _, path := range []string{filepath.Join(dir, "none"), filepath.Join(dir, "none", "at"), file, filepath.Join(file, "x")} {
		if _, err := Open(path, Options{}); !errors.Is(err, backend.ErrNotFound) {
			t.Errorf("open %s: %v", path, err)
		}
	}
	if _, err := Create(file, Options{}); err == nil {
		t.Error("created a folder over a file")
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("made: %v", entries)
	}
}

// TestSyncs counts what a Put waits for: the file and the folder, and the
// folder above when the vault was just opened.
func TestSyncs(t *testing.T) {
	b, dir := create(t)
	put(t, b, "packs/aa/0", "x")
	steps := func(do func()) string {
		var got []string
		defer durable.SetHook(func(s durable.Step) error {
			if (s.Op == durable.OpSync || s.Op == durable.OpSyncDir) && !s.After {
				got = append(got, string(s.Op)+" "+filepath.Base(s.Path))
			}
			return nil
		})()
		do()
		return strings.ReplaceAll(strings.Join(got, ", "), filepath.Base(dir), "vault")
	}
	folders := func(s string) string {
		var others []string
		temps := 0
		for _, step := range strings.Split(s, ", ") {
			if durable.IsTemp(strings.TrimPrefix(step, "sync ")) {
				temps++
			} else {
				others = append(others, step)
			}
		}
		if temps != 1 {
			t.Errorf("the file is synced %d times: %s", temps, s)
		}
		return strings.Join(others, ", ")
	}
	if got := folders(steps(func() { put(t, b, "packs/aa/1", strings.Repeat("x", 1<<20)) })); got != "syncdir aa" {
		t.Errorf("a Put into a known folder: %s", got)
	}
	if got := folders(steps(func() { put(t, b, "packs/bb/1", "x") })); got != "syncdir packs, syncdir bb" {
		t.Errorf("a Put into a new folder: %s", got)
	}
	again := open(t, dir, Open)
	if got := folders(steps(func() { put(t, again, "packs/aa/2", "x") })); got != "syncdir vault, syncdir packs, syncdir aa" {
		t.Errorf("a first Put: %s", got)
	}
	if got := steps(func() { must(t, b.Delete(t.Context(), "packs/aa/1")) }); got != "syncdir aa" {
		t.Errorf("a Delete: %s", got)
	}
	if got := steps(func() {
		if err := backend.PutBytes(t.Context(), b, "packs/aa/2", nil); !errors.Is(err, backend.ErrExists) {
			t.Error(err)
		}
	}); got != "syncdir aa" {
		t.Errorf("a Put of a taken name: %s", got)
	}
}

// TestDeathAtEachStep dies before and after each step of a first Put; then a
// plain Put stores the object, or finds it whole.
func TestDeathAtEachStep(t *testing.T) {
	errDead := errors.New("dead")
	data := strings.Repeat("content", 10_000)
	moments := 0
	for n := 0; ; n++ {
		b, dir := create(t)
		var count atomic.Int64
		restore := durable.SetHook(func(durable.Step) error {
			if count.Add(1) > int64(n) {
				return errDead
			}
			return nil
		})
		err := backend.PutBytes(t.Context(), b, "packs/aa/1", []byte(data))
		restore()
		if err == nil {
			break
		}
		moments++
		if !errors.Is(err, errDead) {
			t.Errorf("moment %d: %v", n, err)
		}
		again := open(t, dir, Open)
		err = backend.PutBytes(t.Context(), again, "packs/aa/1", []byte(data))
		if err != nil && !errors.Is(err, backend.ErrExists) {
			t.Errorf("moment %d: again: %v", n, err)
		}
		got, err := backend.ReadAll(t.Context(), again, "packs/aa/1", 1<<20)
		if err != nil || string(got) != data {
			t.Errorf("moment %d: %d bytes, %v", n, len(got), err)
		}
		wantList(t, again, "", "packs/aa/1")
	}
	if moments < 2*8 {
		t.Errorf("died at %d moments only", moments)
	}
}

func TestSweepAtOpen(t *testing.T) {
	b, dir := create(t)
	put(t, b, "tmp/a", "an object")
	stale, fresh := "put-0000000000000000.tmp", "put-0000000000000001.tmp"
	for _, name := range []string{stale, fresh, "other.tmp"} {
		must(t, os.WriteFile(filepath.Join(dir, "tmp", name), nil, 0o600))
	}
	old := time.Now().Add(-tempAge - time.Minute)
	for _, name := range []string{stale, "other.tmp", "a"} {
		must(t, os.Chtimes(filepath.Join(dir, "tmp", name), old, old))
	}
	again := open(t, dir, Open)
	wantList(t, again, "", "tmp/a")
	for name, want := range map[string]bool{stale: false, fresh: true, "other.tmp": true, "a": true} {
		if _, err := os.Lstat(filepath.Join(dir, "tmp", name)); (err == nil) != want {
			t.Errorf("%s: there: %v, want %v", name, err == nil, want)
		}
	}
}

func TestForeignFiles(t *testing.T) {
	b, dir := create(t)
	put(t, b, "packs/aa/1", "x")
	must(t, os.MkdirAll(filepath.Join(dir, "lost+found"), 0o700))
	must(t, os.MkdirAll(filepath.Join(dir, "packs", "aa", "empty"), 0o700))
	for _, name := range []string{".DS_Store", "Thumbs.db", "lost+found/1", "packs/aa/1.bak", "packs/README"} {
		must(t, os.WriteFile(filepath.Join(dir, filepath.FromSlash(name)), nil, 0o600))
	}
	long := strings.Repeat("a", backend.MaxNameBytes)
	must(t, os.WriteFile(filepath.Join(dir, "packs", long), nil, 0o600))
	wantList(t, b, "", "packs/aa/1")
	wantList(t, b, "packs/", "packs/aa/1")
}

// TestFolderGone takes the vault's folder away, as an unmount does, with and
// without another folder in its place: nothing may look like an empty vault.
func TestFolderGone(t *testing.T) {
	for _, replaced := range []bool{false, true} {
		b, dir := create(t)
		put(t, b, "packs/aa/1", "x")
		if err := os.Rename(dir, dir+"-away"); err != nil {
			t.Skip("this system doesn't rename an open folder: ", err)
		}
		if replaced {
			must(t, os.MkdirAll(filepath.Join(dir, "tmp"), 0o700))
		}
		wantUnusable(t, fmt.Sprintf("replaced %v", replaced), b)
		_, err := os.Lstat(filepath.Join(dir, "packs"))
		if err == nil {
			t.Error("a Put went into another folder")
		}
		must(t, os.RemoveAll(dir))
		must(t, os.Rename(dir+"-away", dir))
		wantList(t, b, "packs/", "packs/aa/1")
	}
}

// wantUnusable wants each method to fail with what is no ErrNotFound, and no
// listing to be empty.
func wantUnusable(t *testing.T, what string, b *Backend) {
	t.Helper()
	for _, prefix := range []string{"packs/", "packs/aa/", "packs/aa/1"} {
		if names, err := list(t, b, prefix); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: list %q: %q, %v", what, prefix, names, err)
		}
	}
	_, getErr := b.Get(t.Context(), "packs/aa/1", 0, -1)
	for verb, err := range map[string]error{
		"get":    getErr,
		"delete": b.Delete(t.Context(), "packs/aa/1"),
		"put":    backend.PutBytes(t.Context(), b, "packs/aa/2", nil),
	} {
		if err == nil || errors.Is(err, backend.ErrNotFound) || errors.Is(err, backend.ErrExists) {
			t.Errorf("%s: %s: %v", what, verb, err)
		}
	}
}

// TestTempFolderGone removes the folder of unfinished objects beside a Backend
// that uses it.
func TestTempFolderGone(t *testing.T) {
	b, dir := create(t)
	put(t, b, "a", "x")
	must(t, os.Remove(filepath.Join(dir, "tmp")))
	put(t, b, "b", "x")
	wantList(t, b, "", "a", "b")
}

// TestTwoBackends has two backends, as two processes have, race for names in
// folders that neither has seen.
func TestTwoBackends(t *testing.T) {
	one, dir := create(t)
	two := open(t, dir, Create)
	for i := range 8 {
		name := fmt.Sprintf("log/%d/x", i)
		var wins atomic.Int64
		var wg sync.WaitGroup
		for j, b := range []*Backend{one, two, one, two} {
			wg.Go(func() {
				body := bytes.Repeat([]byte{byte(j)}, 1000)
				switch err := backend.PutBytes(t.Context(), b, name, body); {
				case err == nil:
					wins.Add(1)
				case !errors.Is(err, backend.ErrExists):
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if wins.Load() != 1 {
			t.Errorf("%s: %d winners", name, wins.Load())
		}
	}
	if entries, err := os.ReadDir(filepath.Join(dir, "tmp")); err != nil || len(entries) != 0 {
		t.Errorf("left over: %v, %v", entries, err)
	}
}
