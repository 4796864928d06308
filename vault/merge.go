package vault

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/index"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// StoreMerged stores one run with all that the given runs say of packs that
// were not swept, and returns its ID. It counts only when a log entry names it.
func (v *Vault) StoreMerged(ctx context.Context, runs []*index.Run, spoolDir string,
	copied func(name string, body io.ReaderAt, size int64)) (chunk.ID, error) {
	id, err := pack.NewID(rand.Reader)
	if err != nil {
		return chunk.ID{}, err
	}
	f, err := spoolFile(spoolDir)
	if err != nil {
		return chunk.ID{}, err
	}
	defer f.Close()
	st := v.Log.State()
	size, err := index.Merge(ctx, f, v.Ring, id, runs, func(p chunk.ID) bool { return !st.Swept(p) })
	if err != nil {
		return chunk.ID{}, fmt.Errorf("merge index runs: %w", err)
	}
	name := index.Name(id)
	if err := v.Backend.Put(ctx, name, f, size); err != nil {
		return chunk.ID{}, fmt.Errorf("store index %s: %w", id.Short(), err)
	}
	if copied != nil {
		copied(name, f, size)
	}
	return id, nil
}
