package vault

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/disk"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/index"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
)

// Dropper is a backend that keeps copies of objects. Drop removes the copy of
// one that turned out damaged, and tells whether there was one, so that reading
// again asks the vault itself.
type Dropper interface{ Drop(name string) bool }

// Keeper is a backend that can take a whole object into its copies.
type Keeper interface {
	Keep(ctx context.Context, name string, size int64) error
}

func (v *Vault) drop(name string) bool {
	d, ok := v.Backend.(Dropper)
	return ok && d.Drop(name)
}

// indexCacheBytes bounds the decoded blocks of index runs. Who looks many chunks
// up sorts them first, so that a block is needed for several in a row.
const indexCacheBytes = 1 << 20

// IndexOptions set up OpenIndex.
type IndexOptions struct {
	// Keep takes the runs into the backend's copies, if it has any, and makes
	// filters for them: for a job that looks up many chunks that are not there.
	Keep bool
	// FilterDir holds the filters between jobs; "" keeps them in memory only.
	FilterDir string
	// CacheBytes bounds the decoded blocks that are kept; 0 is for who looks up
	// sorted.
	CacheBytes int
	// Tolerant passes over runs that are missing or damaged: for a check, and
	// for restoring what is left.
	Tolerant bool
	// Fallback, of a tolerant Index, is called once where a run turns out missing or
	// damaged. Find looks into the runs that it gives, too, from then on. It may be
	// called again after an error.
	Fallback func(context.Context) ([]*index.Run, error)
	// Runs, if not nil, are looked into in place of those that the log says are live.
	// Usable knows nothing of them.
	Runs []*index.Run
}

// Index finds chunks and pages in the live index runs of a vault. It is safe for
// concurrent use.
type Index struct {
	v      *Vault
	opts   IndexOptions
	blocks *index.BlockCache

	mu      sync.RWMutex // guards the fields below
	runs    map[chunk.ID]index.Member
	reading *index.Set // for finding what to read: no filters, any pack
	dedupe  *index.Set // for deciding what to store: filters, usable packs
	at      log.Head   // the log that the runs are of
	skip    int        // misses until renew looks again
	pause   int        // how many those were at first
	passed  bool       // a live run could not be opened

	fallbackMu sync.Mutex // held while Fallback is called; guards the rest
	asked      bool       // Fallback gave what it can
	fallback   []*index.Run
}

// OpenIndex opens the index runs that are live as of the log's state.
func (v *Vault) OpenIndex(ctx context.Context, o IndexOptions) (*Index, error) {
	if o.CacheBytes == 0 {
		o.CacheBytes = indexCacheBytes
	}
	x := &Index{v: v, opts: o, blocks: index.NewBlockCache(o.CacheBytes), runs: map[chunk.ID]index.Member{}}
	return x, x.Refresh(ctx)
}

// Refresh opens the runs that became live, and forgets those that no longer are.
func (x *Index) Refresh(ctx context.Context) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.refresh(ctx, x.opts.Keep)
}

// refresh is Refresh for who holds x.mu. With keep it takes the runs into the
// backend's copies.
func (x *Index) refresh(ctx context.Context, keep bool) error {
	x.at = x.v.Log.Head()
	if x.opts.Runs != nil {
		members := make([]index.Member, len(x.opts.Runs))
		for i, r := range x.opts.Runs {
			members[i].Run = r
		}
		x.reading, x.dedupe = index.NewSet(nil, members...), index.NewSet(nil)
		return nil
	}
	live := x.v.Log.State().Runs()
	runs := make(map[chunk.ID]index.Member, len(live))
	var reading, dedupe []index.Member
	passed := false
	for i := len(live) - 1; i >= 0; i-- { // newest first
		id := live[i]
		m, ok := x.runs[id]
		if !ok {
			var err error
			m, err = x.open(ctx, id, keep)
			if (errors.Is(err, errMissing) || errors.Is(err, backend.ErrNotFound)) && x.moved(ctx) {
				return x.refresh(ctx, keep) // it was merged into another, and deleted
			}
			if x.opts.Tolerant && errors.Is(err, key.ErrDamaged) {
				x.v.logger.Warn("pass over index run", "run_id", id.Short(), "err", err)
				passed = true
				continue
			}
			if err != nil {
				return fmt.Errorf("open index %s: %w", id.Short(), err)
			}
		}
		runs[id] = m
		reading = append(reading, index.Member{Run: m.Run})
		dedupe = append(dedupe, m)
	}
	x.runs, x.passed = runs, passed
	x.reading = index.NewSet(nil, reading...)
	x.dedupe = index.NewSet(x.v.Log.State().Usable, dedupe...)
	return nil
}

// moved reads the log again and tells whether it has grown.
func (x *Index) moved(ctx context.Context) bool {
	before := x.v.Log.Head()
	return x.v.Log.Refresh(ctx) == nil && x.v.Log.Head() != before
}

// open opens one run, from a copy where that is whole.
func (x *Index) open(ctx context.Context, id chunk.ID, keep bool) (index.Member, error) {
	name := index.Name(id)
	size, err := x.size(ctx, name)
	if err != nil {
		return index.Member{}, err
	}
	if k, ok := x.v.Backend.(Keeper); ok && keep {
		if err := k.Keep(ctx, name, size); err != nil {
			x.v.logger.Warn("keep index run", "err", err)
		}
	}
	for {
		run, err := index.OpenRun(ctx, x.v.Ring, id, index.ObjectSource(x.v.Backend, name), size, x.blocks)
		// Also where a header speaks of a newer agent: in a copy that may be damage.
		if (errors.Is(err, key.ErrDamaged) || errors.Is(err, key.ErrNewer)) && x.v.drop(name) {
			continue
		}
		if err != nil {
			return index.Member{}, err
		}
		m := index.Member{Run: run}
		if x.opts.Keep {
			m.Filter, err = x.filter(ctx, run)
			if errors.Is(err, key.ErrDamaged) && x.v.drop(name) {
				continue
			}
		}
		return m, err
	}
}

// size is the length of a run's object. The log does not hold it, so the
// backend is asked; what it says is checked against the footer.
func (x *Index) size(ctx context.Context, name string) (int64, error) {
	for info, err := range x.v.Backend.List(ctx, name) {
		if err != nil {
			return 0, fmt.Errorf("find %s: %w", name, err)
		}
		if info.Name == name {
			return info.Size, nil
		}
	}
	return 0, fmt.Errorf("find %s: %w", name, errMissing)
}

// errMissing is for an object that the log names and the backend does not have.
var errMissing = fmt.Errorf("%w: the object is missing", key.ErrDamaged)

// filter loads or builds the filter of a run.
func (x *Index) filter(ctx context.Context, run *index.Run) (*index.Filter, error) {
	path := filepath.Join(x.opts.FilterDir, run.ID().String())
	if x.opts.FilterDir != "" {
		if b, err := os.ReadFile(path); err == nil {
			if f, err := index.LoadFilter(b, run.ID()); err == nil {
				return f, nil
			}
		}
	}
	f, err := index.BuildFilter(ctx, run)
	if err != nil {
		return nil, err
	}
	if x.opts.FilterDir != "" {
		// Not synced and not atomic: a torn filter fails its checksum.
		if err := disk.WriteFile(path, f.Bytes(), 0o600); err != nil {
			x.v.logger.Warn("keep filter", "err", err)
		}
	}
	return f, nil
}

// Usable tells whether a chunk or page lies in a pack that a new point may
// refer to. A tolerant Index says no where a damaged run may say yes.
func (x *Index) Usable(ctx context.Context, id chunk.ID) (bool, error) {
	for {
		x.mu.RLock()
		set := x.dedupe
		x.mu.RUnlock()
		_, ok, err := set.Lookup(ctx, id)
		if err == nil || !errors.Is(err, key.ErrDamaged) {
			return ok, err
		}
		if x.reopen(ctx, set) {
			continue
		}
		if !x.opts.Tolerant {
			return false, err
		}
		locs, err := x.findWhole(ctx, id, nil)
		if errors.Is(err, key.ErrDamaged) {
			err = nil
		}
		usable := x.v.Log.State().Usable
		return slices.ContainsFunc(locs, func(l index.Location) bool { return usable(l.Pack) }), err
	}
}

// reopen drops damaged copies of runs and opens the vault's own, unless that
// was done since somebody took set. It is false where there was no copy, so that
// the damage is the vault's.
func (x *Index) reopen(ctx context.Context, set *index.Set) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if set != x.reading && set != x.dedupe {
		return true
	}
	dropped := false
	for id := range x.runs {
		dropped = x.v.drop(index.Name(id)) || dropped
	}
	if !dropped {
		return false
	}
	x.blocks = index.NewBlockCache(x.opts.CacheBytes)
	x.runs = map[chunk.ID]index.Member{}
	// No copies are made now: one of a run that is damaged in the vault itself
	// would be dropped again, and so on without end.
	return x.refresh(ctx, false) == nil
}

// MemoryBytes is about what the index holds in memory for as long as it is open.
func (x *Index) MemoryBytes() (n int64) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, m := range x.runs {
		n += int64(m.Run.Counts().Chunks) / 256 * 8 // fences
		if m.Filter != nil {
			n += int64(len(m.Filter.Bytes()))
		}
	}
	return n
}

// Runs are the opened runs.
func (x *Index) Runs() []*index.Run {
	if x.opts.Runs != nil {
		return x.opts.Runs
	}
	var all []*index.Run
	for _, m := range slices.Backward(x.Members()) {
		all = append(all, m.Run)
	}
	return all
}

// Members are the opened runs with their filters, the newest first.
func (x *Index) Members() []index.Member {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var all []index.Member
	for _, id := range slices.Backward(x.v.Log.State().Runs()) {
		if m, ok := x.runs[id]; ok {
			all = append(all, m)
		}
	}
	return all
}
