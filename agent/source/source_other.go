//go:build !linux

package source

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/tharsis-backup/tharsis/vault/manifest"
)

func unsupported() error {
	return fmt.Errorf("backing up is not supported on %s yet: %w", runtime.GOOS, errors.ErrUnsupported)
}

// Tree is the walk of one source. It can't be opened on this system.
type Tree struct{}

// Open returns an error that wraps errors.ErrUnsupported.
func Open(root string, o Options) (*Tree, error) { return nil, unsupported() }

// Next returns an error that wraps errors.ErrUnsupported.
func (t *Tree) Next(ctx context.Context) (*Item, error) { return nil, unsupported() }

// FSID returns "".
func (t *Tree) FSID() string { return "" }

// Root returns "".
func (t *Tree) Root() string { return "" }

// Path returns "".
func (t *Tree) Path(key []byte) string { return "" }

// Close does nothing.
func (t *Tree) Close() error { return nil }

// Dir is a folder of a Tree.
type Dir struct{}

// Open returns an error that wraps errors.ErrUnsupported.
func (d *Dir) Open(name string) (*File, error) { return nil, unsupported() }

// Xattrs returns an error that wraps errors.ErrUnsupported.
func (d *Dir) Xattrs(name string, kind manifest.Kind) ([]manifest.Xattr, error) {
	return nil, unsupported()
}

// File is an open regular file.
type File struct{}

// Opened returns an empty entry.
func (f *File) Opened() manifest.Entry { return manifest.Entry{} }

// Stat returns an error that wraps errors.ErrUnsupported.
func (f *File) Stat() (manifest.Entry, error) { return manifest.Entry{}, unsupported() }

// Read returns an error that wraps errors.ErrUnsupported.
func (f *File) Read(p []byte) (int, error) { return 0, unsupported() }

// ReadAt returns an error that wraps errors.ErrUnsupported.
func (f *File) ReadAt(p []byte, off int64) (int, error) { return 0, unsupported() }

// NextData returns an error that wraps errors.ErrUnsupported.
func (f *File) NextData(off int64) (start, end int64, err error) { return 0, 0, unsupported() }

// Xattrs returns an error that wraps errors.ErrUnsupported.
func (f *File) Xattrs() ([]manifest.Xattr, error) { return nil, unsupported() }

// Close does nothing.
func (f *File) Close() error { return nil }
