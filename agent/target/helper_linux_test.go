package target

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tharsis-backup/tharsis/vault/manifest"
)

var isRoot = os.Geteuid() == 0

func open(t testing.TB, dir string, o Options) *Root {
	t.Helper()
	r, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// scratch is TempDir, which can be removed whatever the modes in it.
func scratch(t testing.TB) string {
	dir := t.TempDir()
	t.Cleanup(func() {
		filepath.WalkDir(dir, func(path string, e fs.DirEntry, _ error) error {
			if e != nil && e.IsDir() {
				os.Chmod(path, 0o700)
			}
			return nil
		})
	})
	return dir
}

func finish(t testing.TB, r *Root) {
	t.Helper()
	if err := r.Finish(); err != nil {
		t.Error(err)
	}
}

// entry returns an entry of our own, with a time that is not now.
func entry(kind manifest.Kind, mode uint32) *manifest.Entry {
	return &manifest.Entry{
		Kind: kind, Mode: mode, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()),
		MTime: manifest.Time{Sec: 1_500_000_000, Nsec: 123_456_789},
	}
}

func fileEntry(content string) *manifest.Entry {
	e := entry(manifest.KindFile, 0o644)
	e.Size = uint64(len(content))
	return e
}

func linkEntry(to string) *manifest.Entry {
	e := entry(manifest.KindSymlink, 0o777)
	e.Target = to
	return e
}

func enter(t testing.TB, d *Dir, name string, e *manifest.Entry, x ...manifest.Xattr) *Dir {
	t.Helper()
	c, out, err := d.Enter(name, e, x)
	if err != nil || c == nil {
		t.Fatalf("Enter %q: %v, %v", name, out, err)
	}
	return c
}

func write(t testing.TB, d *Dir, name, content string) Outcome {
	t.Helper()
	out, err := d.WriteFile(name, fileEntry(content), []byte(content), nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func lstat(t testing.TB, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatalf("lstat %q: %v", path, err)
	}
	return st
}

func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// checkMeta compares what the system says with the entry.
func checkMeta(t testing.TB, path string, e *manifest.Entry) {
	t.Helper()
	st := lstat(t, path)
	if got := toKind(st.Mode); got != e.Kind {
		t.Fatalf("%q is of kind %d, want %d", path, got, e.Kind)
	}
	if e.Kind != manifest.KindSymlink && st.Mode&0o7777 != e.Mode {
		t.Errorf("%q has mode %o, want %o", path, st.Mode&0o7777, e.Mode)
	}
	if st.Uid != e.UID || st.Gid != e.GID {
		t.Errorf("%q is of %d:%d, want %d:%d", path, st.Uid, st.Gid, e.UID, e.GID)
	}
	if st.Mtim.Sec != e.MTime.Sec || uint32(st.Mtim.Nsec) != e.MTime.Nsec {
		t.Errorf("%q has mtime %d.%09d, want %d.%09d", path, st.Mtim.Sec, st.Mtim.Nsec, e.MTime.Sec, e.MTime.Nsec)
	}
}

// snapshot describes all below dir, in a form to compare: no change of content or
// metadata leaves it as it was, since each sets a ctime.
func snapshot(t testing.TB, dir string) string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st := lstat(t, path)
		line := fmt.Sprintf("%q %o %d:%d %d %d.%d %d.%d %d", path, st.Mode, st.Uid, st.Gid, st.Nlink, st.Mtim.Sec, st.Mtim.Nsec, st.Ctim.Sec, st.Ctim.Nsec, st.Ino)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(path)
			line += fmt.Sprintf(" %q %v", b, err)
		case unix.S_IFLNK:
			to, _ := os.Readlink(path)
			line += " -> " + to
		}
		lines = append(lines, line)
		return nil
	})
	must(t, err)
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

// listing lists what is in dir.
func listing(t testing.TB, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	must(t, err)
	var out []string
	for _, e := range list {
		out = append(out, e.Name())
	}
	return out
}

// noTemp fails where a temporary name is left anywhere below dir.
func noTemp(t testing.TB, dir string) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(e.Name(), tempPrefix) {
			t.Errorf("%q is left", path)
		}
		return err
	}))
}

func wantErr(t testing.TB, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
	var e *Error
	if got != nil && !errors.As(got, &e) {
		t.Errorf("%s: %v has no path", what, got)
	}
}
