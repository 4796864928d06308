package vault

import (
	"context"
	"io"
	"sync"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/index"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// Rebuild makes an index run anew, from the directories of packs. Its memory is
// bounded as that of a job's own index is. Add may be called concurrently; the rest
// is for one goroutine.
type Rebuild struct {
	v     *Vault
	spool string

	mu    sync.Mutex // guards the rest
	job   *jobIndex
	packs int64
}

// NewRebuild begins an empty run, with its temporary files in spoolDir.
func (v *Vault) NewRebuild(spoolDir string) *Rebuild {
	return &Rebuild{v: v, spool: spoolDir, job: newJobIndex(v.Ring, spoolDir)}
}

// Add adds a pack, which must not have been added before.
func (r *Rebuild) Add(ctx context.Context, dir pack.Directory) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.packs++
	return r.job.add(ctx, dir)
}

// Packs is how many packs were added.
func (r *Rebuild) Packs() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.packs
}

// Store stores the run in the vault and returns its ID. It counts only when a log
// entry names it. Where no pack was added it returns index.ErrEmpty.
func (r *Rebuild) Store(ctx context.Context, copied func(name string, body io.ReaderAt, size int64)) (chunk.ID, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.job.empty() {
		return chunk.ID{}, index.ErrEmpty
	}
	all, err := r.job.all(ctx)
	if err != nil {
		return chunk.ID{}, err
	}
	id, _, err := r.v.storeRun(ctx, r.spool, all, copied)
	return id, err
}

// Runs makes of the run parts that can be looked into at once, without the vault.
// They may be used until Close.
func (r *Rebuild) Runs(ctx context.Context) ([]*index.Run, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.job.packs) > 0 {
		if err := r.job.spill(ctx); err != nil {
			return nil, err
		}
	}
	var runs []*index.Run
	for _, level := range r.job.levels {
		runs = append(runs, runsOf(level)...)
	}
	return runs, nil
}

// Close frees the temporary files.
func (r *Rebuild) Close() { r.job.close() }
