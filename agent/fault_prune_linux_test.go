package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
)

// faultEnd is what the script about the end of points knows beyond a faultScript:
// how late it is, and which point shows what.
type faultEnd struct {
	t      *testing.T
	late   time.Duration   // of the machine's clock and of the store's
	live   map[string]int  // states of points that nobody deleted, by ID
	gone   map[string]int  // of those that were deleted, and may be purged
	had    map[string]bool // objects when the command began
	turn   int             // which machine prunes after a death
	idle   error           // a prune did not do what the script is about: it may, after a wrong answer
	stored *storeTimes
}

// storeTimes is when objects were stored, by a store's clock.
type storeTimes struct {
	mu sync.Mutex
	at map[string]time.Time
}

func (s *storeTimes) clone() *storeTimes {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &storeTimes{at: maps.Clone(s.at)}
}

// timedStore is a store with a clock of its own.
type timedStore struct {
	backend.Backend
	now    func() time.Time
	stored *storeTimes
}

func (b timedStore) Put(ctx context.Context, name string, body io.ReaderAt, size int64) error {
	b.stored.mu.Lock()
	if _, there := b.stored.at[name]; !there {
		b.stored.at[name] = b.now()
	}
	b.stored.mu.Unlock()
	return b.Backend.Put(ctx, name, body, size)
}

func (b timedStore) List(ctx context.Context, prefix string) iter.Seq2[backend.Info, error] {
	return func(yield func(backend.Info, error) bool) {
		for info, err := range b.Backend.List(ctx, prefix) {
			b.stored.mu.Lock()
			info.Modified = b.stored.at[info.Name]
			b.stored.mu.Unlock()
			if !yield(info, err) {
				return
			}
		}
	}
}

// fork is the same for a copy of the world.
func (e *faultEnd) fork(w *faultWorld) *faultEnd {
	f := &faultEnd{t: e.t, late: e.late, live: maps.Clone(e.live), gone: maps.Clone(e.gone), had: e.had, turn: e.turn, stored: e.stored.clone()}
	e.turn++
	f.rule(w)
	return f
}

// rule gives a world the time of the script, and its store as well.
func (e *faultEnd) rule(w *faultWorld) {
	w.clock = func() time.Time { return faultClock().Add(e.late) }
	w.wrap = func(b backend.Backend) backend.Backend { return timedStore{b, w.clock, e.stored} }
}

func (e *faultEnd) prune(ctx context.Context, w *faultWorld, o PruneOptions) (res PruneResult, err error) {
	err = w.session(ctx, true, func(s *Session) (err error) {
		res, err = s.Prune(ctx, o)
		return err
	})
	return res, err
}

// backs makes a point of a state.
func (s *faultScript) backs(ctx context.Context, state int) (string, error) {
	s.r.edit(state)
	s.w.notes = &faultNotes{}
	res, err := s.w.backup(ctx, s.r.src)
	if err == nil && res.Status != Completed {
		err = fmt.Errorf("the backup is %s: %s", res.Status, s.w.notes.text())
	}
	if err == nil {
		s.end.live[res.Point] = state
	}
	return res.Point, err
}

// ending are small trees of which the last has all that the one before it has: many
// files, few of them, and few with one more.
func (r *faultRig) ending() (many, few, last int) {
	trees := [3]faultTree{}
	for i := range trees {
		trees[i] = faultTree{}
		for _, name := range []string{".", "a.txt", "link", "moved.bin", "void", "hard1", "void/hard2", "new", "new/file", "with-attr"} {
			trees[i][name] = r.states[1][name]
		}
		trees[i]["many"] = faultNode{kind: 'd', mode: 0o755, tick: 100 + i}
	}
	for i := range 9 {
		name, n := fmt.Sprintf("many/%02d", i), faultNode{kind: 'f', data: randomText(30_000), mode: 0o644, tick: 200 + i}
		trees[0][name] = n
		if i%6 == 0 {
			trees[1][name], trees[2][name] = n, n
		}
	}
	trees[2]["one more"] = faultNode{kind: 'f', data: randomText(3000), mode: 0o644, tick: 300}
	return r.add(trees[0]), r.add(trees[1]), r.add(trees[2])
}

// grows gives the vault what the script ends: points, of which the first two are
// deleted, and the packs of a job that died, whose journal is lost.
func (s *faultScript) grows(ctx context.Context) error {
	e := s.end
	many, few, last := s.r.ending()
	err := s.w.init(ctx)
	for _, state := range []int{s.r.fresh(many, 150_000), many, few} {
		if err == nil {
			_, err = s.backs(ctx, state)
		}
	}
	if err != nil {
		return err
	}
	s.r.edit(s.r.fresh(last, 50_000))
	s.diesAt(ctx, "index/")
	if err := wipeCache(s.w); err != nil {
		return err
	}
	if _, err := s.backs(ctx, last); err != nil {
		return err
	}
	return s.w.session(ctx, true, func(session *Session) error {
		var ids []log.PointID
		for _, p := range session.vault.Log.State().Points()[:2] {
			id := p.Point.ID.String()
			ids = append(ids, p.Point.ID)
			e.gone[id] = e.live[id]
			delete(e.live, id)
		}
		return session.asAdmin(ctx, e.t, s.w, &log.Forget{Points: ids})
	})
}

// diesAt runs a backup that dies at the first Put of a kind.
func (s *faultScript) diesAt(ctx context.Context, prefix string) {
	var none atomic.Int64
	unwrap := s.w.above(func(b backend.Backend) backend.Backend { return dyingAt{b, prefix, &none} })
	defer unwrap()
	if _, err := s.w.backup(ctx, s.r.src); !errors.Is(err, errFaultDead) {
		s.end.t.Fatalf("the job did not die: %v", err)
	}
}

// loses takes a pack from the store that points need, and the log is told: the next
// backup heals that.
func (s *faultScript) loses(ctx context.Context) error {
	err := s.w.session(ctx, true, func(session *Session) error {
		ids, err := packsOfType(ctx, session, key.TypeDataPack)
		if err != nil {
			return err
		}
		ids = slices.DeleteFunc(ids, func(id chunk.ID) bool { return !session.vault.Log.State().Usable(id) })
		(&fenceTest{w: s.w}).delete(ids[:1])
		return session.asAdmin(ctx, s.end.t, s.w, &log.Quarantine{Packs: ids[:1], Reason: "a test"})
	})
	if err == nil {
		_, err = s.backs(ctx, s.r.at)
	}
	return err
}

// endCommands take points through their end.
func endCommands() []faultCommand {
	prune := func(name string, late time.Duration, before func(*faultScript, context.Context) error, did func(PruneResult) bool) faultCommand {
		return faultCommand{
			name: "prune that " + name,
			prepare: func(ctx context.Context, s *faultScript) error {
				s.end.late += late
				var err error
				if before != nil {
					err = before(s, ctx)
				}
				s.end.had = s.w.objects(s.end.t)
				return err
			},
			run: func(ctx context.Context, s *faultScript) error {
				res, err := s.end.prune(ctx, s.w, PruneOptions{Confirm: true})
				if err == nil && !did(res) {
					s.end.idle = fmt.Errorf("it did %+v", res)
				}
				return err
			},
		}
	}
	return []faultCommand{
		prune("notes", 0, (*faultScript).grows, func(r PruneResult) bool { return r.Purged+r.Condemned+r.Swept == 0 }),
		prune("purges", 15*24*time.Hour, nil, func(r PruneResult) bool { return r.Purged == 2 && r.Repacked > 0 && r.Condemned > 2 }),
		prune("sweeps", 73*time.Hour, nil, func(r PruneResult) bool { return r.Swept > 2 }),
		prune("sweeps runs", 73*time.Hour, nil, func(r PruneResult) bool { return r.Swept > 0 }),
		prune("condemns what was lost", time.Hour, (*faultScript).loses, func(r PruneResult) bool { return r.Condemned > 0 }),
		prune("sweeps what was lost", 73*time.Hour, nil, func(r PruneResult) bool { return true }),
	}
}

// endEach is faultEach for the end of points.
func endEach(t *testing.T, fn faultVisit) {
	r := newFaultRig(t)
	s := &faultScript{r: r, w: r.world("run"), pass: []string{faultPass}}
	s.end = &faultEnd{t: t, live: map[string]int{}, gone: map[string]int{}, stored: &storeTimes{at: map[string]time.Time{}}}
	s.end.rule(s.w)
	s.each(t, endCommands(), fn)
	if err := s.end.settled(t.Context(), s); err != nil {
		t.Errorf("the script itself: %v", err)
	}
}

// recovers runs plain commands on what a death left and tells what is wrong then: a
// backup, a prune of this machine or of another one, and more prunes until all that
// can end has ended.
func (e *faultEnd) recovers(ctx context.Context, s *faultScript) error {
	if s.wrong != nil {
		return fmt.Errorf("it went wrong in silence: %w", s.wrong)
	}
	if err := e.deleted(ctx, s); err != nil {
		return err
	}
	if _, err := s.backs(ctx, s.r.at); err != nil {
		return fmt.Errorf("the next backup: %w", err)
	}
	by := s.w
	if e.turn%2 == 1 {
		by = &faultWorld{home: s.w.home + "-other", vault: s.w.vault, host: "other"}
		e.rule(by)
	}
	if _, err := e.prune(ctx, by, PruneOptions{Confirm: true}); err != nil {
		return fmt.Errorf("the next prune: %w", err)
	}
	if err := e.restores(ctx, s, true); err != nil {
		return err
	}
	for i := range 5 { // the period, the grace of packs, that of runs, a week for orphans
		e.late += 8 * 24 * time.Hour
		if _, err := e.prune(ctx, by, PruneOptions{Confirm: true}); err != nil {
			return fmt.Errorf("prune %d after that: %w", i+2, err)
		}
	}
	if err := e.restores(ctx, s, false); err != nil {
		return err
	}
	return e.settled(ctx, s)
}

// restores restores all points that are live, and those that are deleted and not yet
// purged. Without soon all of them must be purged.
func (e *faultEnd) restores(ctx context.Context, s *faultScript, soon bool) error {
	// What is lost and healed counts as damage until a prune swept it.
	if v, err := s.w.verify(ctx); err != nil && !(soon && v.Hurt == 0 && v.Damaged == v.Harmless) {
		return fmt.Errorf("verify: %w: %+v", err, v.Damage)
	}
	for id, state := range e.live {
		if err := s.w.restoresTo(ctx, e.t, id, s.r.src, s.r.want[state]); err != nil {
			return err
		}
	}
	for id, state := range e.gone {
		err := s.w.restoresTo(ctx, e.t, id, s.r.src, s.r.want[state])
		if errors.Is(err, ErrNoPoint) {
			// Nobody may purge it a day early, whatever died.
			if e.late >= 14*24*time.Hour {
				continue
			}
		}
		if err != nil {
			return fmt.Errorf("a deleted point: %w", err)
		}
		if !soon {
			return fmt.Errorf("the deleted point %.8s is still there", id)
		}
	}
	return nil
}

// objects are the names of a world's packs and runs.
func (w *faultWorld) objects(t testing.TB) map[string]bool {
	all := map[string]bool{}
	for _, dir := range []string{"packs/*/*", "index/*"} {
		files, err := filepath.Glob(filepath.Join(w.vault, dir))
		noErr(t, err)
		for _, f := range files {
			all[filepath.Base(f)] = true
		}
	}
	return all
}

// deleted checks that what is gone of the objects that there were is swept: the log said
// so before it was deleted.
func (e *faultEnd) deleted(ctx context.Context, s *faultScript) error {
	return s.w.session(ctx, false, func(session *Session) error {
		now, st := s.w.objects(e.t), session.vault.Log.State()
		for name := range e.had {
			var id hexID
			if _, err := fmt.Sscan(name, &id); err != nil {
				return err
			}
			if !now[name] && !st.Swept(chunk.ID(id)) {
				return fmt.Errorf("object %.8s was deleted, and the log does not say so", name)
			}
		}
		return nil
	})
}

// settled checks that nothing waits for its end any more, that the store has nothing
// that no entry names, that live points use only packs that are trusted, and that one
// more prune has nothing to do.
func (e *faultEnd) settled(ctx context.Context, s *faultScript) error {
	if s.end.late < 30*24*time.Hour {
		e.late += 30 * 24 * time.Hour // the script's own end
		for range 4 {
			if _, err := e.prune(ctx, s.w, PruneOptions{Confirm: true}); err != nil {
				return err
			}
			e.late += 8 * 24 * time.Hour
		}
	}
	v, err := s.w.verify(ctx)
	if err != nil || v.Unnamed > 0 {
		return fmt.Errorf("verify: %w; %d objects that nothing names: %+v", err, v.Unnamed, v.Damage)
	}
	p := &pruneWorld{faultWorld: s.w, r: s.r}
	for id := range e.live {
		if err := p.refsUsable(e.t, id); err != nil {
			return fmt.Errorf("point %.8s: %w", id, err)
		}
	}
	err = s.w.session(ctx, false, func(session *Session) error {
		st := session.vault.Log.State()
		if packs, runs := st.PendingPacks(), st.PendingRuns(); len(packs)+len(runs) > 0 {
			return fmt.Errorf("%d packs and %d runs still wait to be swept", len(packs), len(runs))
		}
		return nil
	})
	if err != nil {
		return err
	}
	res, err := e.prune(ctx, s.w, PruneOptions{Confirm: true, DryRun: true})
	if err != nil || res.Purged+res.Condemned+res.Repacked+res.Swept > 0 {
		return fmt.Errorf("one more prune: %+v, %w", res, err)
	}
	return os.RemoveAll(s.w.home + "-other")
}

// The tests of fault_kill_linux_test.go, about the end of points. After each death,
// failure, cancellation or wrong answer the points are whole and the next prunes finish
// the work.

func TestFaultEndKillImages(t *testing.T) { faultKillImages(t, endEach, 1) }

func TestFaultEndKillRuns(t *testing.T) { faultKillRuns(t, endEach, 1) }

func TestFaultEndOnce(t *testing.T) { faultOnce(t, endEach, 1) }

func TestFaultEndCancel(t *testing.T) { faultCancel(t, endEach, 1) }

func TestFaultEndSpoilt(t *testing.T) { faultSpoilt(t, endEach, 1) }
