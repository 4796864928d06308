package local

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/tharsis-backup/tharsis/internal/disk"
	"github.com/tharsis-backup/tharsis/internal/durable"
)

const (
	// reserveFile takes room on the disk that only a prune gives free, so that one
	// can say in the log what it deletes though there is not a byte left. Its name
	// is none that an object can have.
	reserveFile = "reserve.tmp"
	// reserveBytes is room for the entries of a prune, and for a bundle of the log;
	// minReserve for a few entries, where there is not more.
	reserveBytes = 1 << 20
	minReserve   = 64 << 10
)

// Release gives the reserve free. Without one it does nothing.
func (b *Backend) Release() error {
	err := disk.Remove(b.path(reserveFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("release the vault's reserve: %w", err)
	}
	return nil
}

// Restock makes the reserve where there is none, smaller where the disk is all but
// full. A crash may leave it short, and the next call lets it be.
func (b *Backend) Restock() error {
	if _, err := os.Lstat(b.path(reserveFile)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var err error
	for n := reserveBytes; n >= minReserve; n /= 2 {
		filler := make([]byte, n)
		rand.Read(filler) // a file system must not store it as less
		if err = durable.WriteFile(b.path(reserveFile), filler, filePerm); err == nil {
			return nil
		}
	}
	return fmt.Errorf("make the vault's reserve: %w", err)
}
