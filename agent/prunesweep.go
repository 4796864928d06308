package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/log"
)

// maxCondemnShare is the share of the vault's bytes, in percent, that one prune may
// condemn unasked.
const maxCondemnShare = 30

// deletesAtOnce bounds the deletions under way: a far store takes its time for each.
const deletesAtOnce = 8

// doomed are the packs and runs that nothing needs and that nobody condemned yet.
func (p *prune) doomed() (packs, runs []chunk.ID) {
	st := p.s.vault.Log.State()
	condemned := map[chunk.ID]bool{}
	for _, r := range st.PendingPacks() {
		condemned[r.ID] = true
	}
	packs, runs = p.orphans()
	for id, u := range p.use {
		if u.dead() && !condemned[id] && !st.Swept(id) {
			packs = append(packs, id)
		}
	}
	slices.SortFunc(packs, chunk.ID.Compare)
	slices.SortFunc(runs, chunk.ID.Compare)
	return packs, runs
}

// condemn announces what nothing needs. From this entry on no point may use it.
func (p *prune) condemn(ctx context.Context) error {
	for {
		packs, _ := p.doomed()
		if err := p.prove(ctx, packs); err != nil {
			return err
		}
		var named []chunk.ID
		more, err := p.append(ctx, func() log.Body {
			packs, runs := p.proved()
			if len(packs)+len(runs) == 0 {
				return nil
			}
			named = packs[:min(len(packs), maxNamed)]
			return &log.Condemn{Packs: named, Runs: runs[:min(len(runs), maxNamed)]}
		})
		if err != nil {
			return fmt.Errorf("condemn packs: %w", err)
		}
		if !more {
			p.totals()
			return nil
		}
		p.res.Condemned += int64(len(named))
		p.res.CondemnedBytes += p.bytesOf(named)
	}
}

// proved are the doomed packs and runs less those of which it is not proven, or not
// any more, that others have what is needed of them.
func (p *prune) proved() (packs, runs []chunk.ID) {
	packs, runs = p.doomed()
	packs = slices.DeleteFunc(packs, func(id chunk.ID) bool {
		u := p.use[id]
		_, proven := p.proven[id]
		return u != nil && u.shadow > 0 && !proven
	})
	return packs, runs
}

// totals counts what the vault holds.
func (p *prune) totals() (all int64) {
	st := p.s.vault.Log.State()
	p.res.LiveBytes = 0
	for id, u := range p.use {
		p.res.LiveBytes += int64(u.live)
		if o, there := p.packs[id]; there && st.Usable(id) {
			all += o.Size
		}
	}
	p.res.PackBytes = all
	return max(all, 1)
}

func (p *prune) bytesOf(packs []chunk.ID) (n int64) {
	for _, id := range packs {
		if u := p.use[id]; u != nil {
			n += int64(u.length)
		} else {
			n += p.packs[id].Size
		}
	}
	return n
}

// due are the condemned packs and the runs whose grace is over. A pack that has the
// last copy of something needed stays: it was condemned when another had it too.
func (p *prune) due() (packs, runs []chunk.ID) {
	p.res.Waiting, p.res.NextSweep = 0, time.Time{}
	over := func(r log.Retired) bool {
		from := time.Unix(0, r.Time).Add(sweepGrace)
		if !p.now.Before(from) {
			return true
		}
		p.res.Waiting++
		if p.res.NextSweep.IsZero() || from.Before(p.res.NextSweep) {
			p.res.NextSweep = from
		}
		return false
	}
	st := p.s.vault.Log.State()
	for _, r := range st.PendingPacks() {
		if u := p.use[r.ID]; (u == nil || !u.last) && over(r) {
			packs = append(packs, r.ID)
		}
	}
	for _, r := range st.PendingRuns() {
		if !st.RunLive(r.ID) && over(r) {
			runs = append(runs, r.ID)
		}
	}
	return packs, runs
}

// sweep says which packs and runs are deleted now, and deletes them. What an
// earlier sweep said and did not come to is deleted too.
func (p *prune) sweep(ctx context.Context) error {
	if p.late {
		return nil // purge does it
	}
	for {
		more, err := p.append(ctx, func() log.Body {
			packs, runs := p.due()
			if len(packs)+len(runs) == 0 {
				return nil
			}
			return &log.Swept{Packs: packs[:min(len(packs), maxNamed)], Runs: runs[:min(len(runs), maxNamed)]}
		})
		if err != nil {
			return fmt.Errorf("sweep: %w", err)
		}
		if !more {
			return p.delete(ctx)
		}
	}
}

// delete deletes what the log says is swept and the backend still has.
func (p *prune) delete(ctx context.Context) error {
	err := p.remove(ctx, p.leftovers())
	swept := p.s.vault.Log.State().Swept
	gone := func(id chunk.ID, _ backend.Info) bool { return swept(id) }
	maps.DeleteFunc(p.packs, gone)
	maps.DeleteFunc(p.runs, gone)
	return err
}

// remove deletes objects that nobody needs any more.
func (p *prune) remove(ctx context.Context, objects []backend.Info) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(deletesAtOnce)
	for _, o := range objects {
		p.res.Swept++
		p.res.FreedBytes += o.Size
		g.Go(func() error {
			if err := p.s.backend.Delete(ctx, o.Name); err != nil && !errors.Is(err, backend.ErrNotFound) {
				return fmt.Errorf("delete %s: %w", o.Name, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// leftovers are listed objects that the log says are swept.
func (p *prune) leftovers() (all []backend.Info) {
	st := p.s.vault.Log.State()
	for id, o := range p.packs {
		if st.Swept(id) {
			all = append(all, o)
		}
	}
	for id, o := range p.runs {
		if st.Swept(id) && !st.RunLive(id) {
			all = append(all, o)
		}
	}
	return all
}

// maxDeadRows is the share of the index, in percent, that may be of packs that are gone.
const maxDeadRows = 25

// clean merges the index where much of it is about packs that are gone.
func (p *prune) clean(ctx context.Context) error {
	st := p.s.vault.Log.State()
	rows, gone := uint64(0), uint64(0)
	for id, u := range p.use {
		rows += u.rows
		if st.Swept(id) {
			gone += u.rows
		}
	}
	if gone*100 > rows*maxDeadRows {
		err := p.s.mergeInto(ctx, p.index.Runs(), p.admin)
		if errors.Is(err, syscall.ENOSPC) {
			p.s.log.Warn("merge index runs", "err", err)
		} else if err != nil && !errors.Is(err, errSuperseded) {
			return err
		}
	}
	p.s.tidy(ctx)
	return nil
}
