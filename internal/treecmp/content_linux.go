package treecmp

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// compareContent compares two files of the given size and returns the start of
// the first block that differs, or -1.
func (c *comparer) compareContent(a, b place, size int64) (at int64, err error) {
	// O_NONBLOCK: should the entry have become a FIFO, open must not wait.
	const flags = unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC
	fa, err := openat(a, flags)
	if err != nil {
		return 0, fmt.Errorf("open in a: %w", err)
	}
	defer unix.Close(fa)
	fb, err := openat(b, flags)
	if err != nil {
		return 0, fmt.Errorf("open in b: %w", err)
	}
	defer unix.Close(fb)
	for off := int64(0); off < size; {
		if size > contentBuf {
			if off = min(nextData(fa, off, size), nextData(fb, off, size)); off >= size {
				break
			}
		}
		n := min(size-off, contentBuf)
		if err := readFull(fa, c.bufA[:n], off); err != nil {
			return 0, fmt.Errorf("read in a: %w", err)
		}
		if err := readFull(fb, c.bufB[:n], off); err != nil {
			return 0, fmt.Errorf("read in b: %w", err)
		}
		if !bytes.Equal(c.bufA[:n], c.bufB[:n]) {
			return off, nil
		}
		off += n
	}
	return -1, nil
}

// nextData is where data begins at or after off: size where only a hole
// follows, and off where the file system can't tell.
func nextData(fd int, off, size int64) int64 {
	at, err := unix.Seek(fd, off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return size
	case err != nil || at < off:
		return off
	}
	return at
}

var errShorter = errors.New("file became shorter")

// readFull fills p from offset off.
func readFull(fd int, p []byte, off int64) error {
	for len(p) > 0 {
		n, err := ignoringEINTR(func() (int, error) { return unix.Pread(fd, p, off) })
		if err != nil {
			return err
		}
		if n <= 0 {
			return errShorter
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}
