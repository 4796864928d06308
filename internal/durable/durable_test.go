package durable

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tharsis-backup/tharsis/internal/stage"
)

// record runs do and returns its steps as "op base-name", each once.
func record(t *testing.T, do func()) []string {
	t.Helper()
	var mu sync.Mutex
	var steps []string
	restore := SetHook(func(s Step) error {
		mu.Lock()
		defer mu.Unlock()
		name := filepath.Base(s.Path)
		if IsTemp(name) {
			name = "TEMP"
		}
		if !s.After {
			steps = append(steps, string(s.Op)+" "+name)
		}
		return nil
	})
	defer restore()
	do()
	return steps
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestSteps(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	file := filepath.Join(dir, "f")
	body := bytes.NewReader(make([]byte, 3*copyBytes+1))
	for _, c := range []struct {
		what string
		do   func() error
		want error
		list []string
	}{
		{"mkdir", func() error { return MkdirAll(filepath.Join(dir, "a"), 0o700) }, nil,
			[]string{"mkdir d", "syncdir " + filepath.Base(filepath.Dir(dir)), "mkdir a", "syncdir d"}},
		{"mkdir again", func() error { return MkdirAll(filepath.Join(dir, "a"), 0o700) }, nil, nil},
		{"mkdir there", func() error { return Mkdir(dir, 0o700) }, fs.ErrExist, []string{"mkdir d"}},
		{"create", func() error { return CreateFile(file, body, body.Size(), 0o600) }, nil,
			[]string{"create TEMP", "write TEMP", "sync TEMP", "publish f", "syncdir d"}},
		{"create again", func() error { return CreateFile(file, body, 1, 0o600) }, fs.ErrExist,
			[]string{"create TEMP", "write TEMP", "sync TEMP", "publish f", "remove TEMP", "syncdir d"}},
		{"write", func() error { return WriteFile(file, []byte("x"), 0o600) }, nil,
			[]string{"create TEMP", "write TEMP", "sync TEMP", "replace f", "syncdir d"}},
		{"remove", func() error { return Remove(file) }, nil, []string{"remove f", "syncdir d"}},
		{"remove again", func() error { return Remove(file) }, fs.ErrNotExist, []string{"remove f"}},
	} {
		var err error
		got := record(t, func() { err = c.do() })
		if !errors.Is(err, c.want) {
			t.Fatalf("%s: got %v, want %v", c.what, err, c.want)
		}
		if !slices.Equal(got, c.list) {
			t.Errorf("%s: steps\n got %q\nwant %q", c.what, got, c.list)
		}
	}
}

// errDead is what the hook says after the death that it plays.
var errDead = errors.New("dead")

// dieAt sets a hook that lets n moments pass and then fails all others.
func dieAt(n int) (restore func(), died func() bool) {
	var count atomic.Int64
	restore = SetHook(func(Step) error {
		if count.Add(1) > int64(n) {
			return errDead
		}
		return nil
	})
	return restore, func() bool { return count.Load() > int64(n) }
}

// failAt sets a hook that fails one moment only.
func failAt(n int) (restore func(), failed func() bool) {
	var count atomic.Int64
	restore = SetHook(func(Step) error {
		if count.Add(1) == int64(n)+1 {
			return errDead
		}
		return nil
	})
	return restore, func() bool { return count.Load() > int64(n) }
}

// TestDeathAtEachStep dies before and after each step of each operation; the
// file is then the old one or the new one, whole, and the operation can be
// done afterwards.
func TestDeathAtEachStep(t *testing.T) {
	oldData, newData := []byte("old"), bytes.Repeat([]byte("new!"), copyBytes/4+1)
	create := func(p string) error {
		return CreateFile(p, bytes.NewReader(newData), int64(len(newData)), 0o600)
	}
	write := func(p string) error { return WriteFile(p, newData, 0o600) }
	for _, c := range []struct {
		what string
		old  []byte // nil: none
		do   func(string) error
	}{{"create", nil, create}, {"write", nil, write}, {"overwrite", oldData, write}} {
		for mode, set := range []func(int) (func(), func() bool){dieAt, failAt} {
			moments := 0
			for n := 0; ; n++ {
				dir := t.TempDir()
				path := filepath.Join(dir, "f")
				if c.old != nil {
					check(t, os.WriteFile(path, c.old, 0o600))
				}
				restore, hit := set(n)
				err := c.do(path)
				restore()
				if !hit() {
					check(t, err)
					break
				}
				moments++
				where := fmt.Sprintf("%s, mode %d, moment %d", c.what, mode, n)
				if !errors.Is(err, errDead) {
					t.Errorf("%s: got %v", where, err)
				}
				got, err := os.ReadFile(path)
				isOld := c.old == nil && errors.Is(err, fs.ErrNotExist) || c.old != nil && bytes.Equal(got, c.old)
				if !isOld && !bytes.Equal(got, newData) {
					t.Errorf("%s: the file is neither old nor new (%d bytes, %v)", where, len(got), err)
				}
				if mode == 1 {
					checkNoTemp(t, where, dir)
				}
				if err := c.do(path); err != nil && !(c.what == "create" && !isOld && errors.Is(err, fs.ErrExist)) {
					t.Errorf("%s: again: %v", where, err)
				}
				if got, _ := os.ReadFile(path); !bytes.Equal(got, newData) {
					t.Errorf("%s: again: wrong content", where)
				}
			}
			if moments != 10 {
				t.Errorf("%s: died at %d moments, want 10", c.what, moments)
			}
		}
	}
}

func checkNoTemp(t *testing.T, where, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	check(t, err)
	for _, e := range entries {
		if IsTemp(e.Name()) {
			t.Errorf("%s: a temporary file stays", where)
		}
	}
}

// TestSyncErrorIsFinal fails the sync of a file: it is not tried again, and
// the file is removed.
func TestSyncErrorIsFinal(t *testing.T) {
	dir, syncs := t.TempDir(), 0
	defer SetHook(func(s Step) error {
		if s.Op == OpSync && !s.After {
			syncs++
			return errDead
		}
		return nil
	})()
	for _, do := range []func() error{
		func() error { return WriteFile(filepath.Join(dir, "w"), []byte("x"), 0o600) },
		func() error { return CreateFile(filepath.Join(dir, "c"), strings.NewReader("x"), 1, 0o600) },
	} {
		syncs = 0
		if err := do(); !errors.Is(err, errDead) || syncs != 1 {
			t.Errorf("got %v after %d syncs", err, syncs)
		}
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Errorf("left over: %v", entries)
	}
}

func TestCreateFileRace(t *testing.T) {
	for _, noRename := range []bool{false, true} {
		if noRename {
			defer withoutRename()()
		}
		path := filepath.Join(t.TempDir(), "f")
		var wins atomic.Int64
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				body := bytes.Repeat([]byte{byte(i)}, 2*copyBytes)
				switch err := CreateFile(path, bytes.NewReader(body), int64(len(body)), 0o600); {
				case err == nil:
					wins.Add(1)
					if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, body) {
						t.Errorf("the winner's file has %d bytes, %v", len(got), err)
					}
				case !errors.Is(err, fs.ErrExist):
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if wins.Load() != 1 {
			t.Errorf("%d winners (without rename: %v)", wins.Load(), noRename)
		}
		checkNoTemp(t, "race", filepath.Dir(path))
	}
}

// withoutRename plays a file system that has link(2) only.
func withoutRename() (restore func()) {
	former := exclusiveRename
	exclusiveRename = func(string, string) error { return errors.ErrUnsupported }
	return func() { exclusiveRename = former }
}

func TestPublishByLink(t *testing.T) {
	defer withoutRename()()
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	got := record(t, func() { check(t, CreateFile(path, strings.NewReader("abc"), 3, 0o600)) })
	want := []string{"create TEMP", "write TEMP", "sync TEMP", "publish f", "remove TEMP", "syncdir " + filepath.Base(dir)}
	if !slices.Equal(got, want) {
		t.Errorf("steps\n got %q\nwant %q", got, want)
	}
	checkNoTemp(t, "link", dir)
	// An answer that was lost: the name is this very file.
	again := filepath.Join(dir, "again")
	check(t, os.Link(path, again))
	check(t, link(path, again))
	check(t, os.WriteFile(filepath.Join(dir, "other"), nil, 0o600))
	if err := link(path, filepath.Join(dir, "other")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("link over another file: %v", err)
	}
}

func TestShortBody(t *testing.T) {
	dir := t.TempDir()
	for _, size := range []int64{4, copyBytes + 1} {
		err := CreateFile(filepath.Join(dir, "f"), strings.NewReader("abc"), size, 0o600)
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("size %d: %v", size, err)
		}
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Errorf("left over: %v", entries)
	}
}

func TestMissingFolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "no", "f")
	if err := WriteFile(path, nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	file := filepath.Join(t.TempDir(), "f")
	check(t, WriteFile(file, nil, 0o600))
	for _, p := range []string{file, filepath.Join(file, "a"), filepath.Join(file, "a", "b")} {
		if err := MkdirAll(p, 0o700); err == nil {
			t.Errorf("made a folder at or below a file: %s", p)
		}
	}
}

func TestSweep(t *testing.T) {
	dir := t.TempDir()
	old := time.Now().Add(-25 * time.Hour)
	for name, age := range map[string]time.Time{
		"put-0123456789abcdef.tmp": old,
		"put-fedcba9876543210.tmp": time.Now(),
		"put-0123456789abcdeg.tmp": old,
		"put-.tmp":                 old,
		"put-0123456789abcdef":     old,
		"object":                   old,
	} {
		check(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
		check(t, os.Chtimes(filepath.Join(dir, name), age, age))
	}
	if n, err := Sweep(dir, 24*time.Hour); n != 1 || err != nil {
		t.Errorf("swept %d, %v", n, err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 5 {
		t.Errorf("left: %v", entries)
	}
	if n, err := Sweep(filepath.Join(dir, "none"), 0); n != 0 || err != nil {
		t.Errorf("missing folder: %d, %v", n, err)
	}
}

// TestSweepBesideWriter sweeps a file that is still being written: its writer
// gets an error, and no file appears.
func TestSweepBesideWriter(t *testing.T) {
	dir := t.TempDir()
	tmp, err := CreateTemp(dir, 0o600)
	check(t, err)
	_, err = tmp.Write([]byte("abc"))
	check(t, err)
	if err := os.Remove(tmp.path); err != nil {
		tmp.Abort()
		t.Skip("this system doesn't remove open files: ", err)
	}
	if err := tmp.Publish(filepath.Join(dir, "f")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("publish: %v", err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Errorf("left over: %v", entries)
	}
}

// TestReadBack changes bytes between the body and the disk: nothing is made of it.
func TestReadBack(t *testing.T) {
	dir := t.TempDir()
	body := bytes.NewReader(make([]byte, 2*copyBytes+100))
	for part := range 3 {
		n := 0
		restore := stage.SetHook(func(p stage.Point, b []byte) {
			if n++; n-1 == part {
				b[len(b)-1] ^= 0x40
			}
		})
		err := CreateFile(filepath.Join(dir, "f"), body, body.Size(), 0o600)
		restore()
		if !errors.Is(err, stage.ErrSpoilt) || n != 3 {
			t.Errorf("part %d of %d: %v", part, n, err)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
	check(t, CreateFile(filepath.Join(dir, "f"), body, body.Size(), 0o600))
}
