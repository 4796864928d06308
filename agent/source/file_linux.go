package source

import (
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// File is an open regular file. Its methods may be called by several
// goroutines, except Read and Close. It doesn't depend on its Tree or Dir.
type File struct {
	fd   int
	off  int64 // of Read
	st   unix.Stat_t
	fs   *fileSystem
	tree *Tree
	path string // for a hook
}

// Opened returns the metadata that the file had when it was opened, as an Item
// has it, at no cost.
func (f *File) Opened() manifest.Entry {
	var e manifest.Entry
	m := metaOf(&f.st, f.fs)
	f.tree.fillMeta(&e, &m)
	return e
}

// Stat returns the metadata that the file has now.
func (f *File) Stat() (manifest.Entry, error) {
	var st unix.Stat_t
	var e manifest.Entry
	if err := unix.Fstat(f.fd, &st); err != nil {
		return e, fmt.Errorf("stat: %w", err)
	}
	m := metaOf(&st, f.fs)
	f.tree.fillMeta(&e, &m)
	f.step(OpChecked)
	return e, nil
}

// Read reads on from where the last Read ended. It is independent of ReadAt and
// NextData.
func (f *File) Read(p []byte) (int, error) {
	n, err := f.pread(p, f.off)
	f.off += int64(n)
	if n == 0 && err == nil && len(p) > 0 {
		err = io.EOF
	}
	return n, err
}

// ReadAt fills p from offset off, or returns how much there was and io.EOF.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := f.pread(p[done:], off+int64(done))
		done += n
		if err != nil {
			return done, err
		}
		if n == 0 {
			return done, io.EOF
		}
	}
	return done, nil
}

func (f *File) pread(p []byte, off int64) (int, error) {
	if f.hooked() {
		p = p[:(len(p)+1)/2]
		defer f.step(OpRead)
	}
	for {
		n, err := unix.Pread(f.fd, p, off)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("read: %w", err)
		}
		return n, nil
	}
}

// NextData returns the first run of data at or after off as the range [start,
// end). Where nothing but a hole follows it returns the size twice and io.EOF.
// Ends and size are those that the file has now, which may be others than when it
// was opened. Where the file system can't tell holes, all is data.
func (f *File) NextData(off int64) (start, end int64, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return 0, 0, fmt.Errorf("stat: %w", err)
	}
	if off >= st.Size {
		return st.Size, st.Size, io.EOF
	}
	// A file that fills its blocks has no holes: no need to ask.
	if st.Blocks*512 >= st.Size {
		return off, st.Size, nil
	}
	start, err = unix.Seek(f.fd, off, unix.SEEK_DATA)
	switch err {
	case nil:
	case unix.ENXIO:
		return st.Size, st.Size, io.EOF
	case unix.EINVAL, unix.EOPNOTSUPP:
		return off, st.Size, nil
	default:
		return 0, 0, fmt.Errorf("seek data: %w", err)
	}
	end, err = unix.Seek(f.fd, start, unix.SEEK_HOLE)
	if err == unix.ENXIO { // it shrank
		return start, start, io.EOF
	}
	if err != nil {
		return 0, 0, fmt.Errorf("seek hole: %w", err)
	}
	return start, end, nil
}

// Xattrs returns the extended attributes by name. Where some can't be read, it
// returns the others with an error that names the first.
func (f *File) Xattrs() ([]manifest.Xattr, error) {
	f.step(OpAttrs)
	return readXattrs(fdXattrs(f.fd))
}

// Close releases the descriptor.
func (f *File) Close() error {
	if err := unix.Close(f.fd); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	f.step(OpClosed)
	return nil
}
