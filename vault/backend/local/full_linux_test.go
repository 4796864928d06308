package local

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/tharsis-backup/tharsis/vault/backend"
)

// TestFull fills a small disk: the error says so, nothing is left behind, and
// what fits can still be stored.
func TestFull(t *testing.T) {
	mount := t.TempDir()
	if err := syscall.Mount("none", mount, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("can't mount a small disk: ", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(mount, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	dir := filepath.Join(mount, "vault")
	b := open(t, dir, Create)
	put(t, b, "packs/aa/0", "fits")
	for range 3 {
		err := backend.PutBytes(t.Context(), b, "packs/aa/1", make([]byte, 4<<20))
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("put: %v", err)
		}
		if entries, err := os.ReadDir(filepath.Join(dir, "tmp")); err != nil || len(entries) != 0 {
			t.Fatalf("left over: %v, %v", entries, err)
		}
	}
	put(t, b, "packs/aa/1", string(make([]byte, 512<<10)))
	wantList(t, b, "", "packs/aa/0", "packs/aa/1")
}

// TestUnmounted takes the disk away: its mount point is not an empty vault.
func TestUnmounted(t *testing.T) {
	mount := t.TempDir()
	if err := syscall.Mount("none", mount, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("can't mount a small disk: ", err)
	}
	b := open(t, mount, Open)
	put(t, b, "packs/aa/1", "x")
	if err := syscall.Unmount(mount, syscall.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	wantUnusable(t, "unmounted", b)
	if names, err := list(t, b, ""); err == nil {
		t.Errorf("list of all: %q without an error", names)
	}
	if entries, err := os.ReadDir(mount); err != nil || len(entries) != 0 {
		t.Errorf("written into the mount point: %v, %v", entries, err)
	}
}
