package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/index"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// Where index runs are lost, the directories of the packs say what the runs said. It
// cannot be known any more which packs a lost run named, so all are taken that the
// vault lists, that open under its keys, that no run in good order names and that no
// SWEPT entry freed. Packs of killed jobs, or of jobs under way, may be among them.
// That is harmless: what is in a pack was checked before it was stored, and is again
// when it is read; who stores asks the log whether a pack lost trust, whatever an
// index says; and a prune, which takes packs that no entry named for garbage, must
// look anew before it condemns one, as any COMMIT may name it.

// directoryReader reads directories, several at a time, and adds them to a Rebuild.
type directoryReader struct {
	v  *vault.Vault // on the backend alone
	rb *vault.Rebuild
	// added is told of each pack that was added, and unread of those that are
	// damaged; both may be nil, and are called by several goroutines.
	added  func(*pack.Directory)
	unread func(id chunk.ID, err error)

	g   *errgroup.Group
	ctx context.Context
}

func newDirectoryReader(ctx context.Context, v *vault.Vault, rb *vault.Rebuild) *directoryReader {
	r := &directoryReader{v: v, rb: rb}
	r.g, r.ctx = errgroup.WithContext(ctx)
	r.g.SetLimit(min(max(runtime.GOMAXPROCS(0), 2), maxWorkers))
	return r
}

// read reads the directory of a pack of so many bytes. It waits while enough are
// being read, and returns the error that ended the reading of others.
func (r *directoryReader) read(id chunk.ID, length uint64) error {
	if err := r.ctx.Err(); err != nil {
		return cmp.Or(r.g.Wait(), err)
	}
	r.g.Go(func() error {
		dir, err := pack.FindDirectory(r.ctx, r.v.Backend, r.v.Ring, id, length)
		switch {
		case errors.Is(err, backend.ErrNotFound):
			return nil // the list was behind
		case err != nil && isFinding(err):
			if r.unread != nil {
				r.unread(id, err)
			}
			return nil
		case err != nil:
			return fmt.Errorf("read the packs' directories: %w", err)
		}
		if err := r.rb.Add(r.ctx, dir); err != nil {
			return err
		}
		if r.added != nil {
			r.added(&dir)
		}
		return nil
	})
	return nil
}

func (r *directoryReader) wait() error { return r.g.Wait() }

// strays gives fn the packs, with their lengths, that the vault lists and that none of
// the runs names, but for those that were swept.
func (s *Session) strays(ctx context.Context, runs []*index.Run, fn func(id chunk.ID, length uint64) error) error {
	swept := s.vault.Log.State().Swept
	return s.comparePacks(ctx, runs, func(p *packSight) error {
		if len(p.named) > 0 || swept(p.id) {
			return nil
		}
		return fn(p.id, p.listed[0])
	})
}

// madeAnew gives, once in a session, runs over all packs that no whole index run
// names, so that what can be read is found though the index is damaged.
func (s *Session) madeAnew(ctx context.Context) ([]*index.Run, error) {
	if s.rebuilt != nil {
		return s.rebuilt.Runs(ctx)
	}
	s.note(Note{Info, "", "the vault's index is damaged: the packs' own directories are read in its place; mend it with: agent repair"})
	x, err := s.vault.OpenIndex(ctx, vault.IndexOptions{Tolerant: true})
	if err != nil {
		return nil, err
	}
	var whole []*index.Run
	for _, r := range x.Runs() {
		err := r.Verify(ctx)
		if err == nil {
			whole = append(whole, r)
		} else if !errors.Is(err, key.ErrDamaged) {
			return nil, err
		}
	}
	rb := s.direct.NewRebuild(s.cache.SpoolDir())
	dirs := newDirectoryReader(ctx, s.direct, rb)
	err = s.strays(ctx, whole, dirs.read)
	if werr := dirs.wait(); err == nil {
		err = werr
	}
	if err != nil {
		rb.Close()
		return nil, err
	}
	s.rebuilt = rb
	return rb.Runs(ctx)
}
