package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/index"
	"github.com/tharsis-backup/tharsis/vault/log"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// RepairOptions say how to repair.
type RepairOptions struct {
	DryRun bool // only say what would be done
}

// RepairResult is what a repair did, or would do, and what remains lost.
type RepairResult struct {
	Runs        int64 // damaged or missing index runs that were replaced
	Packs       int64 // packs whose directories are in the new run
	Quarantined int64 // packs that were put into quarantine: damaged or missing
	// Damage names what is not whole, as a check does: objects, and the files of
	// points that are hurt. At most MaxDamageReports.
	Damage []Damage
	// What remains lost. A file counts once for each point that has it; Bytes are of
	// the content that these files lack, as far as that is known.
	Points, Files, Bytes int64
	Duration             time.Duration
}

// Repair makes the vault's index anew where it is damaged or missing, from the packs'
// directories, and puts packs into quarantine that are missing or whose directories
// are damaged. It deletes nothing, and can be run again at any time: killed, it
// leaves a run that nothing names. Unless it is a dry run the home must be locked.
//
// Of the content of packs it reads only what is in quarantine. Where it made an index
// anew, a check of the data should follow: one before could not know all packs.
func (s *Session) Repair(ctx context.Context, o RepairOptions) (RepairResult, error) {
	begun := s.now()
	if !o.DryRun {
		if err := s.beginWriting(ctx); err != nil {
			return RepairResult{}, err
		}
	}
	r := &repair{s: s, o: o, c: s.newVerify(VerifyOptions{}, depthDirectory)}
	r.c.mends = true
	defer r.close()
	err := r.run(ctx)
	r.res.Damage = r.c.damage
	r.res.Points, r.res.Files, r.res.Bytes = int64(len(r.c.lost.points)), r.c.lost.files, r.c.lost.bytes
	r.res.Duration = s.now().Sub(begun)
	return r.res, err
}

// repair is one repair under way: a check, and what follows from it.
type repair struct {
	s   *Session
	o   RepairOptions
	c   *verify
	bad []*runState // live runs that are to be superseded
	rb  *vault.Rebuild
	res RepairResult

	mu     sync.Mutex         // guards the rest, and c.packs, while directories are read
	taken  map[chunk.ID]bool  // packs whose directories are read
	unread map[chunk.ID]error // packs whose directories are damaged, and how
	held   []chunk.ID         // packs in quarantine that the check did not know
}

func (r *repair) close() {
	if r.rb != nil {
		r.rb.Close()
	}
}

func (r *repair) run(ctx context.Context) error {
	c := r.c
	if err := c.steps(ctx, c.begin, c.checkRuns, c.checkPacks); err != nil {
		return err
	}
	for _, run := range c.runs {
		if run.live && run.bad {
			r.bad = append(r.bad, run)
		}
	}
	if len(r.bad) == 0 {
		if err := c.checkPoints(ctx); err != nil {
			return err
		}
	}
	if len(r.bad) > 0 || c.lost.nowhere > 0 {
		if err := r.gather(ctx); err != nil {
			return err
		}
		if err := r.checkAnew(ctx); err != nil {
			return err
		}
	}
	return c.steps(ctx, r.distrust, r.replace, c.reportPacks)
}

// checkAnew looks at the points as they will be with the new run in the place of the
// bad ones.
func (r *repair) checkAnew(ctx context.Context) error {
	c := r.c
	r.res.Runs, r.res.Packs = int64(len(r.bad)), r.rb.Packs()
	fresh, err := r.rb.Runs(ctx)
	if err != nil {
		return err
	}
	// Not nil, even where no run is left: that would mean those of the log.
	runs := append(append(make([]*index.Run, 0, len(fresh)), fresh...), r.goodRuns()...)
	if c.index, err = c.v.OpenIndex(ctx, vault.IndexOptions{Tolerant: true, Runs: runs}); err != nil {
		return err
	}
	for _, id := range r.held {
		c.packs[id].depth = depthData
	}
	if err := c.lookInto(ctx, r.held); err != nil {
		return err
	}
	c.damage = slices.DeleteFunc(c.damage, func(d Damage) bool { return d.Object == "" })
	return c.checkPoints(ctx)
}

// distrust takes trust from packs that are not whole. It does so before the new run is
// named: the index that is then whole does not know what was lost, and a job that
// finds nothing else wrong looks up nothing that it carries over.
func (r *repair) distrust(ctx context.Context) (err error) {
	if r.o.DryRun {
		r.res.Quarantined = int64(len(r.c.suspects()))
		return nil
	}
	r.res.Quarantined, err = r.s.distrust(ctx, r.c, "found damaged or missing by a repair")
	return err
}

// gather reads the directories of all packs that no good run names.
func (r *repair) gather(ctx context.Context) error {
	c := r.c
	r.taken, r.unread = map[chunk.ID]bool{}, map[chunk.ID]error{}
	r.rb = c.v.NewRebuild(r.s.cache.SpoolDir())
	dirs := newDirectoryReader(ctx, c.v, r.rb)
	dirs.added, dirs.unread = r.added, r.cannotRead
	err := r.s.strays(ctx, r.goodRuns(), func(id chunk.ID, length uint64) error {
		r.mu.Lock()
		r.taken[id] = true
		r.mu.Unlock()
		return dirs.read(id, length)
	})
	for id, length := range r.unlisted() {
		if err == nil {
			err = dirs.read(id, length)
		}
	}
	if werr := dirs.wait(); err == nil {
		err = werr
	}
	if err != nil {
		return err
	}
	return r.salvage(ctx)
}

func (r *repair) goodRuns() (good []*index.Run) {
	for _, run := range r.c.runs {
		if run.live && !run.bad {
			good = append(good, run.run)
		}
	}
	return good
}

// unlisted are packs that only bad runs name and that the list did not have when it
// was read for the strays, but are there: a list may be behind.
func (r *repair) unlisted() map[chunk.ID]uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	st := r.c.v.Log.State()
	more := map[chunk.ID]uint64{}
	for id, p := range r.c.packs {
		named := slices.ContainsFunc(p.rows, func(row packRows) bool { return row.run.live && !row.run.bad })
		if !named && !r.taken[id] && !p.absent && !st.Swept(id) {
			more[id] = p.length
		}
	}
	return more
}

// added makes the check know a pack that is in the new run.
func (r *repair) added(dir *pack.Directory) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.c.packs[dir.ID]; p == nil || p.absent {
		r.c.packs[dir.ID] = &packState{typ: dir.Type, length: dir.Length}
		if r.c.quarantined[dir.ID] {
			r.held = append(r.held, dir.ID)
		}
	}
	r.c.object(pack.Name(dir.ID))
}

func (r *repair) cannotRead(id chunk.ID, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unread[id] = err
}

// salvage adds what the bad runs still say of packs whose directories are damaged. Of
// the rest nobody knows what they hold.
func (r *repair) salvage(ctx context.Context) error {
	c := r.c
	for _, run := range r.bad {
		if run.run == nil || len(r.unread) == 0 {
			continue
		}
		dirs, err := run.run.Salvage(ctx, func(id chunk.ID) bool { return r.unread[id] != nil })
		if err != nil {
			return fmt.Errorf("read index run %s: %w", run.id.Short(), err)
		}
		for i := range dirs {
			d := &dirs[i]
			if there, err := c.v.HasPack(ctx, *d); err != nil || !there {
				return err
			}
			if err := r.rb.Add(ctx, *d); err != nil {
				return err
			}
			if c.packs[d.ID] == nil {
				c.packs[d.ID] = &packState{typ: d.Type, length: d.Length, wrong: r.unread[d.ID]}
			}
			delete(r.unread, d.ID)
		}
	}
	for id, err := range r.unread {
		if c.packs[id] == nil {
			c.bad(pack.Name(id), fmt.Errorf("%s; no index says what it holds", damageText(err)))
		}
	}
	return nil
}

// replace stores the new run and names it in the log in the place of the bad ones.
// Between the two a kill leaves a run that nothing names.
func (r *repair) replace(ctx context.Context) error {
	if r.rb == nil || r.o.DryRun {
		return nil
	}
	adds, err := storedRun(r.rb.Store(ctx, r.s.keepCopy))
	if err != nil {
		return err
	}
	err = r.s.replaceRuns(ctx, r.s.machine.Key, adds, func(st *log.State) (old []chunk.ID, err error) {
		for _, run := range r.bad {
			if st.RunLive(run.id) { // else another machine was faster
				old = append(old, run.id)
			}
		}
		if len(adds)+len(old) == 0 {
			err = errNothingToDo
		}
		return old, err
	})
	if err != nil && !errors.Is(err, errNothingToDo) {
		return err
	}
	return r.s.saveHead()
}
