package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"

	"github.com/tharsis-backup/tharsis/internal/durable"
	"github.com/tharsis-backup/tharsis/vault/backend"
)

// maxSure bounds the folders that a Backend remembers as durable: a vault has
// some 300, and a forgotten one costs one sync.
const maxSure = 4096

// Put creates an object; see backend.Backend. It syncs the file and the folder
// that gets its name; the first Put into a folder also syncs the one above.
func (b *Backend) Put(ctx context.Context, name string, body io.ReaderAt, size int64) error {
	err := b.put(ctx, name, body, size)
	switch {
	case errors.Is(err, fs.ErrExist):
		err = backend.ErrExists
	case errors.Is(err, durable.ErrNames):
		err = fmt.Errorf("%w: %w", backend.ErrNotDurable, err)
	}
	if err != nil {
		return fmt.Errorf("put object %s: %w", name, err)
	}
	return nil
}

func (b *Backend) put(ctx context.Context, name string, body io.ReaderAt, size int64) error {
	file, err := b.checkPath(name)
	if err != nil {
		return err
	}
	if size < 0 {
		return fmt.Errorf("size %d", size)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := b.checkRoot(); err != nil {
		return err
	}
	if err := checkFree(file); err != nil {
		return err
	}
	temp, err := b.createTemp()
	if err != nil {
		return err
	}
	err = temp.CopyFrom(ctxReaderAt{ctx, body}, size)
	if err == nil {
		err = b.ensureDir(path.Dir(name))
	}
	if err == nil {
		err = ctx.Err() // the last moment: from here on the object appears
	}
	if err != nil {
		temp.Abort()
		return err
	}
	return temp.Publish(file)
}

// checkFree spares a Put that can't succeed the work. It says fs.ErrExist only
// once the name is durable, as Publish does, so that the caller may build on
// the object that has it.
func checkFree(file string) error {
	info, err := os.Lstat(file)
	switch {
	case err != nil:
		return nil // free, or Publish tells
	case info.IsDir():
		return &fs.PathError{Op: "create", Path: file, Err: syscall.EISDIR}
	}
	if err := durable.SyncDir(filepath.Dir(file)); err != nil {
		return err
	}
	return fs.ErrExist
}

// createTemp makes a temporary file, and the folder for it if need be. That
// folder is made only in the vault that was opened, not where its disk was
// mounted before.
func (b *Backend) createTemp() (*durable.Temp, error) {
	dir := b.path(tempDir)
	temp, err := durable.CreateTemp(dir, filePerm)
	if !errors.Is(err, fs.ErrNotExist) {
		return temp, err
	}
	if err := b.missing(tempDir); err != nil {
		return nil, err
	}
	if err := durable.Mkdir(dir, dirPerm); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return durable.CreateTemp(dir, filePerm)
}

// ensureDir makes the folder dir of the vault, and is sure that it is durable.
// One that was there may have been made a moment ago by another process that
// has not synced it yet, or that died before: so the folder above it is synced
// once in a Backend's life all the same.
func (b *Backend) ensureDir(dir string) error {
	if dir == "." || b.isSure(dir) {
		return nil
	}
	if err := b.ensureDir(path.Dir(dir)); err != nil {
		return err
	}
	full := b.path(dir)
	err := durable.Mkdir(full, dirPerm)
	if errors.Is(err, fs.ErrExist) {
		if info, serr := os.Stat(full); serr != nil || !info.IsDir() {
			return &fs.PathError{Op: "mkdir", Path: full, Err: syscall.ENOTDIR}
		}
		err = durable.SyncDir(filepath.Dir(full))
	}
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.sure) >= maxSure {
		clear(b.sure)
	}
	b.sure[dir] = true
	return nil
}

func (b *Backend) isSure(dir string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sure[dir]
}

// ctxReaderAt ends with its context.
type ctxReaderAt struct {
	ctx  context.Context
	body io.ReaderAt
}

func (r ctxReaderAt) ReadAt(p []byte, off int64) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.body.ReadAt(p, off)
}

// Delete removes an object; see backend.Backend. It syncs the folder.
func (b *Backend) Delete(ctx context.Context, name string) error {
	err := b.remove(ctx, name)
	if err != nil {
		return fmt.Errorf("delete object %s: %w", name, err)
	}
	return nil
}

func (b *Backend) remove(ctx context.Context, name string) error {
	file, err := b.checkPath(name)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	info, err := os.Lstat(file)
	switch {
	case err != nil:
		return b.notFound(name, err)
	case info.IsDir():
		return backend.ErrNotFound
	case !info.Mode().IsRegular():
		return &fs.PathError{Op: "remove", Path: file, Err: errNotRegular}
	}
	if err := durable.Remove(file); err != nil {
		return b.notFound(name, err)
	}
	return nil
}

// notFound is the error for an object after a system call said err: a
// backend.ErrNotFound only if it is really not there.
func (b *Backend) notFound(name string, err error) error {
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
		return err
	}
	if err := b.missing(name); err != nil {
		return err
	}
	return backend.ErrNotFound
}
