//go:build unix

package durable

import (
	"errors"
	"os"
	"syscall"

	"github.com/tharsis-backup/tharsis/internal/disk"
)

// syncDir syncs a folder. FUSE, CIFS and others without such a thing answer
// EINVAL or ENOTSUP.
func syncDir(path string) error {
	d, err := disk.Open(path, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer d.Close()
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	return err
}

func rename(from, to string) error { return disk.Rename(from, to) }
