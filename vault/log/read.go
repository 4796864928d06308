package log

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"

	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/key"
)

const (
	// firstWindow and maxWindow bound how many entries are fetched at once: the
	// window gallops from one to the other. Entries are mostly small and far away;
	// the upper bound keeps the memory under 16 times MaxObjectBytes.
	firstWindow = 2
	maxWindow   = 16
)

// beyond are the distances at which entries are looked for behind a missing
// one, which tells a hole from the end of the log.
var beyond = [...]uint64{1, 2, 4, 8}

// refresh checks that the newest entry is still there and reads on.
func (l *Log) refresh(ctx context.Context) error {
	defer l.flush()
	if l.next == 0 {
		return l.advance(ctx, nil)
	}
	objects, err := l.fetch(ctx, l.next-1, 1+firstWindow)
	if err != nil {
		return err
	}
	if err := l.checkHead(ctx, objects[0]); err != nil {
		return err
	}
	return l.advance(ctx, objects[1:])
}

// advance reads from l.next to the end of the log. objects are the first ones,
// where they were fetched already; a nil one was not found.
func (l *Log) advance(ctx context.Context, objects [][]byte) error {
	window := firstWindow
	tried := None // the last bundle tried
	for {
		for ; len(objects) > 0 && objects[0] != nil; objects = objects[1:] {
			if err := l.acceptNew(objects[0]); err != nil {
				return err
			}
		}
		if len(objects) > 0 {
			if ended, err := l.ended(ctx); ended || err != nil {
				return err
			}
		}
		objects = nil
		n := l.next / BundleEntries
		if n != tried && (l.next%BundleEntries == 0 || window == maxWindow) {
			tried = n
			if err := l.readBundle(ctx, n); err != nil {
				return err
			}
			if l.next/BundleEntries != n {
				continue
			}
		}
		var err error
		if objects, err = l.fetch(ctx, l.next, window); err != nil {
			return err
		}
		window = min(2*window, maxWindow)
	}
}

// ended tells whether the log ends before l.next, which was not found. It is
// false where the entry, or a bundle that has it, appeared meanwhile, and an
// error where only later entries exist.
func (l *Log) ended(ctx context.Context) (bool, error) {
	later, err := l.laterThan(ctx, l.next)
	if err != nil || !later {
		return !later, err
	}
	// Two entries may have been appended between the two looks.
	if found, err := l.exists(ctx, entryName(l.next)); err != nil || found {
		return false, err
	}
	before := l.next
	if err := l.readBundle(ctx, l.next/BundleEntries); err != nil {
		return false, err
	}
	if l.next == before {
		return false, fmt.Errorf("log entry %d: %w: it is missing, although later ones exist", l.next, key.ErrDamaged)
	}
	return false, nil
}

// laterThan tells whether one of the entries at some distances behind seq exists.
func (l *Log) laterThan(ctx context.Context, seq uint64) (bool, error) {
	var found [len(beyond)]bool
	g, ctx := errgroup.WithContext(ctx)
	for i, d := range beyond {
		g.Go(func() (err error) {
			found[i], err = l.exists(ctx, entryName(seq+d))
			return err
		})
	}
	err := g.Wait()
	return found != [len(beyond)]bool{}, err
}

// checkHead checks that object, which was found in the place of the newest
// entry, is that entry.
func (l *Log) checkHead(ctx context.Context, object []byte) error {
	seq := l.next - 1
	if object == nil {
		var err error
		if object, err = l.fromBundle(ctx, seq); err != nil {
			return err
		}
	}
	if object == nil {
		return l.shorter(ctx, seq)
	}
	if sha256.Sum256(object) == l.prev {
		return nil
	}
	if _, err := OpenEntry(l.ring, seq, object); err != nil {
		return fmt.Errorf("log entry %d: %w", seq, err)
	}
	return fmt.Errorf("%w (entry %d differs)", ErrForked, seq)
}

// shorter gives the error for a log in which entry seq, seen before, was not
// found: it has a hole, or it ends before.
func (l *Log) shorter(ctx context.Context, seq uint64) error {
	found, err := l.exists(ctx, entryName(seq))
	if err == nil && !found {
		found, err = l.laterThan(ctx, seq)
	}
	switch {
	case err != nil:
		return err
	case found:
		return fmt.Errorf("log: %w: entries before %d are missing, although later ones exist", key.ErrDamaged, seq+1)
	}
	return fmt.Errorf("%w (entry %d was seen, and is gone)", ErrRollback, seq)
}

// fetch gets n entries from number from on, at once. What is not there is nil.
func (l *Log) fetch(ctx context.Context, from uint64, n int) ([][]byte, error) {
	objects := make([][]byte, n)
	g, ctx := errgroup.WithContext(ctx)
	for i := range objects {
		g.Go(func() (err error) {
			objects[i], err = l.get(ctx, entryName(from+uint64(i)))
			return err
		})
	}
	return objects, g.Wait()
}

// get gets the whole object of an entry, nil where there is none. One that is
// too long comes back too long by one byte, and fails to open.
func (l *Log) get(ctx context.Context, name string) ([]byte, error) {
	r, err := l.backend.Get(ctx, name, 0, MaxObjectBytes+1)
	if errors.Is(err, backend.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	defer r.Close()
	object, err := io.ReadAll(io.LimitReader(r, MaxObjectBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return object, nil
}

// exists tells whether there is an object of this name.
func (l *Log) exists(ctx context.Context, name string) (bool, error) {
	r, err := l.backend.Get(ctx, name, 0, 1)
	if errors.Is(err, backend.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for %s: %w", name, err)
	}
	return true, r.Close()
}
