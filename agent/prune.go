package agent

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/index"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
)

// ErrConfirm is returned by Prune where it would do what may be a mistake, and
// was not told to do it all the same. Nothing was changed.
var ErrConfirm = errors.New("not done without confirmation")

// sweepGrace is how long a condemned pack stays: whoever read an older log gets
// what it wants from it until then (DESIGN §4).
const sweepGrace = 72 * time.Hour

// maxMoved bounds how often a prune looks again since other machines wrote to
// the log while it counted. Each time costs what they wrote, not what there is.
const maxMoved = 100

// errMoved ends an append whose log is not the one that was counted by.
var errMoved = errors.New("other machines write to the vault all the time; try again later")

// PruneOptions say how far a prune goes.
type PruneOptions struct {
	// DryRun changes nothing and tells what would be done.
	DryRun bool
	// Confirm lets it go on where a guard rail stops it.
	Confirm bool
	// MaxRepack bounds the bytes of packs that are written anew: 0 does not, less
	// than 0 repacks nothing.
	MaxRepack int64
}

// PruneResult is what a prune did, or would do.
type PruneResult struct {
	Purged         int64 // points that ended for good
	Condemned      int64 // packs that nothing needs, announced for deletion
	CondemnedBytes int64
	Repacked       int64 // packs whose rest was written anew
	RepackedBytes  int64 // bytes of those packs
	WrittenBytes   int64 // bytes of the packs that took their place
	Swept          int64 // objects deleted
	FreedBytes     int64
	Waiting        int64     // packs and runs that wait for the end of their grace
	NextSweep      time.Time // when the first of them can go; zero for none
	LiveBytes      int64     // of the packs, what points need
	PackBytes      int64     // bytes of all packs that are not condemned
	Duration       time.Duration
}

// prune is one prune under way. Its steps can each end at any time, and another
// machine can do the next one: all that was decided stands in the log.
type prune struct {
	s     *Session
	o     PruneOptions
	res   PruneResult
	admin ed25519.PrivateKey

	now    time.Time                // by the local clock
	listed map[string]backend.Info  // packs/ and index/
	stored time.Time                // the backend's time at that listing, if it tells
	ended  map[log.PointID]struct{} // what a dry run would purge

	index *vault.Index
	live  *index.Live
	pages *vault.Pages
	at    log.Head // the log that marking and counting are about
	use   map[chunk.ID]*packUse
	moved map[chunk.ID]struct{} // packs whose rest this prune wrote anew
}

// Prune ends the points whose soft-delete period is over, announces the packs that
// no point needs, writes those anew of which most is dead, and deletes what was
// announced long enough ago. Any error while it looks for what is needed ends it
// before anything is announced. The home must be locked.
//
// It is safe beside backups, restores and other prunes of any machine: an entry
// that would say of a pack that it goes is only written while the log is still the
// one by which nothing needed it.
func (s *Session) Prune(ctx context.Context, o PruneOptions) (PruneResult, error) {
	p := &prune{s: s, o: o, now: s.now(), ended: map[log.PointID]struct{}{}, moved: map[chunk.ID]struct{}{}}
	err := p.run(ctx)
	p.res.Duration = s.now().Sub(p.now)
	return p.res, err
}

func (p *prune) run(ctx context.Context) error {
	s := p.s
	if s.vault.Config.Mode == key.ModeOwner && s.owner() != s.machine.ID {
		return errOwned
	}
	if err := s.refresh(ctx); err != nil {
		return err
	}
	if !p.o.DryRun {
		var err error
		if p.admin, err = s.admin(ctx, "prune"); err != nil {
			return err
		}
		if err := s.withRoom(ctx, p.checkClock); err != nil {
			return err
		}
		defer s.restock()
	}
	for _, step := range []func(context.Context) error{
		p.note, p.purge, p.list, p.survey, p.repack, p.condemn, p.sweep, p.clean,
	} {
		if err := s.withRoom(ctx, step); err != nil {
			return err
		}
	}
	return nil
}

// append writes an entry under the admin key, as long as the log is the one that
// was counted by; else it counts again and asks build again. A nil body ends it.
func (p *prune) append(ctx context.Context, build func() log.Body) error {
	for try := 0; ; try++ {
		body := build()
		if body == nil {
			return nil
		}
		at, err := p.s.vault.Log.Append(ctx, p.admin, func(st *log.State) (log.Body, error) {
			if st.Head() != p.at {
				return nil, errMoved
			}
			return body, nil
		})
		if errors.Is(err, errMoved) && try < maxMoved {
			if err := p.recount(ctx); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		p.at = at
		return nil
	}
}

// note tells the log that an admin has seen the FORGETs: their period runs from now.
func (p *prune) note(ctx context.Context) error {
	st := p.s.vault.Log.State()
	if p.o.DryRun || len(st.Unnoted()) == 0 {
		return nil
	}
	if last := time.Unix(0, st.Time()); p.now.Before(last.Add(-maxSkew)) {
		// A period that begins in the past would end early.
		p.s.note(Note{Info, "", "this machine's clock is behind the vault's log: the period of newly deleted points does not begin yet"})
		return nil
	}
	_, err := p.s.vault.Log.Append(ctx, p.admin, func(st *log.State) (log.Body, error) {
		return &log.Noted{Forgets: st.Unnoted()}, nil
	})
	if err != nil {
		return fmt.Errorf("note deleted points: %w", err)
	}
	return nil
}

// purge ends the points whose soft-delete period is over.
func (p *prune) purge(ctx context.Context) error {
	st := p.s.vault.Log.State()
	due := p.purgeable(st)
	if len(due) == 0 {
		return nil
	}
	if all := len(st.Points()); 2*len(due) > all && !p.o.Confirm && !p.o.DryRun {
		return fmt.Errorf("%w: it would end %d of the vault's %d points for good", ErrConfirm, len(due), all)
	}
	if p.o.DryRun {
		for _, id := range due {
			p.ended[id] = struct{}{}
		}
		p.res.Purged = int64(len(due))
		return nil
	}
	for len(due) > 0 {
		n := min(len(due), maxNamed)
		if err := p.purgeSome(ctx, due[:n]); err != nil {
			return fmt.Errorf("purge points: %w", err)
		}
		due = due[n:]
	}
	return nil
}

// maxNamed is how many points or packs one entry names: well below what its
// body holds (docs/FORMAT.md §10), so that it is read and written at once.
const maxNamed = 16 << 10

func (p *prune) purgeable(st *log.State) (due []log.PointID) {
	for _, point := range st.Points() {
		if from, ok := st.PurgeableFrom(point.Point.ID); ok && !p.now.Before(from) {
			due = append(due, point.Point.ID)
		}
	}
	return due
}

// errNothing ends an append that has become needless.
var errNothing = errors.New("nothing to do")

// purgeSome purges those that are still to be purged when the entry is written:
// someone may have brought one back, or held it.
func (p *prune) purgeSome(ctx context.Context, ids []log.PointID) error {
	var still []log.PointID
	_, err := p.s.vault.Log.Append(ctx, p.admin, func(st *log.State) (log.Body, error) {
		still = nil
		for _, id := range ids {
			if from, ok := st.PurgeableFrom(id); ok && !p.now.Before(from) {
				still = append(still, id)
			}
		}
		if len(still) == 0 {
			return nil, errNothing
		}
		return &log.Purge{Points: still}, nil
	})
	if errors.Is(err, errNothing) {
		return nil
	}
	if err == nil {
		p.res.Purged += int64(len(still))
	}
	return err
}

func (p *prune) progress(phase string, done, of int64) {
	if r := p.s.env.Report; r != nil {
		r.Progress(Progress{Phase: phase, Bytes: done, TotalBytes: of})
	}
}
