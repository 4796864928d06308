//go:build unix

package local

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/tharsis-backup/tharsis/internal/disk"
	"github.com/tharsis-backup/tharsis/vault/backend"
)

// TestModes wants 0600 and 0700 under umasks that take more or less. The umask
// belongs to the process, so no test here may run in parallel.
func TestModes(t *testing.T) {
	for _, mask := range []int{0, 0o022, 0o077, 0o277, 0o777} {
		root := t.TempDir()
		dir := filepath.Join(root, "a", "vault")
		former := syscall.Umask(mask)
		b, err := Create(dir, Options{})
		if err == nil {
			err = backend.PutBytes(t.Context(), b, "packs/aa/1", []byte("x"))
			b.Close()
		}
		syscall.Umask(former)
		must(t, err)
		must(t, filepath.WalkDir(filepath.Join(root, "a"), func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := os.Lstat(path)
			want := fs.FileMode(filePerm)
			if err == nil && info.IsDir() {
				want = dirPerm | fs.ModeDir
			}
			if err == nil && info.Mode() != want {
				t.Errorf("umask %03o: %s is %v, want %v", mask, path, info.Mode(), want)
			}
			return err
		}))
	}
}

// TestObjectsAreRegular puts other things where objects should be: each is an
// error, none is followed or waited for, and listings leave them out.
func TestObjectsAreRegular(t *testing.T) {
	b, dir := create(t)
	put(t, b, "a/real", "x")
	secret := filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(secret, []byte("secret"), 0o600))
	must(t, os.Symlink(secret, filepath.Join(dir, "a", "link")))
	must(t, syscall.Mkfifo(filepath.Join(dir, "a", "fifo"), 0o600))
	for _, name := range []string{"a/link", "a/fifo"} {
		if _, err := b.Get(t.Context(), name, 0, -1); err == nil || errors.Is(err, backend.ErrNotFound) {
			t.Errorf("get %s: %v", name, err)
		}
		if err := b.Delete(t.Context(), name); err == nil || errors.Is(err, backend.ErrNotFound) {
			t.Errorf("delete %s: %v", name, err)
		}
		if err := backend.PutBytes(t.Context(), b, name, nil); !errors.Is(err, backend.ErrExists) {
			t.Errorf("put %s: %v", name, err)
		}
	}
	wantList(t, b, "", "a/real")
	if got, err := os.ReadFile(secret); string(got) != "secret" {
		t.Errorf("the link's target is %q, %v", got, err)
	}
	must(t, os.Mkdir(filepath.Join(dir, "folder"), 0o700))
	if err := backend.PutBytes(t.Context(), b, "folder", nil); err == nil || errors.Is(err, backend.ErrExists) {
		t.Errorf("put over a folder: %v", err)
	}
	if err := backend.PutBytes(t.Context(), b, "a/real/b", nil); err == nil || errors.Is(err, backend.ErrExists) {
		t.Errorf("put below an object: %v", err)
	}
}

// TestLinkedFolder keeps the packs on another disk, which then goes away.
func TestLinkedFolder(t *testing.T) {
	b, dir := create(t)
	disk := filepath.Join(t.TempDir(), "disk")
	must(t, os.Mkdir(disk, 0o700))
	must(t, os.Symlink(disk, filepath.Join(dir, "packs")))
	put(t, b, "packs/aa/1", "x")
	put(t, b, "config", "x")
	wantList(t, b, "", "config", "packs/aa/1")
	wantList(t, b, "packs/a", "packs/aa/1")
	must(t, os.Rename(disk, disk+"-away"))
	wantUnusable(t, "disk away", b)
	if _, err := list(t, b, ""); err == nil {
		t.Error("list of all: no error")
	}
	if _, err := b.Get(t.Context(), "config", 0, -1); err != nil {
		t.Errorf("what is not on the disk: %v", err)
	}
}

// TestNotAFolder puts a file where a folder should be: a listing of it is an
// error, not nothing.
func TestNotAFolder(t *testing.T) {
	b, dir := create(t)
	must(t, os.WriteFile(filepath.Join(dir, "packs"), nil, 0o600))
	if names, err := list(t, b, "packs/"); err == nil {
		t.Errorf("list: %q without an error", names)
	}
}

// TestReadOnly reads a vault of whose folders none can be written, and one
// that can't be read.
func TestReadOnly(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may write and read everything")
	}
	b, dir := create(t)
	put(t, b, "a/1", "x")
	must(t, os.Chmod(filepath.Join(dir, "a"), 0o500))
	must(t, os.Chmod(dir, 0o500))
	ro := open(t, dir, Open)
	wantList(t, ro, "", "a/1")
	if _, err := backend.ReadAll(t.Context(), ro, "a/1", 10); err != nil {
		t.Error(err)
	}
	if err := backend.PutBytes(t.Context(), ro, "a/2", nil); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("put: %v", err)
	}
	must(t, os.Chmod(dir, 0o700))
	must(t, os.Chmod(filepath.Join(dir, "a"), 0))
	defer os.Chmod(filepath.Join(dir, "a"), 0o700)
	if names, err := list(t, ro, "a/"); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("list of an unreadable folder: %q, %v", names, err)
	}
}

// TestNotDurable: where a folder cannot be synced, Put says so, also when the name
// is found there the next time; a file that cannot be synced is no object at all.
func TestNotDurable(t *testing.T) {
	b, _ := create(t)
	put(t, b, "packs/aa/0", "x")
	fail := func(folder bool) (restore func()) {
		return disk.SetHook(func(c disk.Call) error {
			if info, err := os.Stat(c.Path); c.Op == disk.OpSync && err == nil && info.IsDir() == folder {
				return syscall.EIO
			}
			return nil
		})
	}
	for _, c := range []struct {
		name   string
		folder bool
		want   error
		not    error
	}{
		{"packs/aa/1", false, syscall.EIO, backend.ErrNotDurable},
		{"packs/aa/1", true, backend.ErrNotDurable, backend.ErrExists},
		{"packs/aa/1", true, backend.ErrNotDurable, backend.ErrExists}, // it is there now
		{"packs/bb/1", true, backend.ErrNotDurable, backend.ErrExists}, // its folder is new
		{"packs/aa/1", false, backend.ErrExists, backend.ErrNotDurable},
	} {
		restore := fail(c.folder)
		err := backend.PutBytes(t.Context(), b, c.name, []byte("y"))
		restore()
		if !errors.Is(err, c.want) || errors.Is(err, c.not) {
			t.Errorf("%s, folders fail %v: %v", c.name, c.folder, err)
		}
	}
}
