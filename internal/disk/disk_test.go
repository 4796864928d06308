package disk

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var errHook = errors.New("so says the hook")

// TestEachCallFails makes each call of the package fail: its error is the hook's,
// and the disk is as the documentation says.
func TestEachCallFails(t *testing.T) {
	exists := func(path string) bool { _, err := os.Lstat(path); return err == nil }
	for _, c := range []struct {
		op Op
		do func(dir, file string, f *File) error
		ok func(dir, file string) bool // how it is after the failure
	}{
		{OpCreate, func(dir, _ string, _ *File) error { return second(Open(dir+"/new", os.O_CREATE|os.O_RDWR, 0o600)) },
			func(dir, _ string) bool { return !exists(dir + "/new") }},
		{OpCreate, func(dir, _ string, _ *File) error { return second(CreateTemp(dir, "a-", ".b")) },
			func(dir, _ string) bool { return names(dir) == "file" }},
		{OpCreate, func(_, file string, _ *File) error { return WriteFile(file, []byte("x"), 0o600) }, content("0123456789")},
		{OpWrite, func(_, file string, _ *File) error { return WriteFile(file, []byte("abcdef"), 0o600) }, content("abc")},
		{OpWrite, func(_, _ string, f *File) error { return second(f.Write([]byte("abcd"))) }, content("ab23456789")},
		{OpWrite, func(_, _ string, f *File) error { return second(f.WriteAt([]byte("abcd"), 4)) }, content("0123ab6789")},
		{OpTruncate, func(_, _ string, f *File) error { return f.Truncate(2) }, content("0123456789")},
		{OpTruncate, func(_, file string, _ *File) error { return Truncate(file, 2) }, content("0123456789")},
		{OpSync, func(_, _ string, f *File) error { return f.Sync() }, content("0123456789")},
		{OpMeta, func(_, _ string, f *File) error { return f.Chmod(0o400) }, content("0123456789")},
		{OpMeta, func(_, file string, _ *File) error { return Chmod(file, 0o400) }, content("0123456789")},
		{OpClose, func(_, _ string, f *File) error {
			err := f.Close()
			if _, rerr := f.ReadAt(make([]byte, 1), 0); !errors.Is(rerr, os.ErrClosed) {
				return errors.New("it is still open")
			}
			return err
		}, content("0123456789")},
		{OpMkdir, func(dir, _ string, _ *File) error { return Mkdir(dir+"/d", 0o700) }, func(dir, _ string) bool { return !exists(dir + "/d") }},
		{OpMkdir, func(dir, _ string, _ *File) error { return MkdirAll(dir+"/d/e", 0o700) }, func(dir, _ string) bool { return !exists(dir + "/d") }},
		{OpRename, func(dir, file string, _ *File) error { return Rename(file, dir+"/n") }, content("0123456789")},
		{OpLink, func(dir, file string, _ *File) error { return Link(file, dir+"/n") }, func(dir, _ string) bool { return !exists(dir + "/n") }},
		{OpRemove, func(_, file string, _ *File) error { return Remove(file) }, content("0123456789")},
		{OpRemove, func(_, file string, _ *File) error { return RemoveAll(file) }, content("0123456789")},
	} {
		dir := t.TempDir()
		file := filepath.Join(dir, "file")
		if err := os.WriteFile(file, []byte("0123456789"), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := Open(file, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		calls := 0
		restore := SetHook(func(call Call) error {
			if call.Op != c.op {
				return nil
			}
			calls++
			return errHook
		})
		err = c.do(dir, file, f)
		restore()
		if !errors.Is(err, errHook) || calls != 1 {
			t.Errorf("%s: %v after %d calls", c.op, err, calls)
		}
		if !c.ok(dir, file) {
			b, _ := os.ReadFile(file)
			t.Errorf("%s: the folder has %s, the file %q", c.op, names(dir), b)
		}
		f.Close()
	}
}

// TestHookSeesNothingElse: reading is no change, and without a hook all calls work.
func TestHookSeesNothingElse(t *testing.T) {
	dir := t.TempDir()
	var ops []string
	restore := SetHook(func(c Call) error { ops = append(ops, string(c.Op)); return nil })
	for range 2 {
		f, err := CreateTemp(dir, "a-", ".b")
		if err != nil {
			t.Fatal(err)
		}
		_, werr := f.Write([]byte("hello"))
		_, serr := f.Seek(0, 0)
		b := make([]byte, 5)
		_, rerr := f.Read(b)
		err = errors.Join(werr, serr, rerr, f.Sync(), f.Close(), Rename(f.Name(), dir+"/n"), Link(dir+"/n", dir+"/m"), Truncate(dir+"/n", 1),
			Remove(dir+"/n"), RemoveAll(dir+"/m"), MkdirAll(dir+"/x/y", 0o700), MkdirAll(dir+"/x/y", 0o700), RemoveAll(dir+"/x"))
		if err != nil || !bytes.Equal(b, []byte("hello")) {
			t.Fatal(err)
		}
		if g, err := Open(dir, os.O_RDONLY, 0); err != nil || g.Close() != nil {
			t.Fatal(err)
		}
		restore()
	}
	want := "create write sync close rename link truncate remove remove mkdir remove"
	if got := strings.Join(ops, " "); got != want {
		t.Errorf("the hook saw %s", got)
	}
}

func second[T any](_ T, err error) error { return err }

func content(want string) func(string, string) bool {
	return func(_, file string) bool {
		b, err := os.ReadFile(file)
		return err == nil && string(b) == want
	}
}

func names(dir string) string {
	entries, _ := os.ReadDir(dir)
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}
