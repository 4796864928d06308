package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/index"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// runState is what a check knows of an index run that was not swept.
type runState struct {
	id   chunk.ID
	live bool       // else a merge superseded it
	run  *index.Run // nil where it cannot be opened
	bad  bool       // missing, damaged, or wrong about a pack

	wrong int64 // packs that it is wrong about
}

// packRows stand for what a run says of a pack.
type packRows struct {
	run    *runState
	typ    uint8
	length uint64
	sum    index.Sum
}

// checkRuns checks every index run that was not swept: the live ones, and those
// that a merge superseded.
func (c *verify) checkRuns(ctx context.Context) (err error) {
	st := c.v.Log.State()
	for _, id := range st.Runs() {
		c.runs = append(c.runs, &runState{id: id, live: true})
	}
	for _, r := range st.PendingRuns() {
		if !st.RunLive(r.ID) && !c.mends {
			c.runs = append(c.runs, &runState{id: r.ID})
		}
	}
	for _, r := range c.runs {
		c.object(index.Name(r.id))
		if err := c.badRun(r, c.checkRun(ctx, r)); err != nil {
			return err
		}
	}
	c.index, err = c.v.OpenIndex(ctx, vault.IndexOptions{Tolerant: true})
	return err
}

// badRun reports what is wrong with a run, if anything is. If a point that a check is
// about needs the run, the point is hurt, and that is said of it.
func (c *verify) badRun(r *runState, err error) error {
	if err != nil && isFinding(err) {
		r.bad = true
		if c.point != nil {
			return nil
		}
		if !r.live {
			c.harmless++
			err = fmt.Errorf("%w: %s; it is superseded, %s", key.ErrDamaged, damageText(err), sweptBy)
		}
	}
	return c.found(index.Name(r.id), err)
}

// checkRun opens a run and takes note of the packs that it names, as many as can be
// read; where packs are looked into, every byte of it is read.
func (c *verify) checkRun(ctx context.Context, r *runState) error {
	name := index.Name(r.id)
	size, err := c.size(ctx, name)
	if err != nil {
		return err
	}
	r.run, err = index.OpenRun(ctx, c.v.Ring, r.id, index.ObjectSource(c.s.backend, name), size, c.blocks)
	if err != nil {
		return err
	}
	if c.summer != nil {
		c.bytes.Add(size)
		err = r.run.Sums(ctx, c.summer, func(p *index.PackRow, sum index.Sum) error {
			st := c.packOf(p)
			st.rows = append(st.rows, packRows{r, p.Type, p.Length, sum})
			return nil
		})
		if err == nil || !isFinding(err) {
			return err
		}
	}
	for p, perr := range r.run.Packs(ctx) {
		if perr != nil {
			return errors.Join(err, perr)
		}
		c.packOf(&p)
	}
	return err
}

// packOf is the state of the pack of a row.
func (c *verify) packOf(p *index.PackRow) *packState {
	st := c.packs[p.ID]
	if st == nil {
		st = &packState{typ: p.Type, length: p.Length}
		c.packs[p.ID] = st
	}
	return st
}

// compareRows compares what the runs say of a pack with its directory. Where a run
// is wrong, its places of the pack are believed no more than the directory says.
func (c *verify) compareRows(p *packState, dir *pack.Directory) {
	if len(p.rows) == 0 {
		return
	}
	sum := c.summer.Directory(dir)
	for i := range p.rows {
		if p.rows[i].sum != sum {
			p.disputed = dir
			c.mu.Lock()
			p.rows[i].run.wrong++
			c.mu.Unlock()
		}
	}
}

// reportWrong reports the runs that are wrong about packs.
func (c *verify) reportWrong() error {
	for _, r := range c.runs {
		if r.wrong == 0 || r.bad {
			continue
		}
		err := fmt.Errorf("%w: what it says of %d packs is not what the packs' directories say", key.ErrDamaged, r.wrong)
		if err := c.badRun(r, err); err != nil {
			return err
		}
	}
	return nil
}
