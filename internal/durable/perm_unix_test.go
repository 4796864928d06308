//go:build unix

package durable

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestUmask asks for permissions under umasks that take some or all of them.
// The umask belongs to the process, so no test here may run in parallel.
func TestUmask(t *testing.T) {
	for _, mask := range []int{0, 0o022, 0o077, 0o177, 0o277, 0o777} {
		root := t.TempDir()
		dir := filepath.Join(root, "a", "b")
		former := syscall.Umask(mask)
		err := makeAll(dir)
		syscall.Umask(former)
		if err != nil {
			t.Fatalf("umask %03o: %v", mask, err)
		}
		for _, name := range []string{"w", "c"} {
			checkMode(t, mask, filepath.Join(dir, name), 0o600)
		}
		checkMode(t, mask, filepath.Join(dir, "wide"), 0o644)
		checkMode(t, mask, dir, 0o700|fs.ModeDir)
		checkMode(t, mask, filepath.Dir(dir), 0o700|fs.ModeDir)
	}
}

func makeAll(dir string) error {
	if err := MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := WriteFile(filepath.Join(dir, "w"), []byte("x"), 0o600); err != nil {
		return err
	}
	if err := WriteFile(filepath.Join(dir, "wide"), []byte("x"), 0o644); err != nil {
		return err
	}
	return CreateFile(filepath.Join(dir, "c"), strings.NewReader("x"), 1, 0o600)
}

func checkMode(t *testing.T, mask int, path string, want fs.FileMode) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != want {
		t.Errorf("umask %03o: %s is %v, want %v", mask, path, info.Mode(), want)
	}
}
