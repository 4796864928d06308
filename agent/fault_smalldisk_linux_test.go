package agent

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// faultFileSystems are those that the tests of full disks run on: one whose pages
// are memory and which is full at once, and one that puts off where blocks go, and has
// names, sizes and a journal to find room for.
var faultFileSystems = []struct {
	name  string
	mount func(t *testing.T, dir string, bytes int)
	share int // of the levels that a plain run takes, one in so many
}{
	{"tmpfs", smallDisk, 1},
	{"ext4", smallExt4, 3},
}

// smallDisk mounts a file system of this size in memory at dir.
func smallDisk(t *testing.T, dir string, bytes int) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", bytes)); err != nil {
		noDisk(t, err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
}

// smallExt4 mounts an ext4 of this size, in a file, at dir.
func smallExt4(t *testing.T, dir string, bytes int) {
	t.Helper()
	image := dir + ".img"
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(image, nil, 0o600), os.Truncate(image, int64(bytes))); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("/sbin/mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", image).CombinedOutput()
	if err == nil {
		out, err = exec.Command("mount", "-o", "loop", image, dir).CombinedOutput()
	}
	if err != nil {
		noDisk(t, fmt.Errorf("%w: %s", err, out))
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	if err := errors.Join(os.Chmod(dir, 0o700), os.Remove(filepath.Join(dir, "lost+found"))); err != nil {
		t.Fatal(err)
	}
}

// noDisk ends a test that cannot have its disk: for root in CI that is a failure.
func noDisk(t *testing.T, err error) {
	t.Helper()
	if os.Getenv("THARSIS_CI") != "" && os.Geteuid() == 0 {
		t.Fatalf("mount a small file system: %v", err)
	}
	t.Skipf("cannot mount a small file system: %v", err)
}

// fill takes all room of a disk but for so much, or some blocks less where the file
// system needs them to write down what is taken.
func fill(t *testing.T, dir string, leave int) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil { // so that all that was put off has its place
		t.Fatal(err)
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	n := int64(st.Bavail)*st.Bsize - int64(leave)
	if n < 0 {
		t.Fatalf("%s has less than %d bytes left", dir, leave)
	}
	for ; n > 0; n -= st.Bsize {
		if err := unix.Fallocate(int(f.Fd()), 0, 0, n); err == nil {
			return
		} else if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
	}
}

func empty(t *testing.T, dir string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, "filler")); err != nil {
		t.Fatal(err)
	}
}
