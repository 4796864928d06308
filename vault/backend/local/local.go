// Package local is the backend of a folder on a local or mounted disk.
//
// An object is a file whose path below the folder is the object's name. Objects
// are written in the folder tmp, under names that no object can have, and moved
// from there once they are on the disk:
//
//	config  keys/...  packs/3f/3fa2...  log/...     objects, 0600 in folders of 0700
//	tmp/put-<16 hex digits>.tmp                     objects being written
//
// Files and folders that are not named like objects are ignored. A folder below
// may be a symbolic link, to lie on another disk; an object may not.
//
// # Errors
//
// A missing object is a backend.ErrNotFound only where its folder was really
// looked into: with a disk that was unmounted, a vault folder that was replaced,
// or a link that leads nowhere, each method returns another error, so that
// trouble never looks like an empty vault. A full disk is a syscall.ENOSPC, and
// leaves nothing behind.
//
// # Concurrency
//
// A Backend is safe for concurrent use, as is the folder by several processes
// and, where the network file system has an exclusive rename or link, by
// several machines. There are no locks that a dead process could hold.
//
// # What it does not do
//
// It trusts the folder's operator no more than any backend does, yet it isn't
// meant for a folder that a stranger can write to while it runs: symbolic links
// of folders are followed. On Windows an object named like a device (con, nul)
// can't be stored, and permissions are those that the folder hands down.
package local

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/tharsis-backup/tharsis/internal/durable"
	"github.com/tharsis-backup/tharsis/vault/backend"
)

const (
	filePerm = 0o600
	dirPerm  = 0o700

	// tempDir is where objects are written.
	tempDir = "tmp"
	// tempAge is after how long without a write a temporary file is taken for
	// a dead writer's: far longer than a live one stands still within a Put.
	// durable.Sweep says why a wrong guess does no harm.
	tempAge = 24 * time.Hour
)

// Options adjust a Backend. The zero value works.
type Options struct {
	Log *slog.Logger // hears of ignored and swept files, at debug; nil: nobody
}

// Backend is a vault's folder. Make one with Open or Create.
type Backend struct {
	dir string
	log *slog.Logger

	// root is kept open to tell whether dir is still the folder it was: the
	// handle keeps the folder's inode number from being given to another.
	root *os.File

	mu   sync.Mutex
	sure map[string]bool // folders, as in ensureDir
}

// Open opens the folder dir. A missing one, or something else of that name, is
// a backend.ErrNotFound. Leftovers of dead writers are removed where that is
// allowed; else nothing is written, so a folder that is read-only can be read.
func Open(dir string, o Options) (*Backend, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open vault folder %s: %w", dir, err)
	}
	root, err := openDir(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, fmt.Errorf("open vault folder: %w (%w)", backend.ErrNotFound, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open vault folder: %w", err)
	}
	b := &Backend{dir: dir, log: o.Log, root: root, sure: map[string]bool{}}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	if n, err := durable.Sweep(b.path(tempDir), tempAge); n > 0 || err != nil {
		b.log.Debug("swept unfinished objects", "folder", dir, "removed", n, "error", err)
	}
	return b, nil
}

// Create makes the folder dir, with those above it that are missing, and opens
// it. One that is there already, such as a mounted disk, is taken as it is.
func Create(dir string, o Options) (*Backend, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("create vault folder %s: %w", dir, err)
	}
	if err := durable.MkdirAll(dir, dirPerm); err != nil {
		return nil, fmt.Errorf("create vault folder: %w", err)
	}
	return Open(dir, o)
}

// openDir opens a folder, and nothing else.
func openDir(path string) (*os.File, error) {
	info, err := os.Stat(path) // before the open, which on a FIFO would wait
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, &fs.PathError{Op: "open", Path: path, Err: syscall.ENOTDIR}
	}
	return os.Open(path)
}

// Close frees the folder's handle.
func (b *Backend) Close() error { return b.root.Close() }

// path is where the object or folder name lies.
func (b *Backend) path(name string) string {
	return filepath.Join(b.dir, filepath.FromSlash(name))
}

// checkPath is path for an object of a name that is right on every system,
// this one included.
func (b *Backend) checkPath(name string) (string, error) {
	if err := backend.CheckName(name); err != nil {
		return "", err
	}
	if !filepath.IsLocal(filepath.FromSlash(name)) {
		return "", fmt.Errorf("object name %q: reserved by this system", name)
	}
	return b.path(name), nil
}

// checkRoot tells whether the path of the vault still leads to the folder that
// was opened. Its errors are no fs.ErrNotExist, since the objects may well exist.
func (b *Backend) checkRoot() error {
	was, err := b.root.Stat()
	if err != nil {
		return fmt.Errorf("vault folder %s: %w", b.dir, err)
	}
	is, err := os.Stat(b.dir)
	if err != nil {
		return fmt.Errorf("vault folder %s is gone: %v", b.dir, err)
	}
	if !os.SameFile(was, is) {
		return fmt.Errorf("vault folder %s was replaced or unmounted", b.dir)
	}
	return nil
}

// missing confirms that there is nothing at name, after a system call said so:
// it returns nil if the vault's folder is still there and the first component
// of name that is missing is so in a folder that can be looked into.
func (b *Backend) missing(name string) error {
	if err := b.checkRoot(); err != nil {
		return err
	}
	for i := range len(name) + 1 {
		if i < len(name) && name[i] != '/' {
			continue
		}
		path := b.path(name[:i])
		switch info, err := os.Lstat(path); {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
			return nil // the latter below an object
		case err != nil:
			return err
		case info.Mode()&fs.ModeSymlink == 0:
			continue
		}
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("symbolic link %s leads nowhere: %v", path, err)
		}
	}
	return nil // it came into being since
}
