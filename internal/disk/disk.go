// Package disk makes the calls by which the agent changes local files: those
// of its home and its cache, of a local vault, and of the target of a restore.
// It adds nothing to them but a seam: [SetHook] lets a test make any one of
// them fail, and see what becomes of the job. Without a hook a call costs one
// atomic load more than that of package os.
//
// A [File] has the methods that the agent needs, and no others: a method that
// went around the hook would be a failure that no test ever tries.
//
// Errors are those of package os. The functions may be called concurrently, a
// File as an os.File may. What must survive a power cut is for package durable,
// which is built on this one.
package disk

import (
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
)

// File is an open file. A nil *File is not usable.
type File struct {
	f       *os.File
	changes bool // opened to be changed: closing it may fail
}

// Open opens a file as os.OpenFile does. Making, opening to change and emptying
// one is a call that may fail; opening to read isn't.
func Open(path string, flag int, perm fs.FileMode) (*File, error) {
	changes := flag&(os.O_CREATE|os.O_WRONLY|os.O_RDWR|os.O_TRUNC) != 0
	if changes {
		if err := Check(OpCreate, path); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(path, flag, perm)
	if err != nil {
		return nil, err
	}
	return &File{f, changes}, nil
}

// tempTries bounds the search for a free name, of 2^64.
const tempTries = 10

// CreateTemp makes a file with a fresh name, which begins and ends as given, for
// its owner only.
func CreateTemp(dir, prefix, suffix string) (*File, error) {
	for try := 1; ; try++ {
		path := filepath.Join(dir, prefix+strconv.FormatUint(rand.Uint64(), 36)+suffix)
		f, err := Open(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil || !os.IsExist(err) || try == tempTries {
			return f, err
		}
	}
}

// Name is the path that the file was opened by.
func (f *File) Name() string { return f.f.Name() }

// Stat describes the file.
func (f *File) Stat() (fs.FileInfo, error) { return f.f.Stat() }

// Read reads on from where the last Read or Write ended.
func (f *File) Read(p []byte) (int, error) { return f.f.Read(p) }

// ReadAt reads from an offset.
func (f *File) ReadAt(p []byte, off int64) (int, error) { return f.f.ReadAt(p, off) }

// Seek sets where the next Read or Write begins.
func (f *File) Seek(off int64, whence int) (int64, error) { return f.f.Seek(off, whence) }

// Write writes on from where the last Read or Write ended.
func (f *File) Write(p []byte) (n int, err error) {
	return f.write(p, func(p []byte) (int, error) { return f.f.Write(p) })
}

// WriteAt writes at an offset.
func (f *File) WriteAt(p []byte, off int64) (n int, err error) {
	return f.write(p, func(p []byte) (int, error) { return f.f.WriteAt(p, off) })
}

// write fails as a disk that fills does: after half of the bytes.
func (f *File) write(p []byte, write func([]byte) (int, error)) (n int, err error) {
	if err := check(OpWrite, f.f.Name(), f.f); err != nil {
		n, _ = write(p[:len(p)/2])
		return n, err
	}
	return write(p)
}

// Truncate sets the file's length.
func (f *File) Truncate(size int64) error {
	if err := check(OpTruncate, f.f.Name(), f.f); err != nil {
		return err
	}
	return f.f.Truncate(size)
}

// Chmod sets the file's permissions.
func (f *File) Chmod(mode fs.FileMode) error {
	if err := check(OpMeta, f.f.Name(), f.f); err != nil {
		return err
	}
	return f.f.Chmod(mode)
}

// Sync waits until the file is on the disk.
func (f *File) Sync() error {
	if err := check(OpSync, f.f.Name(), f.f); err != nil {
		return err
	}
	return f.f.Sync()
}

// Close closes the file, whatever it returns: an error may be the only word of
// what was written before and is lost. To close what was read is no change.
func (f *File) Close() error {
	var err error
	if f.changes {
		err = check(OpClose, f.f.Name(), f.f)
	}
	if cerr := f.f.Close(); err == nil {
		err = cerr
	}
	return err
}

// WriteFile makes data the content of the file at path, in place. A reader may
// meet a part of it, also for good.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	f, err := Open(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
