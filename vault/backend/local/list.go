package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"strings"

	"github.com/tharsis-backup/tharsis/internal/durable"
	"github.com/tharsis-backup/tharsis/vault/backend"
)

// listBatch is how many entries of a folder are held at once, so that memory
// doesn't grow with the number of objects.
const listBatch = 1024

// List yields the objects below prefix, in no order; see backend.Backend.
func (b *Backend) List(ctx context.Context, prefix string) iter.Seq2[backend.Info, error] {
	return func(yield func(backend.Info, error) bool) {
		err := backend.CheckPrefix(prefix)
		if err == nil {
			l := lister{b: b, ctx: ctx, prefix: prefix, yield: yield}
			err = l.folder(prefix[:strings.LastIndexByte(prefix, '/')+1])
		}
		if err == nil {
			err = b.checkRoot() // what was listed may have been the empty mount point
		}
		if err != nil && err != errStopped {
			yield(backend.Info{}, fmt.Errorf("list objects %q: %w", prefix, err))
		}
	}
}

// errStopped ends a walk that nobody listens to any more.
var errStopped = errors.New("stopped")

// lister is one walk over the folders that can hold names with prefix.
type lister struct {
	b      *Backend
	ctx    context.Context
	prefix string
	yield  func(backend.Info, error) bool
}

// folder lists the folder dir of the vault: "" or a name that ends in a slash.
// A missing one has no objects.
func (l *lister) folder(dir string) error {
	if err := l.ctx.Err(); err != nil {
		return err
	}
	d, err := openDir(l.b.path(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return l.b.missing(strings.TrimSuffix(dir, "/"))
	}
	if err != nil {
		return err
	}
	defer d.Close()
	for {
		entries, err := d.ReadDir(listBatch)
		for _, e := range entries {
			if err := l.entry(dir+e.Name(), e); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// entry lists one entry of a folder, named as an object.
func (l *lister) entry(name string, e fs.DirEntry) error {
	if !strings.HasPrefix(name, l.prefix) && !strings.HasPrefix(l.prefix, name+"/") {
		return nil
	}
	if err := l.ctx.Err(); err != nil {
		return err
	}
	if backend.CheckName(name) != nil {
		if !durable.IsTemp(e.Name()) {
			l.foreign(name)
		}
		return nil
	}
	switch e.Type() {
	case fs.ModeDir:
		return l.folder(name + "/")
	case fs.ModeSymlink:
		return l.symlink(name)
	case 0: // regular
	default:
		l.foreign(name)
		return nil
	}
	info, err := e.Info()
	if errors.Is(err, fs.ErrNotExist) {
		return l.b.missing(name) // deleted meanwhile, or was the disk?
	}
	if err != nil {
		return err
	}
	if !l.yield(backend.Info{Name: name, Size: info.Size(), Modified: info.ModTime()}, nil) {
		return errStopped
	}
	return nil
}

// symlink follows a link to a folder. The length of names bounds a loop of
// links; one that leads nowhere is an error, as all below it would be missing.
func (l *lister) symlink(name string) error {
	info, err := os.Stat(l.b.path(name))
	if err != nil {
		return fmt.Errorf("symbolic link: %w", err)
	}
	if info.IsDir() {
		return l.folder(name + "/")
	}
	l.foreign(name)
	return nil
}

func (l *lister) foreign(name string) {
	l.b.log.Debug("ignore a file that is no object", "folder", l.b.dir, "name", name)
}
