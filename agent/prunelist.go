package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/index"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

const (
	// maxSkew is how far the local clock may be off the backend's.
	maxSkew = 5 * time.Minute
	// maxJump is how long nothing may have been written: the next entry after a
	// longer time is more likely of a clock that is wrong.
	maxJump = 7 * 24 * time.Hour
	// orphanAge is how old an object must be that no entry ever named before it
	// counts as left by a killed job.
	orphanAge = 7 * 24 * time.Hour
	// probeAge is how old a probe must be: who made it reads it at once.
	probeAge = 24 * time.Hour
)

// checkClock refuses to count days by a clock that may be wrong. A wrong clock
// could end a soft-delete period or a grace early; nothing else depends on it.
func (p *prune) checkClock(ctx context.Context) error {
	var err error
	if p.stored, err = vault.StoreTime(ctx, p.s.backend, p.s.randomness()); err != nil {
		return err
	}
	if p.o.Confirm {
		return nil
	}
	if !p.stored.IsZero() {
		if off := p.now.Sub(p.stored); off.Abs() > maxSkew {
			return fmt.Errorf("%w: this machine's clock is %s off that of the vault's store", ErrConfirm, off.Round(time.Second))
		}
	}
	last := time.Unix(0, p.s.vault.Log.State().Time())
	if p.now.Sub(last) > maxJump {
		return fmt.Errorf("%w: by this machine's clock nobody wrote to the vault for %d days", ErrConfirm, int(p.now.Sub(last).Hours()/24))
	}
	return nil
}

// list asks the backend which packs and runs there are. It only ever nominates what
// no entry of the log names; what the log names is judged by the log.
func (p *prune) list(ctx context.Context) error {
	p.packs, p.runs = map[chunk.ID]backend.Info{}, map[chunk.ID]backend.Info{}
	for _, of := range []struct {
		prefix string
		id     func(name string) (chunk.ID, bool)
		to     map[chunk.ID]backend.Info
	}{{pack.Prefix, pack.IDOf, p.packs}, {index.Prefix, index.IDOf, p.runs}} {
		for info, err := range p.s.backend.List(ctx, of.prefix) {
			if err != nil {
				return fmt.Errorf("list %s: %w; nothing was condemned", of.prefix, err)
			}
			if id, ok := of.id(info.Name); ok {
				of.to[id] = info
			}
		}
	}
	return nil
}

// superseded reads which packs the runs name that were superseded and not yet swept: an
// entry named those, whatever the runs say that took their place. Where one cannot be
// read, no pack counts as one that no entry named.
func (p *prune) superseded(ctx context.Context) error {
	packs := map[chunk.ID]bool{}
	for _, r := range p.s.vault.Log.State().PendingRuns() {
		info, there := p.runs[r.ID]
		if !there {
			return nil
		}
		run, err := index.OpenRun(ctx, p.s.vault.Ring, r.ID, index.ObjectSource(p.s.backend, info.Name), info.Size, nil)
		if err == nil {
			for pk, perr := range run.Packs(ctx) {
				if err = perr; err != nil {
					break
				}
				packs[pk.ID] = true
			}
		}
		if isFinding(err) {
			return nil
		}
		if err != nil {
			return p.unsure(err)
		}
	}
	p.named = packs
	return nil
}

// orphans are listed packs and runs that no entry names, long after they were
// stored.
func (p *prune) orphans() (packs, runs []chunk.ID) {
	st := p.s.vault.Log.State()
	old := func(o backend.Info) bool {
		return !p.stored.IsZero() && !o.Modified.IsZero() && p.stored.Sub(o.Modified) >= orphanAge
	}
	for id, o := range p.packs {
		if p.named != nil && p.use[id] == nil && !p.named[id] && !p.had(id) && st.Usable(id) && old(o) {
			packs = append(packs, id)
		}
	}
	for id, o := range p.runs {
		if !st.RunLive(id) && !st.RunGone(id) && old(o) {
			runs = append(runs, id)
		}
	}
	return packs, runs
}

// had tells whether the index named a pack when the prune began.
func (p *prune) had(id chunk.ID) bool {
	_, ok := p.known[id]
	return ok
}

// oldProbes lists what probes left that died. No entry of the log ever names a probe,
// so none is needed to delete it.
func (p *prune) oldProbes(ctx context.Context) ([]backend.Info, error) {
	if p.stored.IsZero() {
		return nil, nil
	}
	return vault.OldProbes(ctx, p.s.backend, p.stored.Add(-probeAge))
}

// probes deletes them.
func (p *prune) probes(ctx context.Context) error {
	old, err := p.oldProbes(ctx)
	if err != nil {
		return err
	}
	return p.remove(ctx, old)
}
