package vault

import (
	"context"
	"fmt"
	"io"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/index"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// StoreMerged stores one run with all that the given runs say of packs that
// were not swept, and returns its ID. It counts only when a log entry names it.
func (v *Vault) StoreMerged(ctx context.Context, runs []*index.Run, spoolDir string,
	copied func(name string, body io.ReaderAt, size int64)) (chunk.ID, error) {
	st := v.Log.State()
	id, _, err := storeRun(ctx, v.Backend, v.random, spoolDir, func(w io.Writer, id chunk.ID) (int64, error) {
		return index.Merge(ctx, w, v.Ring, id, runs, func(p chunk.ID) bool { return !st.Swept(p) })
	}, copied)
	return id, err
}

// storeRun spools the run that write makes and stores it under a fresh ID. copied,
// if not nil, is given its bytes afterwards.
func storeRun(ctx context.Context, b backend.Backend, random io.Reader, spoolDir string, write func(io.Writer, chunk.ID) (int64, error),
	copied func(name string, body io.ReaderAt, size int64)) (id chunk.ID, size int64, err error) {
	if id, err = pack.NewID(random); err != nil {
		return id, 0, err
	}
	f, err := spoolFile(spoolDir)
	if err != nil {
		return id, 0, err
	}
	defer f.Close()
	if size, err = write(f, id); err != nil {
		return id, 0, fmt.Errorf("write index %s: %w", id.Short(), err)
	}
	name := index.Name(id)
	if err := b.Put(ctx, name, f, size); err != nil {
		return id, 0, fmt.Errorf("store index %s: %w", id.Short(), err)
	}
	if copied != nil {
		copied(name, f, size)
	}
	return id, size, nil
}
