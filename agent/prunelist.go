package agent

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/index"
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
)

// checkClock refuses to count days by a clock that may be wrong. A wrong clock
// could end a soft-delete period or a grace early; nothing else depends on it.
func (p *prune) checkClock(ctx context.Context) error {
	var err error
	if p.stored, err = p.s.backendTime(ctx); err != nil {
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

// backendTime is the time by the backend's clock; zero where it does not tell.
func (s *Session) backendTime(ctx context.Context) (t time.Time, err error) {
	var r [16]byte
	if err := s.random(r[:]); err != nil {
		return t, err
	}
	name := "probe/" + hex.EncodeToString(r[:])
	if err := backend.PutBytes(ctx, s.backend, name, nil); err != nil {
		return t, fmt.Errorf("ask the store for its time: %w", err)
	}
	defer s.backend.Delete(context.WithoutCancel(ctx), name)
	for info, err := range s.backend.List(ctx, name) {
		if err != nil {
			return t, fmt.Errorf("ask the store for its time: %w", err)
		}
		t = info.Modified
	}
	return t, nil
}

// list asks the backend which packs and runs there are. It only ever nominates what
// no entry of the log names; what the log names is judged by the log.
func (p *prune) list(ctx context.Context) error {
	p.listed = map[string]backend.Info{}
	for _, prefix := range []string{"packs/", "index/"} {
		for info, err := range p.s.backend.List(ctx, prefix) {
			if err != nil {
				return fmt.Errorf("list %s: %w; nothing was condemned", prefix, err)
			}
			p.listed[info.Name] = info
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
		info, there := p.listed[index.Name(r.ID)]
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
	pending := map[chunk.ID]bool{}
	for _, r := range st.PendingRuns() {
		pending[r.ID] = true
	}
	for name, info := range p.listed {
		id, isPack, ok := objectID(name)
		if !ok || p.stored.IsZero() || info.Modified.IsZero() || p.stored.Sub(info.Modified) < orphanAge || st.Swept(id) {
			continue
		}
		switch {
		case isPack && p.named != nil && p.use[id] == nil && !p.named[id] && !p.had(id) && st.Usable(id):
			packs = append(packs, id)
		case !isPack && !st.RunLive(id) && !st.RunGone(id) && !pending[id]:
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

// objectID is the ID in the name of a pack or an index run.
func objectID(name string) (id chunk.ID, isPack, ok bool) {
	digits, isRun := strings.CutPrefix(name, "index/")
	if !isRun {
		i := strings.LastIndexByte(name, '/')
		digits = name[i+1:]
	}
	b, err := hex.DecodeString(digits)
	if err != nil || len(b) != len(id) {
		return id, false, false
	}
	id = chunk.ID(b)
	return id, !isRun, name == index.Name(id) || !isRun
}
