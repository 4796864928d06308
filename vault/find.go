package vault

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/index"
	"github.com/tharsis-backup/tharsis/vault/key"
)

// Find appends all places of a chunk or page to dst, those in usable packs first. A
// tolerant Index passes over damaged runs, as long as another one knows a place. Where
// there is none, or a run is gone, it looks into the log for newer runs.
func (x *Index) Find(ctx context.Context, id chunk.ID, dst []index.Location) ([]index.Location, error) {
	had := len(dst)
	dst, err := x.find(ctx, id, dst)
	if gone := err == nil && len(dst) == had || errors.Is(err, backend.ErrNotFound); gone && x.renew(ctx) {
		dst, err = x.find(ctx, id, dst[:had])
	}
	if found := dst[had:]; len(found) > 1 {
		x.bestFirst(found)
	}
	return dst, err
}

func (x *Index) find(ctx context.Context, id chunk.ID, dst []index.Location) ([]index.Location, error) {
	had := len(dst)
	for {
		x.mu.RLock()
		set, passed := x.reading, x.passed
		x.mu.RUnlock()
		locs, err := set.LookupAll(ctx, id, dst)
		switch {
		case err == nil && !passed:
			return locs, nil
		case err == nil:
			return x.elsewhere(ctx, id, locs, had, nil)
		case !errors.Is(err, key.ErrDamaged):
			return locs, err
		}
		if x.reopen(ctx, set) {
			continue
		}
		if !x.opts.Tolerant {
			return locs, err
		}
		locs, damage := x.findWhole(ctx, id, dst)
		if damage != nil && !errors.Is(damage, key.ErrDamaged) {
			return locs, damage
		}
		return x.elsewhere(ctx, id, locs, had, damage)
	}
}

// elsewhere appends what the fallback knows of a chunk to the places that the whole
// runs know, locs[had:]. damage is what is returned where there are none.
func (x *Index) elsewhere(ctx context.Context, id chunk.ID, locs []index.Location, had int, damage error) ([]index.Location, error) {
	runs, err := x.askFallback(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return locs, ctx.Err()
		}
		x.v.logger.Warn("read the packs' directories in place of the index", "err", err)
	}
	for _, r := range runs {
		if locs, err = r.Lookup(ctx, id, locs); err != nil {
			return locs, err
		}
	}
	if len(locs) > had {
		damage = nil
	}
	return locs, damage
}

func (x *Index) askFallback(ctx context.Context) ([]*index.Run, error) {
	if x.opts.Fallback == nil {
		return nil, nil
	}
	x.fallbackMu.Lock()
	defer x.fallbackMu.Unlock()
	if x.asked {
		return x.fallback, nil
	}
	runs, err := x.opts.Fallback(ctx)
	if err == nil {
		x.fallback, x.asked = runs, true
	}
	return runs, err
}

// maxRenewSkip bounds how many misses pass without a look into the log: in a
// damaged vault each chunk may be one.
const maxRenewSkip = 4096

// renew reads the log again, and opens the runs that it names now: what is missed
// may have been written anew since, and deleted where it was. It is false where
// there is nothing new; after that it looks more rarely.
func (x *Index) renew(ctx context.Context) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.opts.Runs != nil {
		return false
	}
	if x.skip > 0 {
		x.skip--
		return false
	}
	if !x.moved(ctx) && x.at == x.v.Log.Head() {
		x.pause = min(2*x.pause+1, maxRenewSkip)
		x.skip = x.pause
		return false
	}
	x.skip, x.pause = 0, 0
	return x.refresh(ctx, false) == nil
}

// bestFirst sorts places by how likely they can be read: a pack in quarantine is
// known to be hurt, and one that was swept may be gone.
func (x *Index) bestFirst(locs []index.Location) {
	st := x.v.Log.State()
	if !st.HasUntrusted() {
		return
	}
	rank := func(l index.Location) int {
		switch {
		case st.Usable(l.Pack):
			return 0
		case st.Swept(l.Pack):
			return 2
		}
		return 1
	}
	slices.SortStableFunc(locs, func(a, b index.Location) int { return cmp.Compare(rank(a), rank(b)) })
}

// findWhole looks into each run by itself. It returns an error where nothing was
// found and something is damaged.
func (x *Index) findWhole(ctx context.Context, id chunk.ID, dst []index.Location) ([]index.Location, error) {
	had := len(dst)
	var damage error
	for _, r := range x.Runs() {
		locs, err := r.Lookup(ctx, id, dst)
		switch {
		case err == nil:
			dst = locs
		case errors.Is(err, key.ErrDamaged):
			damage = err
		default:
			return dst, err
		}
	}
	if len(dst) > had {
		damage = nil
	}
	return dst, damage
}
