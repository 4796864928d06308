// Package cache keeps derived data on a machine: copies of the vault's own
// sealed objects (index runs and manifest packs, so that the merged manifest
// can be read without the vault), the verified log, and the journal of a job
// that is under way, which is its differencing manifest.
//
// # Layout
//
//	cache/<vault ID>/
//	  objects/index/..., objects/packs/...   sealed objects, as in the vault
//	  filters/<run>                          Bloom filters of index runs
//	  log                                    verified log entries, MACed
//	  journal                                the job under way (package journal)
//	  listed, read                           when packs were listed and read (Memo)
//	  spool/                                 open packs, spilled index runs
//
// # Trust
//
// Nothing here is believed: sealed objects authenticate themselves when they
// are opened, the log and the journal carry MACs under a key of the vault, and
// a filter may only cost a lookup or a duplicate. Losing or spoiling the folder
// costs time, never data and never a decision. It holds no plaintext of the user's.
package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tharsis-backup/tharsis/internal/disk"
	"github.com/tharsis-backup/tharsis/internal/durable"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/key"
)

// Dir is the cache of one vault.
type Dir struct{ path string }

// Open makes the folder of a vault's cache below root where it is missing.
func Open(root string, id key.VaultID) (*Dir, error) {
	d := &Dir{filepath.Join(root, fmt.Sprintf("%x", id))}
	for _, sub := range []string{"objects", "filters", "spool"} {
		if err := disk.MkdirAll(filepath.Join(d.path, sub), 0o700); err != nil {
			return nil, fmt.Errorf("open cache: %w", err)
		}
	}
	return d, nil
}

// Wipe removes all derived data of the vault.
func (d *Dir) Wipe() error {
	if err := disk.RemoveAll(d.path); err != nil {
		return fmt.Errorf("wipe cache: %w", err)
	}
	return nil
}

// LogPath is the file of the verified log.
func (d *Dir) LogPath() string { return filepath.Join(d.path, "log") }

// JournalPath is the file of the job under way.
func (d *Dir) JournalPath() string { return filepath.Join(d.path, "journal") }

// SpoolDir is for files that live no longer than the process.
func (d *Dir) SpoolDir() string { return filepath.Join(d.path, "spool") }

// FilterDir is for the filters of index runs.
func (d *Dir) FilterDir() string { return filepath.Join(d.path, "filters") }

// Objects is a backend that reads the objects that the cache keeps from there,
// and all others from the vault. What it returns is as untrusted as the vault.
type Objects struct {
	backend.Backend
	dir *Dir
	seq atomic.Uint64
}

// Over puts the cache before the backend of its vault.
func (d *Dir) Over(b backend.Backend) *Objects { return &Objects{Backend: b, dir: d} }

func (o *Objects) file(name string) string {
	return filepath.Join(o.dir.path, "objects", filepath.FromSlash(name))
}

// Get implements part of [backend.Backend].
func (o *Objects) Get(ctx context.Context, name string, off, length int64) (io.ReadCloser, error) {
	if !mayKeep(name) {
		return o.Backend.Get(ctx, name, off, length)
	}
	f, err := os.Open(o.file(name))
	if err != nil {
		// Missing, or not readable for whatever reason: the vault has it.
		return o.Backend.Get(ctx, name, off, length)
	}
	if length < 0 {
		length = 1<<62 - off
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(f, off, length), f}, nil
}

// mayKeep tells whether objects of this name are ever copied: reading the log costs
// no look for a copy.
func mayKeep(name string) bool {
	return strings.HasPrefix(name, "index/") || strings.HasPrefix(name, "packs/")
}

// Kept tells whether a local copy of an object is there.
func (o *Objects) Kept(name string) bool {
	_, err := os.Lstat(o.file(name))
	return err == nil
}

// Keep fetches a whole object of the given size into the cache. Where that
// fails, the object goes on being read from the vault.
func (o *Objects) Keep(ctx context.Context, name string, size int64) error {
	if o.Kept(name) {
		return nil
	}
	r, err := o.Backend.Get(ctx, name, 0, size)
	if err != nil {
		return err
	}
	defer r.Close()
	return o.add(name, io.LimitReader(r, size), size)
}

// Add puts a copy of an object that was just stored in the vault into the
// cache.
func (o *Objects) Add(name string, body io.ReaderAt, size int64) error {
	return o.add(name, io.NewSectionReader(body, 0, size), size)
}

func (o *Objects) add(name string, r io.Reader, size int64) error {
	path := o.file(name)
	if err := disk.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("cache %s: %w", name, err)
	}
	tmp := filepath.Join(o.dir.SpoolDir(), fmt.Sprintf("keep-%d-%d", os.Getpid(), o.seq.Add(1)))
	f, err := disk.Open(tmp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("cache %s: %w", name, err)
	}
	n, err := io.Copy(f, r)
	if err == nil && n != size {
		err = io.ErrUnexpectedEOF
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		// Not synced: a copy that a power cut tore fails to open and is fetched again.
		err = disk.Rename(tmp, path)
	}
	if err != nil {
		disk.Remove(tmp)
		return fmt.Errorf("cache %s: %w", name, err)
	}
	return nil
}

// Drop removes the local copy of an object that turned out damaged, and tells
// whether there was one: then reading again asks the vault.
func (o *Objects) Drop(name string) bool { return disk.Remove(o.file(name)) == nil }

// Delete implements part of [backend.Backend].
func (o *Objects) Delete(ctx context.Context, name string) error {
	o.Drop(name)
	return o.Backend.Delete(ctx, name)
}

// Retain removes every local copy whose name keep refuses.
func (o *Objects) Retain(keep func(name string) bool) error {
	return o.each(func(name, path string) {
		if !keep(name) {
			disk.Remove(path)
		}
	})
}

// Count counts the local copies of objects whose names begin with prefix.
func (o *Objects) Count(prefix string) (n int, err error) {
	err = o.each(func(name, _ string) {
		if strings.HasPrefix(name, prefix) {
			n++
		}
	})
	return n, err
}

// each calls fn for every local copy.
func (o *Objects) each(fn func(name, path string)) error {
	root := filepath.Join(o.dir.path, "objects")
	return filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		fn(filepath.ToSlash(rel), path)
		return nil
	})
}

// keepAge is after how long without a write a copy that is being made is taken
// for a dead process's.
const keepAge = 24 * time.Hour

// Sweep removes what a killed process left in the spool. Only the holder of
// the home's lock may call it.
func (d *Dir) Sweep() error {
	entries, err := os.ReadDir(d.SpoolDir())
	if err != nil {
		return fmt.Errorf("sweep cache: %w", err)
	}
	for _, e := range entries {
		if info, err := e.Info(); strings.HasPrefix(e.Name(), "keep-") && (err != nil || time.Since(info.ModTime()) < keepAge) {
			continue // may be a reader's that runs beside us
		}
		disk.RemoveAll(filepath.Join(d.SpoolDir(), e.Name()))
	}
	if _, err := durable.Sweep(d.path, keepAge); err != nil { // of memos
		return fmt.Errorf("sweep cache: %w", err)
	}
	return nil
}
