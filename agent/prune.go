package agent

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/index"
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

// maxOvertaken bounds how often a prune starts over since what it missed may have been
// of a point that another prune ended meanwhile.
const maxOvertaken = 5

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

	now    time.Time                 // by the local clock
	packs  map[chunk.ID]backend.Info // as listed
	runs   map[chunk.ID]backend.Info // as listed
	named  map[chunk.ID]bool         // packs of superseded runs; nil: not known
	stored time.Time                 // the backend's time at that listing, if it tells
	ended  map[log.PointID]struct{}  // points that the plan takes for purged
	late   bool                      // they can't be marked: sweep when they are purged

	index *vault.Index
	live  *index.Live
	pages *vault.Pages
	at    uint64 // State.Used of the log that marking and counting are about
	lost  int    // packs that it distrusts
	use   map[chunk.ID]*packUse

	known   map[chunk.ID]struct{} // packs that the index had when the prune began
	moved   map[chunk.ID]struct{} // packs whose rest this prune wrote anew
	written map[chunk.ID]struct{} // where to; read back
	proven  map[chunk.ID]struct{} // packs of which other packs have all that is needed, as was read
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
	begun := s.now()
	var res PruneResult
	for try := 0; ; try++ {
		head := s.vault.Log.Head()
		p := s.newPrune(o)
		p.res = res
		err := p.run(ctx)
		res = p.res
		if s.movedOn(ctx, err, head) && try < maxOvertaken {
			s.log.Warn("start over with a newer log", "reason", err)
			continue
		}
		res.Duration = s.now().Sub(begun)
		return res, err
	}
}

func (s *Session) newPrune(o PruneOptions) *prune {
	none := func() map[chunk.ID]struct{} { return map[chunk.ID]struct{}{} }
	return &prune{s: s, o: o, now: s.now(), moved: none(), written: none(), proven: none()}
}

func (p *prune) run(ctx context.Context) error {
	s := p.s
	if p.o.DryRun {
		return p.dryRun(ctx)
	}
	if err := s.withRoom(ctx, s.beginWriting); err != nil {
		return err
	}
	var err error
	if p.admin, err = s.admin(ctx, "prune"); err != nil {
		return err
	}
	defer s.restock()
	// What an earlier prune said is deleted needs neither a clock nor room.
	if err := errors.Join(p.list(ctx), p.delete(ctx)); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{
		p.checkClock, p.probes, p.note, p.superseded, p.survey, p.sweep, p.plan, p.guard, p.purge, p.repack, p.condemn, p.clean,
	} {
		if err := s.withRoom(ctx, step); err != nil {
			return err
		}
	}
	return nil
}

// dryRun counts what a prune would do. What it would write anew is not written, so
// what that frees is not among what it would condemn.
func (p *prune) dryRun(ctx context.Context) error {
	if err := p.s.refresh(ctx); err != nil {
		return err
	}
	p.stored = p.now // the store is not asked, since that writes to it
	if err := errors.Join(p.list(ctx), p.superseded(ctx), p.survey(ctx)); err != nil {
		return err
	}
	due, runs := p.due()
	left, err := p.oldProbes(ctx)
	if err != nil {
		return err
	}
	left = append(left, p.leftovers()...)
	for _, id := range due {
		left = append(left, p.packs[id])
	}
	for _, id := range runs {
		left = append(left, p.runs[id])
	}
	if err := p.plan(ctx); err != nil {
		return err
	}
	p.res.Purged = int64(len(p.ended))
	for id := range p.candidates() {
		p.res.Repacked++
		p.res.RepackedBytes += int64(p.use[id].length)
	}
	packs, _ := p.doomed()
	p.res.Condemned, p.res.CondemnedBytes = int64(len(packs)), p.bytesOf(packs)
	p.totals()
	p.res.Swept = int64(len(left))
	for _, o := range left {
		p.res.FreedBytes += o.Size
	}
	return nil
}

// append writes an entry under the admin key, as long as the log is the one that
// was counted by; else it counts again and asks build again. With a nil body there
// is nothing to write, and it returns false.
func (p *prune) append(ctx context.Context, build func() log.Body) (bool, error) {
	for try := 0; ; try++ {
		body := build()
		if body == nil {
			return false, nil
		}
		_, err := p.s.vault.Log.Append(ctx, p.admin, func(st *log.State) (log.Body, error) {
			if st.Used() != p.at {
				return nil, errMoved
			}
			return body, nil
		})
		if errors.Is(err, errMoved) && try < maxMoved {
			if err := p.catchUp(ctx); err != nil {
				return false, err
			}
			continue
		}
		if err != nil {
			return false, err
		}
		st := p.s.vault.Log.State()
		p.at, p.lost = st.Used(), st.Unusable()
		return true, nil
	}
}

// note starts the soft-delete periods of what was deleted since.
func (p *prune) note(ctx context.Context) error {
	return p.s.noteForgets(ctx, p.admin, p.o.Confirm)
}

// plan counts as if the points whose soft-delete period is over were purged.
func (p *prune) plan(ctx context.Context) error {
	if p.late || !p.over() {
		return nil
	}
	return p.countAgain(ctx, true)
}

// over finds the points whose soft-delete period is over, and tells whether there are any.
func (p *prune) over() bool {
	p.ended = map[log.PointID]struct{}{}
	st := p.s.vault.Log.State()
	for _, point := range st.Points() {
		if id := point.Point.ID; p.purgeable(st, id) {
			p.ended[id] = struct{}{}
		}
	}
	return len(p.ended) > 0
}

// guard asks before much goes: nothing was changed yet.
func (p *prune) guard(context.Context) error {
	if p.o.Confirm {
		return nil
	}
	if all := len(p.s.vault.Log.State().Points()); 2*len(p.ended) > all {
		return fmt.Errorf("%w: it would end %d of the vault's %d points for good", ErrConfirm, len(p.ended), all)
	}
	gone, all := int64(0), p.totals()
	from := p.candidates()
	for id, u := range p.use {
		if _, goes := from[id]; goes || u.dead() && p.s.vault.Log.State().Usable(id) {
			gone += int64(u.total - min(u.live+u.shadow, u.total))
		}
	}
	if gone*100 > all*maxCondemnShare {
		return fmt.Errorf("%w: nothing would need %d%% of the vault's bytes any more, and they would be deleted", ErrConfirm, gone*100/all)
	}
	return nil
}

// purge ends the points whose soft-delete period is over, and counts anew: someone
// may have brought one back, or held it.
func (p *prune) purge(ctx context.Context) error {
	if len(p.ended) == 0 {
		return nil
	}
	for some := range slices.Chunk(slices.Collect(maps.Keys(p.ended)), maxNamed) {
		if err := p.purgeSome(ctx, some); err != nil {
			return fmt.Errorf("purge points: %w", err)
		}
	}
	for id := range p.ended {
		if point, ok := p.s.vault.Log.State().Point(id); ok && point.Purged {
			p.res.Purged++
		}
	}
	p.ended = nil
	if err := p.recount(ctx); err != nil || !p.late {
		return err
	}
	p.late = false
	return p.sweep(ctx)
}

// maxNamed is how many points or packs one entry names: well below what its
// body holds (docs/FORMAT.md §10), so that it is read and written at once.
const maxNamed = 8 << 10

// purgeable tells whether a point's soft-delete period is over.
func (p *prune) purgeable(st *log.State, id log.PointID) bool {
	from, ok := st.PurgeableFrom(id)
	return ok && !p.now.Before(from)
}

// purgeSome purges those that are still to be purged when the entry is written:
// someone may have brought one back, or held it.
func (p *prune) purgeSome(ctx context.Context, ids []log.PointID) error {
	_, err := p.s.vault.Log.Append(ctx, p.admin, func(st *log.State) (log.Body, error) {
		var still []log.PointID
		for _, id := range ids {
			if p.purgeable(st, id) {
				still = append(still, id)
			}
		}
		if len(still) == 0 {
			return nil, errNothingToDo
		}
		return &log.Purge{Points: still}, nil
	})
	if errors.Is(err, errNothingToDo) {
		return nil
	}
	return err
}

func (p *prune) progress(phase string, done, of int64) {
	if r := p.s.env.Report; r != nil {
		r.Progress(Progress{Phase: phase, Bytes: done, TotalBytes: of})
	}
}
