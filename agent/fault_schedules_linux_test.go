package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/backend/fault"
	"github.com/tharsis-backup/tharsis/vault/log"
)

// schedule is a life of two machines with one vault, of random commands of which the
// store fails random operations. The store never loses anything: it refuses, answers
// wrongly or late, or dies in the middle.
type schedule struct {
	t        *testing.T
	rng      *rand.Rand
	dir      string
	late     time.Duration
	stored   *storeTimes
	machines [2]*scheduleMachine
	points   map[string]*schedulePoint
	made     int      // points, of all times
	begun    []string // what was run, to be told of a failure

	fired atomic.Int64 // faults of the command under way
	all   int64
	mu    sync.Mutex // guards what
	what  []string   // the first faults of the command under way
}

type scheduleMachine struct {
	w    *faultWorld
	src  string
	tree faultTree
	next int // number of the next file that nobody has
}

// schedulePoint is a point as it must be.
type schedulePoint struct {
	number  int
	machine int
	src     string
	tree    faultTree
	deleted bool
	since   time.Duration // when it was deleted, at the earliest
}

// scheduleTemplate is a vault that two machines know, and their homes.
func scheduleTemplate(t *testing.T) string {
	dir := faultTemp(t)
	s := &schedule{t: t, dir: dir, stored: &storeTimes{at: map[string]time.Time{}}}
	s.equip()
	if err := s.machines[0].w.init(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.machines[1].w.points(t.Context()); err != nil {
		t.Fatal(err)
	}
	return dir
}

func newSchedule(t *testing.T, rng *rand.Rand, template string) *schedule {
	s := &schedule{t: t, rng: rng, dir: faultTemp(t), stored: &storeTimes{at: map[string]time.Time{}}, points: map[string]*schedulePoint{}}
	if err := faultCopy(template, s.dir, false); err != nil {
		t.Fatal(err)
	}
	s.equip()
	for _, m := range s.machines {
		if err := retarget(m.w.home, template, s.dir); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// equip gives the schedule its machines.
func (s *schedule) equip() {
	for i := range s.machines {
		w := &faultWorld{home: filepath.Join(s.dir, fmt.Sprint("home-", i)), vault: filepath.Join(s.dir, "vault"), host: fmt.Sprint("box-", i)}
		w.clock = func() time.Time { return faultClock().Add(s.late) }
		w.wrap = func(b backend.Backend) backend.Backend { return timedStore{b, w.clock, s.stored} }
		w.sleep = func(ctx context.Context, _ time.Duration) error { return ctx.Err() }
		s.machines[i] = &scheduleMachine{w: w, src: filepath.Join(s.dir, fmt.Sprint("src-", i))}
	}
}

// edit changes some files of a machine's source; the machines have much in common. Half
// of the files are never gone, since a point without them would be a suspect.
func (s *schedule) edit(m *scheduleMachine) {
	next := faultTree{".": {kind: 'd', mode: 0o755, tick: 1}, "link": {kind: 'l', target: "f0", tick: 2}}
	for i := range 4 {
		next[fmt.Sprint("f", 4+i)] = faultNode{kind: 'f', data: scheduleText(i, 4000), mode: 0o644, tick: 3 + i}
	}
	maps.Copy(next, m.tree)
	for range 1 + s.rng.IntN(4) {
		name := fmt.Sprint("f", s.rng.IntN(8))
		m.next++
		switch s.rng.IntN(5) {
		case 0:
			delete(next, fmt.Sprint("f", s.rng.IntN(4)))
		case 1, 2: // what the other one may have too
			next[name] = faultNode{kind: 'f', data: scheduleText(s.rng.IntN(6), 4000), mode: 0o644, tick: 10 + m.next}
		default:
			next[name] = faultNode{kind: 'f', data: scheduleText(1000+s.rng.IntN(1<<30), 200+s.rng.IntN(9000)), mode: 0o600, tick: 10 + m.next}
		}
	}
	faultApply(s.t, m.src, m.tree, next)
	m.tree = next
}

// scheduleText is text that does not compress, the same for each seed.
func scheduleText(seed, n int) string {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)}).Read(b)
	return string(b)
}

// errTimeout is what a store gives that did not answer in time.
var errTimeout = fmt.Errorf("the store: %w", os.ErrDeadlineExceeded)

// scheduleFault is what can go wrong with an operation of a kind.
type scheduleFault struct {
	kind   fault.Kind
	after  bool
	action fault.Action
}

func scheduleFaults(rng *rand.Rand) (all []scheduleFault) {
	for _, after := range []bool{false, true} {
		for _, kind := range []fault.Kind{fault.Put, fault.Delete, fault.Get, fault.List} {
			for _, a := range []fault.Action{fault.Fail(nil), fault.Fail(errTimeout), fault.Kill(nil)} {
				all = append(all, scheduleFault{kind, after, a})
			}
		}
	}
	for _, a := range []fault.Action{
		fault.ShortRead(rng.Int64N(40), nil), fault.ShortRead(rng.Int64N(400), fault.ErrInjected), fault.WrongObject(""), fault.WrongObject(""),
	} {
		all = append(all, scheduleFault{fault.Get, false, a})
	}
	for _, a := range []fault.Action{fault.EmptyList(), fault.PartialList(rng.IntN(4)), fault.StaleList(rng.IntN(60))} {
		all = append(all, scheduleFault{fault.List, false, a})
	}
	return append(all, scheduleFault{fault.Put, false, fault.DuplicatePut()})
}

// scheduleReach is about how many operations of a kind a command has.
var scheduleReach = map[fault.Kind]int{fault.Put: 8, fault.Delete: 6, fault.Get: 30, fault.List: 5}

// plan is what goes wrong in one command: nothing, one thing, or many.
func (s *schedule) plan() fault.Plan {
	all := scheduleFaults(s.rng)
	kind := []fault.Kind{fault.Put, fault.Put, fault.Put, fault.Delete, fault.Get, fault.Get, fault.List}[s.rng.IntN(7)]
	some := slices.DeleteFunc(slices.Clone(all), func(f scheduleFault) bool { return f.kind != kind })
	one := some[s.rng.IntN(len(some))]
	left := s.rng.IntN(scheduleReach[one.kind])
	seed, share := s.rng.Uint64(), 0.01+0.1*s.rng.Float64()
	switch s.rng.IntN(4) {
	case 0:
		return nil
	case 1, 2:
		return s.noted(func(op fault.Op) (fault.Action, bool) {
			if op.Kind != one.kind || op.After != one.after {
				return fault.Action{}, false
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			left--
			return one.action, left == -1
		})
	}
	all = slices.DeleteFunc(all, func(f scheduleFault) bool { return fmt.Sprint(f.action) == fmt.Sprint(fault.Kill(nil)) })
	return s.noted(func(op fault.Op) (fault.Action, bool) {
		moment := uint64(op.N) << 1
		if op.After {
			moment++
		}
		rng := rand.New(rand.NewPCG(seed, moment))
		f := all[rng.IntN(len(all))]
		return f.action, f.kind == op.Kind && f.after == op.After && rng.Float64() < 4*share
	})
}

// noted is a plan of which it is noted what it does.
func (s *schedule) noted(plan func(fault.Op) (fault.Action, bool)) fault.Plan {
	return func(op fault.Op) fault.Action {
		a, yes := plan(op)
		if !yes {
			return fault.Action{}
		}
		s.fired.Add(1)
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.what) < 10 {
			s.what = append(s.what, fmt.Sprintf("%s %+v", op, a))
		}
		return a
	}
}

// scheduleSteps are how much later it is with the next command: what counts are the
// graces of 72 hours and the period of 14 days.
var scheduleSteps = []time.Duration{
	0, time.Hour, 25 * time.Hour, 73 * time.Hour, 73 * time.Hour, 73 * time.Hour, 10 * 24 * time.Hour, 15 * 24 * time.Hour,
}

// run runs one random command, and compares what the vault then is with what it must be.
func (s *schedule) run(ctx context.Context) error {
	s.late += scheduleSteps[s.rng.IntN(len(scheduleSteps))]
	n := s.rng.IntN(2)
	m := s.machines[n]
	if s.rng.IntN(4) == 0 {
		if err := wipeCache(m.w); err != nil {
			return err
		}
	}
	commands := []func(context.Context, int) (string, func(error) error, error){
		s.backups, s.backups, s.backups, s.forgets, s.forgets, s.undeletes, s.prunes, s.prunes, s.prunes, s.restores, s.repairs, s.checks,
	}
	command := commands[s.rng.IntN(len(commands))]
	s.fired.Store(0)
	s.what = nil
	plan := s.plan()
	unwrap := m.w.above(func(b backend.Backend) backend.Backend { return fault.New(b, plan) })
	what, check, err := command(ctx, n)
	unwrap()
	if what == "" {
		return nil
	}
	s.all += s.fired.Load()
	s.begun = append(s.begun, fmt.Sprintf("%s, %s by %d: %v; %d faults: %v", s.late, what, n, err, s.fired.Load(), s.what))
	if err != nil && s.fired.Load() == 0 {
		return fmt.Errorf("nothing went wrong, and yet: %w", err)
	}
	if err := s.look(ctx, n, what); err != nil {
		return err
	}
	if check != nil {
		return check(err)
	}
	return nil
}

func (s *schedule) backups(ctx context.Context, n int) (string, func(error) error, error) {
	m := s.machines[n]
	s.edit(m)
	res, err := m.w.backup(ctx, m.src)
	return "backup", func(err error) error {
		if _, there := s.points[res.Point]; err == nil && !there {
			return fmt.Errorf("point %q was acknowledged and is not there", res.Point)
		}
		return nil
	}, err
}

// choose chooses a point, the same one for each seed.
func (s *schedule) choose(fit func(*schedulePoint) bool) string {
	var ids []string
	for id, p := range s.points {
		if fit(p) {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return ""
	}
	// IDs are random, but not the order of the points.
	slices.SortFunc(ids, func(a, b string) int { return s.points[a].number - s.points[b].number })
	return ids[s.rng.IntN(len(ids))]
}

func (s *schedule) forgets(ctx context.Context, n int) (string, func(error) error, error) {
	id := s.choose(func(p *schedulePoint) bool { return !p.deleted && p.machine == n })
	if id == "" {
		return "", nil, nil
	}
	err := s.machines[n].w.session(ctx, true, func(session *Session) error {
		_, err := session.Forget(ctx, []string{id}, ForgetOptions{Last: true})
		return err
	})
	return "forget " + id[:8], func(err error) error {
		if p := s.points[id]; err == nil && !p.deleted {
			return errors.New("it is not deleted")
		}
		return nil
	}, err
}

func (s *schedule) undeletes(ctx context.Context, n int) (string, func(error) error, error) {
	id := s.choose(func(p *schedulePoint) bool { return p.deleted && p.machine == n })
	if id == "" {
		return "", nil, nil
	}
	err := s.machines[n].w.session(ctx, true, func(session *Session) error {
		_, err := session.Undelete(ctx, []string{id})
		return err
	})
	return "undelete " + id[:8], func(err error) error {
		if p := s.points[id]; err == nil && (p == nil || p.deleted) {
			return errors.New("it is not back")
		}
		return nil
	}, err
}

func (s *schedule) prunes(ctx context.Context, n int) (string, func(error) error, error) {
	err := s.machines[n].w.session(ctx, true, func(session *Session) error {
		_, err := session.Prune(ctx, PruneOptions{Confirm: true, MaxRepack: int64(s.rng.IntN(3)-1) * 50_000})
		return err
	})
	return "prune", nil, err
}

func (s *schedule) repairs(ctx context.Context, n int) (string, func(error) error, error) {
	err := s.machines[n].w.session(ctx, true, func(session *Session) error {
		_, err := session.Repair(ctx, RepairOptions{})
		return err
	})
	return "repair", nil, err
}

func (s *schedule) checks(ctx context.Context, n int) (string, func(error) error, error) {
	err := s.machines[n].w.session(ctx, true, func(session *Session) error {
		_, err := session.Verify(ctx, VerifyOptions{ReadData: s.rng.IntN(2) == 0, Quarantine: true})
		return err
	})
	return "verify", nil, err
}

func (s *schedule) restores(ctx context.Context, n int) (string, func(error) error, error) {
	id := s.choose(func(*schedulePoint) bool { return true })
	if id == "" {
		return "", nil, nil
	}
	whole, err := s.restore(ctx, n, id)
	if err == nil && !whole && s.fired.Load() == 0 {
		err = errors.New("it is not whole")
	}
	if errors.Is(err, errWrong) {
		s.t.Errorf("restore %.8s: %v", id, err)
	}
	return "restore " + id[:8], nil, err
}

var errWrong = errors.New("restored otherwise")

// restore restores a point and compares it, unless the restore says that it is not whole.
func (s *schedule) restore(ctx context.Context, n int, id string) (whole bool, err error) {
	target := filepath.Join(s.dir, "target")
	defer os.RemoveAll(target)
	res, err := s.machines[n].w.restore(ctx, id, target)
	if err != nil || res.Failed+res.Notes > 0 {
		return false, err
	}
	p := s.points[id]
	return true, p.tree.same(filepath.Join(target, p.src))
}

// same compares a folder with a tree of folders, files and links.
func (tree faultTree) same(dir string) error {
	n := 0
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		want, ok := tree[rel]
		info, err := e.Info()
		if err != nil || !ok {
			return fmt.Errorf("%w: %s: %w", errWrong, rel, err)
		}
		n++
		var data []byte
		switch want.kind {
		case 'l':
			target, err := os.Readlink(path)
			if err != nil || target != want.target {
				return fmt.Errorf("%w: %s is a link to %q, %v", errWrong, rel, target, err)
			}
			return nil
		case 'f':
			if data, err = os.ReadFile(path); err != nil {
				return err
			}
		}
		if string(data) != want.data || info.Mode().Perm() != want.mode || !info.ModTime().Equal(want.time()) || info.IsDir() != (want.kind == 'd') {
			return fmt.Errorf("%w: %s: %s of %s, %d bytes", errWrong, rel, info.Mode(), info.ModTime(), len(data))
		}
		return nil
	})
	if err == nil && n != len(tree) {
		err = fmt.Errorf("%w: %d entries of %d", errWrong, n, len(tree))
	}
	return err
}

// look brings what must be up to what is, where a command that failed leaves that open,
// and tells what may not be.
func (s *schedule) look(ctx context.Context, n int, what string) error {
	return s.machines[n].w.session(ctx, false, func(session *Session) error {
		there := map[string]bool{}
		for _, info := range session.vault.Log.State().Points() {
			id := info.Point.ID.String()
			there[id] = true
			p := s.points[id]
			if p == nil {
				if what != "backup" {
					return fmt.Errorf("a %s made point %.8s", what, id)
				}
				s.made++
				p = &schedulePoint{number: s.made, machine: n, src: s.machines[n].src, tree: s.machines[n].tree}
				s.points[id] = p
			}
			if err := p.turns(info, what, id); err != nil {
				return err
			}
			if p.deleted && p.since == 0 {
				p.since = max(s.late, 1)
			}
		}
		for id, p := range s.points {
			if there[id] {
				continue
			}
			if what != "prune" || !p.deleted || s.late-p.since < time.Duration(log.MinSoftDeleteDays)*24*time.Hour {
				return fmt.Errorf("a %s ended point %.8s, deleted %v since %s", what, id, p.deleted, p.since)
			}
			delete(s.points, id)
		}
		return nil
	})
}

// turns takes note of whether a point is deleted.
func (p *schedulePoint) turns(info log.PointInfo, what, id string) error {
	deleted := info.Forgotten != 0
	if deleted == p.deleted {
		return nil
	}
	if deleted && what != "forget "+id[:8] || !deleted && what != "undelete "+id[:8] {
		return fmt.Errorf("a %s made point %.8s deleted: %v", what, id, deleted)
	}
	p.deleted, p.since = deleted, 0
	return nil
}

// ends runs plain commands until all that can end has ended, and checks what is left.
func (s *schedule) ends(ctx context.Context) error {
	for n, m := range s.machines {
		s.edit(m)
		res, err := m.w.backup(ctx, m.src)
		if err != nil || res.Status != Completed {
			return fmt.Errorf("the last backup of %d: %s, %w", n, res.Status, err)
		}
		if err := s.look(ctx, n, "backup"); err != nil {
			return err
		}
	}
	e := &faultEnd{t: s.t}
	for i, after := range []time.Duration{0, 73 * time.Hour, 8 * 24 * time.Hour, 8 * 24 * time.Hour, 8 * 24 * time.Hour, 8 * 24 * time.Hour} {
		s.late += after
		if _, err := e.prune(ctx, s.machines[0].w, PruneOptions{Confirm: true}); err != nil {
			return fmt.Errorf("one of the last prunes: %w", err)
		}
		if i != 1 && i != 5 {
			continue
		}
		if err := s.look(ctx, 0, "prune"); err != nil {
			return err
		}
		if err := s.whole(ctx); err != nil {
			return fmt.Errorf("after the last prunes: %w", err)
		}
	}
	e.live = map[string]int{}
	for id, p := range s.points {
		if p.deleted {
			return fmt.Errorf("the deleted point %.8s is still there", id)
		}
		e.live[id] = 0
	}
	e.late = 1 << 60
	return e.settled(ctx, &faultScript{w: s.machines[0].w, end: e})
}

// whole restores all points.
func (s *schedule) whole(ctx context.Context) error {
	for id := range s.points {
		if whole, err := s.restore(ctx, s.rng.IntN(2), id); err != nil || !whole {
			return fmt.Errorf("point %.8s, deleted %v: whole %v, %w", id, s.points[id].deleted, whole, err)
		}
	}
	return nil
}

// TestFaultSchedules lets random operations of the store fail, or answer wrongly, in
// random commands of two machines.
func TestFaultSchedules(t *testing.T) {
	template := scheduleTemplate(t)
	l := newLongRun(t, "schedules", 40, 100_000)
	var commands, faults atomic.Int64
	l.run(func(t *testing.T, rng *rand.Rand) int {
		s := newSchedule(t, rng, template)
		defer os.RemoveAll(s.dir)
		var err error
		for range 6 + rng.IntN(10) {
			if err = s.run(t.Context()); err != nil {
				break
			}
		}
		if err == nil {
			err = s.ends(t.Context())
		}
		if err != nil {
			t.Error(err)
		}
		if t.Failed() {
			for _, what := range s.begun {
				t.Log(what)
			}
		}
		commands.Add(int64(len(s.begun)))
		faults.Add(s.all)
		return 1
	})
	t.Logf("%d commands, %d faults", commands.Load(), faults.Load())
}
