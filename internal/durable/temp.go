package durable

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/tharsis-backup/tharsis/internal/disk"
	"github.com/tharsis-backup/tharsis/internal/stage"
)

// Temporary files are named put-<16 hex digits>.tmp. The random 64 bits, with
// O_EXCL, make a name that no other writer ever gets, so that removing a
// leftover by its name can never hit a file of someone else.
const (
	tempPrefix = "put-"
	tempSuffix = ".tmp"
	tempDigits = 16
)

// copyBytes is the size of the buffer that CopyFrom writes with: large enough
// that a system call costs little, small enough to stay in the CPU's cache.
const copyBytes = 256 << 10

var copyBuffers = sync.Pool{New: func() any { return new([copyBytes]byte) }}

// Temp is a file being written that has no name of its own yet. It ends with
// Publish, Replace or Abort. It is not safe for concurrent use.
//
// Cleaning up goes through the hook like all else: a test that makes each step
// fail from some point on leaves the disk as a death at that point would.
type Temp struct {
	f     *disk.File // nil once closed
	path  string
	wrote bool // whether the step of the first write was reported
}

// CreateTemp makes a temporary file in dir, which must be in the file system
// where the file shall get its name.
func CreateTemp(dir string, perm fs.FileMode) (*Temp, error) {
	var random [tempDigits / 2]byte
	rand.Read(random[:])
	t := &Temp{path: filepath.Join(dir, tempPrefix+hex.EncodeToString(random[:])+tempSuffix)}
	err := step(OpCreate, t.path, func() (err error) {
		t.f, err = disk.Open(t.path, os.O_RDWR|os.O_CREATE|os.O_EXCL, perm.Perm())
		if err != nil {
			return err
		}
		return restoreFilePerm(t.f, perm)
	})
	if err != nil {
		if t.f != nil {
			t.Abort()
		}
		return nil, err
	}
	return t, nil
}

// Write appends p. After an error only Abort is of use.
func (t *Temp) Write(p []byte) (n int, err error) {
	if t.wrote {
		return t.f.Write(p)
	}
	// Only the first write is a step of its own: before it the file is empty,
	// after it in part written, and further ones add no other state.
	t.wrote = true
	err = step(OpWrite, t.path, func() (err error) {
		n, err = t.f.Write(p)
		return err
	})
	return n, err
}

// copyChecker is a body that can tell its bytes by itself: it returns
// stage.ErrSpoilt where r has others.
type copyChecker interface{ CheckCopy(r io.ReaderAt) error }

// CopyFrom makes the first size bytes of body the content of the file, which must be
// empty, with buffers of fixed size. A body that ends before is an
// io.ErrUnexpectedEOF. The file is read back and compared with body, so that what a
// buffer or the file system changed is a stage.ErrSpoilt.
func (t *Temp) CopyFrom(body io.ReaderAt, size int64) error {
	buf := copyBuffers.Get().(*[copyBytes]byte)
	defer copyBuffers.Put(buf)
	err := eachPart(size, buf[:], func(p []byte, off int64) error {
		if err := readPart(body, p, off); err != nil {
			return err
		}
		stage.Pass(stage.Body, p)
		_, err := t.Write(p)
		return err
	})
	if err != nil {
		return err
	}
	if err := t.compare(body, size, buf[:]); err != nil {
		return fmt.Errorf("read back %s: %w", t.path, err)
	}
	return nil
}

func (t *Temp) compare(body io.ReaderAt, size int64, buf []byte) error {
	if c, ok := body.(copyChecker); ok {
		return c.CheckCopy(io.NewSectionReader(t.f, 0, size))
	}
	other := copyBuffers.Get().(*[copyBytes]byte)
	defer copyBuffers.Put(other)
	return eachPart(size, buf, func(p []byte, off int64) error {
		if err := readPart(body, p, off); err != nil {
			return err
		}
		if err := readPart(t.f, other[:len(p)], off); err != nil {
			return err
		}
		if !bytes.Equal(p, other[:len(p)]) {
			return stage.ErrSpoilt
		}
		return nil
	})
}

// eachPart calls do for each part of size bytes that fits into buf.
func eachPart(size int64, buf []byte, do func(p []byte, off int64) error) error {
	for off := int64(0); off < size; {
		p := buf[:min(size-off, int64(len(buf)))]
		if err := do(p, off); err != nil {
			return err
		}
		off += int64(len(p))
	}
	return nil
}

// readPart fills p from body.
func readPart(body io.ReaderAt, p []byte, off int64) error {
	if n, err := body.ReadAt(p, off); n < len(p) {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read %d bytes of content at %d: %w", len(p), off, err)
	}
	return nil
}

// Publish syncs the file and gives it the name path, which must be free: else
// it returns fs.ErrExist, with the one who has the name made durable, so that a
// caller may build on that. t is at its end, whatever is returned.
func (t *Temp) Publish(path string) error {
	if err := t.finish(); err != nil {
		return err
	}
	dir := filepath.Dir(path)
	switch err := publish(t.path, path); {
	case errors.Is(err, fs.ErrExist):
		t.Abort()
		if err := SyncDir(dir); err != nil {
			return err
		}
		return &fs.PathError{Op: "create", Path: path, Err: fs.ErrExist}
	case err != nil:
		t.Abort()
		return err
	}
	return SyncDir(dir)
}

// Replace syncs the file and gives it the name path, in place of a file that
// had it. t is at its end, whatever is returned.
func (t *Temp) Replace(path string) error {
	if err := t.finish(); err != nil {
		return err
	}
	err := step(OpReplace, path, func() error { return rename(t.path, path) })
	if err != nil {
		t.Abort()
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// Abort removes the file. Where that fails, Sweep will find it.
func (t *Temp) Abort() {
	if t.f != nil {
		t.f.Close() // its content is of no use, so neither is the error
		t.f = nil
	}
	_ = step(OpRemove, t.path, func() error { return disk.Remove(t.path) })
}

// finish syncs and closes the file, or removes it.
func (t *Temp) finish() error {
	err := SyncFile(t.f)
	if cerr := t.f.Close(); err == nil {
		err = cerr
	}
	t.f = nil
	if err != nil {
		t.Abort()
	}
	return err
}

// exclusiveRename is a variable so that tests can play a file system without it.
var exclusiveRename = renameNoReplace

// publish gives the file temp the free name path, and takes the name temp away.
func publish(temp, path string) error {
	linked := false
	err := step(OpPublish, path, func() error {
		if err := disk.Check(disk.OpRename, path); err != nil {
			return err
		}
		err := exclusiveRename(temp, path)
		if errors.Is(err, errors.ErrUnsupported) {
			linked = true
			err = link(temp, path)
		}
		return err
	})
	if err == nil && linked {
		err = step(OpRemove, temp, func() error { return disk.Remove(temp) })
	}
	return err
}

// link is link(2), but a name that is already this very file is a success: a
// network file system may repeat a request whose answer was lost, and then
// says of its own deed that the name exists.
func link(temp, path string) error {
	err := disk.Link(temp, path)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	ours, err1 := os.Lstat(temp)
	there, err2 := os.Lstat(path)
	if err1 == nil && err2 == nil && os.SameFile(ours, there) {
		return nil
	}
	return err
}

// restoreFilePerm is restorePerm for an open file.
func restoreFilePerm(f *disk.File, perm fs.FileMode) error {
	info, err := f.Stat()
	if err != nil || info.Mode().Perm()&perm.Perm() == perm.Perm() {
		return err
	}
	return f.Chmod(perm.Perm())
}

// IsTemp tells whether name, without a folder, is one of a temporary file.
func IsTemp(name string) bool {
	digits, ok := strings.CutPrefix(name, tempPrefix)
	if !ok {
		return false
	}
	digits, ok = strings.CutSuffix(digits, tempSuffix)
	return ok && len(digits) == tempDigits && strings.Trim(digits, "0123456789abcdef") == ""
}

// Sweep removes the temporary files in dir that nobody has written to for age,
// and tells how many. A missing dir has none. It is not durable: what comes
// back after a crash is swept the next time.
//
// It is safe beside live writers. A temporary name is random and never used
// again, so only a temporary file can be hit; where it has its final name
// already (between link and unlink) that name stays. A writer that was slower
// than age finds its file gone and gets an error from Publish or Replace,
// never a wrong file.
func Sweep(dir string, age time.Duration) (removed int, err error) {
	d, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	names, err := d.Readdirnames(-1)
	d.Close()
	limit := time.Now().Add(-age)
	for _, name := range names {
		path := filepath.Join(dir, name)
		info, serr := os.Lstat(path)
		if !IsTemp(name) || serr != nil || !info.Mode().IsRegular() || info.ModTime().After(limit) {
			continue
		}
		if rerr := disk.Remove(path); rerr == nil {
			removed++
		} else if !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	return removed, err
}
