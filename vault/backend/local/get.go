package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"

	"github.com/tharsis-backup/tharsis/vault/backend"
)

var errNotRegular = errors.New("not a regular file")

// Get reads a range of an object; see backend.Backend.
func (b *Backend) Get(ctx context.Context, name string, off, length int64) (io.ReadCloser, error) {
	f, err := b.open(ctx, name, off)
	if err != nil {
		return nil, fmt.Errorf("get object %s: %w", name, err)
	}
	if length < 0 || length > math.MaxInt64-off {
		length = math.MaxInt64 - off
	}
	return &reader{ctx: ctx, f: f, off: off, end: off + length}, nil
}

func (b *Backend) open(ctx context.Context, name string, off int64) (*os.File, error) {
	file, err := b.checkPath(name)
	if err != nil {
		return nil, err
	}
	if off < 0 {
		return nil, fmt.Errorf("offset %d", off)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, err := openObject(file)
	if err != nil {
		return nil, b.notFound(name, err)
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case info.IsDir():
		err = backend.ErrNotFound
	case !info.Mode().IsRegular():
		err = &fs.PathError{Op: "open", Path: file, Err: errNotRegular}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// reader reads a file from off to end, until its context ends.
type reader struct {
	ctx      context.Context
	f        *os.File
	off, end int64
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	if r.off >= r.end {
		return 0, io.EOF
	}
	n, err := r.f.ReadAt(p[:min(int64(len(p)), r.end-r.off)], r.off)
	r.off += int64(n)
	if n > 0 && err == io.EOF {
		err = nil // the next Read says it
	}
	return n, err
}

func (r *reader) Close() error { return r.f.Close() }
