// Package mem is a backend in memory, for tests. Besides the interface it has
// ways to look at its objects and to change them as a hostile or failing store
// would.
//
// Objects' contents are never changed in place, so snapshots and clones share
// them and a reader sees all of the object that it opened. A Backend is safe
// for concurrent use. It keeps nothing when the process ends, and puts no bound
// on what it is given.
package mem

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tharsis-backup/tharsis/vault/backend"
)

// Backend holds objects in memory. Make one with New.
type Backend struct {
	// Clock tells when an object was stored; nil: no time is told. It must not be
	// changed while the backend is used.
	Clock func() time.Time

	mu       sync.RWMutex
	objects  map[string][]byte
	modified map[string]time.Time
}

// New makes an empty backend.
func New() *Backend {
	return &Backend{objects: map[string][]byte{}, modified: map[string]time.Time{}}
}

// Put creates an object; see backend.Backend.
func (b *Backend) Put(ctx context.Context, name string, body io.ReaderAt, size int64) error {
	if err := check(ctx, "put", name); err != nil {
		return err
	}
	if size < 0 {
		return fmt.Errorf("put object %s: size %d", name, size)
	}
	if _, ok := b.Data(name); ok {
		return fmt.Errorf("put object %s: %w", name, backend.ErrExists)
	}
	data := make([]byte, size)
	if n, err := body.ReadAt(data, 0); n < len(data) {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("put object %s: read content: %w", name, err)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("put object %s: %w", name, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.objects[name]; ok {
		return fmt.Errorf("put object %s: %w", name, backend.ErrExists)
	}
	b.objects[name] = data
	if b.Clock != nil {
		b.modified[name] = b.Clock()
	}
	return nil
}

// Get reads a range of an object; see backend.Backend.
func (b *Backend) Get(ctx context.Context, name string, off, length int64) (io.ReadCloser, error) {
	if err := check(ctx, "get", name); err != nil {
		return nil, err
	}
	if off < 0 {
		return nil, fmt.Errorf("get object %s: offset %d", name, off)
	}
	data, ok := b.Data(name)
	if !ok {
		return nil, fmt.Errorf("get object %s: %w", name, backend.ErrNotFound)
	}
	data = data[min(off, int64(len(data))):]
	if length >= 0 {
		data = data[:min(length, int64(len(data)))]
	}
	r := &reader{ctx: ctx}
	r.data.Reset(data)
	return r, nil
}

// reader reads from memory until its context ends.
type reader struct {
	ctx  context.Context
	data bytes.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.data.Read(p)
}

func (r *reader) Close() error { return nil }

// List yields the objects below prefix as they were when it was begun, sorted
// by name; see backend.Backend.
func (b *Backend) List(ctx context.Context, prefix string) iter.Seq2[backend.Info, error] {
	return func(yield func(backend.Info, error) bool) {
		if err := backend.CheckPrefix(prefix); err != nil {
			yield(backend.Info{}, fmt.Errorf("list: %w", err))
			return
		}
		for _, info := range b.list(prefix) {
			if err := ctx.Err(); err != nil {
				yield(backend.Info{}, fmt.Errorf("list %s: %w", prefix, err))
				return
			}
			if !yield(info, nil) {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			yield(backend.Info{}, fmt.Errorf("list %s: %w", prefix, err))
		}
	}
}

func (b *Backend) list(prefix string) []backend.Info {
	b.mu.RLock()
	defer b.mu.RUnlock()
	var infos []backend.Info
	for name, data := range b.objects {
		if strings.HasPrefix(name, prefix) {
			infos = append(infos, backend.Info{Name: name, Size: int64(len(data)), Modified: b.modified[name]})
		}
	}
	slices.SortFunc(infos, func(x, y backend.Info) int { return strings.Compare(x.Name, y.Name) })
	return infos
}

// Delete removes an object; see backend.Backend.
func (b *Backend) Delete(ctx context.Context, name string) error {
	if err := check(ctx, "delete", name); err != nil {
		return err
	}
	if !b.Remove(name) {
		return fmt.Errorf("delete object %s: %w", name, backend.ErrNotFound)
	}
	return nil
}

// Close does nothing: a test may open the same objects again.
func (b *Backend) Close() error { return nil }

func check(ctx context.Context, verb, name string) error {
	if err := backend.CheckName(name); err != nil {
		return fmt.Errorf("%s: %w", verb, err)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s object %s: %w", verb, name, err)
	}
	return nil
}

// Clone makes a backend with the same objects, independent from then on.
func (b *Backend) Clone() *Backend {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return &Backend{Clock: b.Clock, objects: maps.Clone(b.objects), modified: maps.Clone(b.modified)}
}

// Snapshot is the state of b: names and contents, which must not be changed.
func (b *Backend) Snapshot() map[string][]byte {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return maps.Clone(b.objects)
}

// Restore brings back the state of an earlier Snapshot, as an operator with a
// backup of the store could.
func (b *Backend) Restore(state map[string][]byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.objects = maps.Clone(state)
	if b.objects == nil {
		b.objects = map[string][]byte{}
	}
}
