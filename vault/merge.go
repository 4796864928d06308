package vault

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/stage"
	"github.com/tharsis-backup/tharsis/vault/index"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// StoreMerged stores one run with all that the given runs say of packs that
// were not swept, and returns its ID. It counts only when a log entry names it.
func (v *Vault) StoreMerged(ctx context.Context, runs []*index.Run, spoolDir string,
	copied func(name string, body io.ReaderAt, size int64)) (chunk.ID, error) {
	st := v.Log.State()
	keep := func(p chunk.ID) bool { return !st.Swept(p) }
	id, _, err := v.storeRun(ctx, spoolDir, mergeOf(ctx, v.Ring, runs, keep), copied)
	return id, err
}

// runMaker makes the rows of an index run: once to write it, and once more to check
// what was written.
type runMaker struct {
	write func(w io.Writer, id chunk.ID) (size int64, err error)
	check func(*index.Run) error
}

// runOf makes the run over the packs of dirs.
func runOf(ctx context.Context, ring *key.Ring, dirs []pack.Directory) runMaker {
	return runMaker{
		write: func(w io.Writer, id chunk.ID) (int64, error) { return index.Write(w, ring, id, dirs) },
		check: func(r *index.Run) error { return index.Check(ctx, r, dirs) },
	}
}

// mergeOf makes the run of all that runs have of packs that keep accepts.
func mergeOf(ctx context.Context, ring *key.Ring, runs []*index.Run, keep func(chunk.ID) bool) runMaker {
	return runMaker{
		write: func(w io.Writer, id chunk.ID) (int64, error) { return index.Merge(ctx, w, ring, id, runs, keep) },
		check: func(r *index.Run) error { return index.CheckMerge(ctx, r, runs, keep) },
	}
}

// spoolRun writes a run to a spool and checks it.
func spoolRun(ctx context.Context, ring *key.Ring, id chunk.ID, dir string, m runMaker, cache *index.BlockCache) (*index.Run, *spool, error) {
	f, err := newSpool(dir)
	if err != nil {
		return nil, nil, err
	}
	size, err := m.write(f, id)
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("write index %s: %w", id.Short(), err)
	}
	run, err := index.OpenRun(ctx, ring, id, index.FileSource(f), size, cache)
	if err == nil {
		err = m.check(run)
	} else if errors.Is(err, key.ErrDamaged) || errors.Is(err, key.ErrNewer) {
		err = fmt.Errorf("%w: %v", stage.ErrSpoilt, err)
	}
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("check index %s: %w", id.Short(), err)
	}
	return run, f, nil
}

// storeRun spools a run and stores it under a fresh ID. copied, if not nil, is given its bytes
// afterwards.
func (v *Vault) storeRun(ctx context.Context, spoolDir string, m runMaker,
	copied func(name string, body io.ReaderAt, size int64)) (id chunk.ID, size int64, err error) {
	if id, err = pack.NewID(v.random); err != nil {
		return id, 0, err
	}
	run, f, err := spoolRun(ctx, v.Ring, id, spoolDir, m, nil)
	if err != nil {
		return id, 0, err
	}
	defer f.Close()
	size = run.Size()
	name := index.Name(id)
	if err := v.Backend.Put(ctx, name, f, size); err != nil {
		return id, 0, fmt.Errorf("store index %s: %w", id.Short(), err)
	}
	if copied != nil {
		copied(name, f, size)
	}
	return id, size, nil
}
