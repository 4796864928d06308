package agent

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tharsis-backup/tharsis/internal/durable"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/backend/fault"
	"github.com/tharsis-backup/tharsis/vault/key"
)

// faultScript is a life of a machine, command by command. What was acknowledged is
// in acked.
type faultScript struct {
	r       *faultRig
	w       *faultWorld
	acked   []int // state of each point that a backup told of
	pass    []string
	keys    bool  // keys are what the test is about now
	life    bool  // deletion is what the test is about now
	resumed bool  // the last job took up another's work
	wrong   error // a command said that all was well, and it was not
	named   int64 // what a restore could not restore, and named
	mayWarn bool  // the next backup may have warnings
	end     *faultEnd
}

// fork is the script with a copy of its world, as it lies on the disk.
func (s *faultScript) fork(name string) *faultScript {
	f := &faultScript{r: s.r, w: s.r.world(name), acked: slices.Clone(s.acked), pass: slices.Clone(s.pass), keys: s.keys, life: s.life}
	if s.end != nil {
		f.end = s.end.fork(f.w)
	}
	faultImage(s.r.t, s.w, f.w)
	return f
}

// drop removes the world.
func (s *faultScript) drop() { os.RemoveAll(filepath.Dir(s.w.home)) }

// faultCommand is one command and what goes before it.
type faultCommand struct {
	name    string
	prepare func(context.Context, *faultScript) error // not part of what is killed
	run     func(context.Context, *faultScript) error
}

func faultBackup(state int) faultCommand {
	return faultCommand{
		name:    fmt.Sprintf("backup of state %d", state),
		prepare: func(_ context.Context, s *faultScript) error { s.r.edit(state); return nil },
		run: func(ctx context.Context, s *faultScript) error {
			res, err := s.w.backup(ctx, s.r.src)
			if err == nil {
				s.acked = append(s.acked, state)
				s.resumed = res.Resumed
			}
			return err
		},
	}
}

// faultCommands are the commands of the script: among them a backup that merges
// index runs, for which the ones before it only have to be there.
func faultCommands() []faultCommand {
	merging := faultBackup(2)
	merging.name = "backup that merges"
	merging.prepare = func(ctx context.Context, s *faultScript) error {
		for i := 2; len(s.acked) < maxRuns; i++ {
			s.r.edit(i % 2)
			if _, err := s.w.backup(ctx, s.r.src); err != nil {
				return err
			}
			s.acked = append(s.acked, i%2)
		}
		s.r.edit(2)
		return nil
	}
	resuming := faultBackup(1)
	resuming.name = "backup that resumes"
	resuming.prepare = func(_ context.Context, s *faultScript) error {
		s.r.edit(s.r.fresh(1, 40_000))
		s.w.dies(s.r.t, s.r, "index/", 0)
		s.r.edit(1)
		return nil
	}
	parts := faultBackup(0)
	parts.name = "backup with PARTIALs"
	inner := parts.run
	parts.run = func(ctx context.Context, s *faultScript) error {
		s.w.partial = 1
		defer func() { s.w.partial = 0 }()
		return inner(ctx, s)
	}
	return []faultCommand{
		{
			name:    "init",
			prepare: func(_ context.Context, s *faultScript) error { s.r.edit(0); return nil },
			run:     func(ctx context.Context, s *faultScript) error { return s.w.init(ctx) },
		},
		faultBackup(0),
		resuming,
		parts,
		merging,
		{name: "forget", run: func(ctx context.Context, s *faultScript) error { return s.w.forgets(ctx) }},
		{name: "undelete", run: func(ctx context.Context, s *faultScript) error { return s.w.undeletes(ctx) }},
		{name: "key change", run: func(ctx context.Context, s *faultScript) error {
			s.pass = []string{faultPass, faultNewPass}
			err := s.w.changePassphrase(ctx, faultPass, faultNewPass)
			if err == nil {
				s.pass = []string{faultNewPass}
			}
			return err
		}},
		{name: "restore", run: func(ctx context.Context, s *faultScript) error {
			target := filepath.Join(filepath.Dir(s.w.home), "restored")
			res, err := s.w.restore(ctx, "latest", target)
			s.named = res.Failed + res.Notes
			if err == nil && s.named == 0 {
				s.wrong = faultSame(s.r.want[s.acked[len(s.acked)-1]], filepath.Join(target, s.r.src))
			}
			return err
		}},
		{name: "verify", run: func(ctx context.Context, s *faultScript) error {
			_, err := s.w.verify(ctx)
			return err
		}},
	}
}

// recovers runs plain commands on what a death left and tells what is wrong then.
func (s *faultScript) recovers(ctx context.Context) error {
	if s.wrong != nil {
		return fmt.Errorf("it went wrong in silence: %w", s.wrong)
	}
	if s.end != nil {
		return s.end.recovers(ctx, s)
	}
	w := s.w
	had, err := w.known(ctx)
	if err != nil {
		return err
	}
	res, err := w.backup(ctx, s.r.src)
	if err != nil {
		return fmt.Errorf("the next backup: %w", err)
	}
	if res.Status != Completed {
		// Seen once in more than a hundred runs of TestFaultFullPart, on a machine
		// that was short of everything, and not explained yet: what was warned of
		// must at least be whole, as the checks below show.
		if !s.mayWarn || res.Status != CompletedWithWarnings {
			return fmt.Errorf("the next backup is %s: %s", res.Status, w.notes.text())
		}
		fmt.Fprintf(os.Stderr, "the next backup has warnings: %s\n", w.notes.text())
	}
	if v, err := w.verify(ctx); err != nil {
		return fmt.Errorf("verify: %w: %+v", err, v.Damage)
	}
	points, err := w.points(ctx)
	if err != nil {
		return err
	}
	// Beyond the acknowledged points there is the one of the job that died, if it
	// got as far, and the new one; both show what is there now.
	states := append([]int(nil), s.acked...)
	for len(states) < len(points) {
		states = append(states, s.r.at)
	}
	if n := len(points) - len(s.acked); n < 1 || n > 2 || n == 2 && len(had) != len(s.acked)+1 {
		return fmt.Errorf("%d points, of which %d were acknowledged", len(points), len(s.acked))
	}
	for i, p := range points {
		if i >= 2 && i < len(s.acked)-1 {
			continue // those in the middle are like the first ones
		}
		if err := w.restoresTo(ctx, s.r.t, p.ID.String(), s.r.src, s.r.want[states[i]]); err != nil {
			return fmt.Errorf("point %d of %d: %w", i, len(points), err)
		}
	}
	if s.life {
		return w.life(ctx)
	}
	if !s.keys {
		return nil
	}
	return s.opens(ctx)
}

// known makes sure that there is a vault, by init if need be, and gives its points.
func (w *faultWorld) known(ctx context.Context) ([]PointInfo, error) {
	points, err := w.points(ctx)
	if !errors.Is(err, ErrNoVault) {
		return points, err
	}
	if err := w.init(ctx); err != nil {
		return nil, fmt.Errorf("init again: %w", err)
	}
	return nil, nil
}

// opens checks that a new machine can open the vault with a passphrase that
// counts, in whichever order the vault lists its slots, and that a change of it
// that was begun can be made again.
func (s *faultScript) opens(ctx context.Context) error {
	var all error
	for _, p := range s.pass {
		err := s.opensWith(ctx, p)
		if err == nil {
			return s.changes(ctx, p)
		}
		all = errors.Join(all, err)
	}
	return fmt.Errorf("a new machine cannot open the vault: %w", all)
}

func (s *faultScript) opensWith(ctx context.Context, pass string) error {
	for _, reverse := range []bool{false, true} {
		fresh := &faultWorld{home: s.w.home + "-fresh", vault: s.w.vault, host: "fresh", secret: pass}
		fresh.wrap = func(b backend.Backend) backend.Backend { return sortedLists{b, reverse} }
		_, err := fresh.points(ctx)
		os.RemoveAll(fresh.home)
		if err != nil {
			return fmt.Errorf("with %q, lists reversed %v: %w", pass, reverse, err)
		}
	}
	return nil
}

// changes replaces the passphrase by the one that the script was about to set.
func (s *faultScript) changes(ctx context.Context, current string) error {
	if current != faultNewPass {
		if err := s.w.changePassphrase(ctx, current, faultNewPass); err != nil {
			return fmt.Errorf("the next change of the passphrase: %w", err)
		}
		if err := s.opensWith(ctx, current); !errors.Is(err, key.ErrWrongKey) {
			return fmt.Errorf("the old passphrase: %w", err)
		}
	}
	return s.opensWith(ctx, faultNewPass)
}

// sortedLists lists by name, forwards or backwards: a backend may in any order.
type sortedLists struct {
	backend.Backend
	reverse bool
}

func (b sortedLists) List(ctx context.Context, prefix string) iter.Seq2[backend.Info, error] {
	return func(yield func(backend.Info, error) bool) {
		var all []backend.Info
		for info, err := range b.Backend.List(ctx, prefix) {
			if err != nil {
				yield(info, err)
				return
			}
			all = append(all, info)
		}
		slices.SortFunc(all, func(a, c backend.Info) int {
			if b.reverse {
				a, c = c, a
			}
			return strings.Compare(a.Name, c.Name)
		})
		for _, info := range all {
			if !yield(info, nil) {
				return
			}
		}
	}
}

// faultMoments calls at for every moment before and after an operation on the
// vault or a durable step, one at a time; where it returns an error, that is
// what the operation gives.
type faultMoments struct {
	mu      sync.Mutex
	n       int
	at      func(n int, what string) error
	backend *fault.Backend // that was opened last
}

func (m *faultMoments) moment(what string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.n
	m.n++
	if m.at == nil {
		return nil
	}
	return m.at(n, what)
}

// watch puts the moments into a world, above what it has, for as long as the test
// runs. Nothing else in the process may use durable's hook meanwhile.
func (m *faultMoments) watch(w *faultWorld) (stop func()) {
	dir := filepath.Dir(w.home) + string(filepath.Separator)
	restore := durable.SetHook(func(s durable.Step) error {
		if !strings.HasPrefix(s.Path, dir) {
			return nil
		}
		return m.moment(s.String())
	})
	unwrap := w.above(func(b backend.Backend) backend.Backend {
		m.backend = fault.New(b, func(op fault.Op) fault.Action {
			if err := m.moment(op.String()); err != nil {
				return fault.Fail(err)
			}
			return fault.Action{}
		})
		return m.backend
	})
	return func() {
		restore()
		unwrap()
	}
}

// above puts a decorator above what a world's backend has, until unwrap.
func (w *faultWorld) above(wrap func(backend.Backend) backend.Backend) (unwrap func()) {
	below := w.wrap
	w.wrap = func(b backend.Backend) backend.Backend {
		if below != nil {
			b = below(b)
		}
		return wrap(b)
	}
	return func() { w.wrap = below }
}

// faultVisit is called before a command, with the number of moments and the operations
// that the command has when nothing goes wrong.
type faultVisit func(ctx context.Context, c faultCommand, before *faultScript, moments int, ops []fault.Record)

// faultEach goes through the script and calls fn before each command.
func faultEach(t *testing.T, fn faultVisit) {
	check := partialCheck
	partialCheck = 8
	defer func() { partialCheck = check }()
	r := newFaultRig(t)
	s := &faultScript{r: r, w: r.world("run"), pass: []string{faultPass}}
	s.each(t, faultCommands(), fn)
	if !r.merged(t, s.w) {
		t.Fatal("the script merges nothing")
	}
}

// each goes through commands and calls fn before each of them.
func (s *faultScript) each(t *testing.T, commands []faultCommand, fn faultVisit) {
	ctx := t.Context()
	for _, c := range commands {
		if c.prepare != nil {
			if err := c.prepare(ctx, s); err != nil {
				t.Fatal(err)
			}
		}
		s.keys = c.name == "init" || c.name == "key change"
		s.life = c.name == "forget" || c.name == "undelete"
		count := s.fork("count")
		m := &faultMoments{}
		stop := m.watch(count.w)
		err := c.run(ctx, count)
		stop()
		if err != nil || count.wrong != nil || count.resumed != (c.name == "backup that resumes") {
			t.Fatalf("%s: %v, %v, resumed %v", c.name, err, count.wrong, count.resumed)
		}
		if count.end != nil && count.end.idle != nil {
			t.Fatalf("%s: %v", c.name, count.end.idle)
		}
		ops := m.backend.Ops()
		count.drop()
		fn(ctx, c, s, m.n, ops)
		if err := c.run(ctx, s); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
	}
}

// merged tells whether a merge superseded index runs.
func (r *faultRig) merged(t *testing.T, w *faultWorld) (yes bool) {
	err := w.session(t.Context(), false, func(s *Session) error {
		yes = len(s.vault.Log.State().PendingRuns()) > 0
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return yes
}

// TestFaultKillImages stops each command at every moment, takes what a death there
// would leave on the disk, and lets plain commands go on with that. Then the
// command runs on: so one run gives all of its deaths.
func TestFaultKillImages(t *testing.T) { faultKillImages(t, faultEach, 12) }

func faultKillImages(t *testing.T, each func(*testing.T, faultVisit), want int) {
	total, cases := 0, 0
	each(t, func(ctx context.Context, c faultCommand, before *faultScript, moments int, _ []fault.Record) {
		total += moments
		chosen := map[int]bool{}
		for _, n := range faultSample(moments, want) {
			chosen[n] = true
		}
		s := before.fork("killed")
		defer s.drop()
		m := &faultMoments{}
		m.at = func(n int, what string) error {
			// What a prune does it does in the order of its entries.
			entry := s.end != nil && strings.Contains(what, " put log/")
			if !chosen[n] && !entry && os.Getenv(faultAllEnv) == "" {
				return nil
			}
			cases++
			image := s.fork("image")
			if c.name == "key change" {
				image.pass = []string{faultPass, faultNewPass}
			}
			if err := image.recovers(ctx); err != nil {
				t.Errorf("%s, killed at moment %d, %s: %v", c.name, n, what, err)
			}
			image.drop()
			return nil
		}
		stop := m.watch(s.w)
		err := c.run(ctx, s)
		stop()
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
	})
	t.Logf("%d deaths of %d", cases, total)
}

// errFaultDead is what everything gives after a death.
var errFaultDead = errors.New("dead")

// TestFaultKillRuns lets every operation fail from each moment on: the command
// ends, and plain commands go on with what it left, which is more than a kill
// leaves, as it went on to write to files that no hook sees.
func TestFaultKillRuns(t *testing.T) { faultKillRuns(t, faultEach, 8) }

func faultKillRuns(t *testing.T, each func(*testing.T, faultVisit), want int) {
	total, cases := 0, 0
	each(t, func(ctx context.Context, c faultCommand, before *faultScript, moments int, _ []fault.Record) {
		total += moments
		for _, n := range faultSample(moments, want) {
			cases++
			faultCase(ctx, t, c, before, fmt.Sprintf("dead from moment %d", n), func(s *faultScript) (stop func()) {
				m := &faultMoments{at: func(at int, _ string) error {
					if at >= n {
						return errFaultDead
					}
					return nil
				}}
				return m.watch(s.w)
			})
		}
	})
	t.Logf("%d deaths of %d", cases, total)
}

// TestFaultOnce lets each operation and each durable step fail once, before or
// after it took effect.
func TestFaultOnce(t *testing.T) { faultOnce(t, faultEach, 8) }

func faultOnce(t *testing.T, each func(*testing.T, faultVisit), want int) {
	total, cases := 0, 0
	each(t, func(ctx context.Context, c faultCommand, before *faultScript, moments int, _ []fault.Record) {
		total += moments
		for _, n := range faultSample(moments, want) {
			cases++
			faultCase(ctx, t, c, before, fmt.Sprintf("moment %d fails", n), func(s *faultScript) (stop func()) {
				m := &faultMoments{at: func(at int, _ string) error {
					if at == n {
						return fault.ErrInjected
					}
					return nil
				}}
				return m.watch(s.w)
			})
		}
	})
	t.Logf("%d failures of %d", cases, total)
}

// TestFaultCancel cancels each command at every moment, as Ctrl-C does: it ends
// soon, says so, and the next one goes on.
func TestFaultCancel(t *testing.T) { faultCancel(t, faultEach, 6) }

func faultCancel(t *testing.T, each func(*testing.T, faultVisit), want int) {
	total, cases := 0, 0
	each(t, func(ctx context.Context, c faultCommand, before *faultScript, moments int, _ []fault.Record) {
		total += moments
		for _, n := range faultSample(moments, want) {
			cases++
			s := before.fork("case")
			what := fmt.Sprintf("%s, cancelled at moment %d", c.name, n)
			cancelled, cancel := context.WithCancel(ctx)
			m := &faultMoments{at: func(at int, _ string) error {
				if at == n {
					cancel()
				}
				return nil
			}}
			stop := m.watch(s.w)
			err := faultWatch(t, what, func() error { return c.run(cancelled, s) })
			stop()
			cancel()
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", what, err)
			}
			if rerr := s.recovers(ctx); rerr != nil {
				t.Errorf("%s (%v): %v", what, err, rerr)
			}
			s.drop()
		}
	})
	t.Logf("%d cancellations of %d", cases, total)
}

// faultCase runs one command on a copy of the world in which set makes something
// go wrong, and then plain commands.
func faultCase(ctx context.Context, t *testing.T, c faultCommand, before *faultScript, what string, set func(*faultScript) (stop func())) {
	t.Helper()
	s := before.fork("case")
	defer s.drop()
	what = c.name + ", " + what
	stop := set(s)
	err := faultWatch(t, what, func() error { return c.run(ctx, s) })
	stop()
	if rerr := s.recovers(ctx); rerr != nil {
		t.Errorf("%s (%v): %v", what, err, rerr)
	}
}

// spoilt are the ways in which an answer of the vault can be wrong without an
// error, or in spite of one.
var spoilt = []struct {
	name   string
	kind   fault.Kind
	action func(ops int) fault.Action
}{
	{"no bytes", fault.Get, func(int) fault.Action { return fault.ShortRead(0, nil) }},
	{"ten bytes", fault.Get, func(int) fault.Action { return fault.ShortRead(10, nil) }},
	{"an error within", fault.Get, func(int) fault.Action { return fault.ShortRead(20, fault.ErrInjected) }},
	{"another object", fault.Get, func(int) fault.Action { return fault.WrongObject("") }},
	{"put twice", fault.Put, func(int) fault.Action { return fault.DuplicatePut() }},
	{"an empty list", fault.List, func(int) fault.Action { return fault.EmptyList() }},
	{"a part of the list", fault.List, func(int) fault.Action { return fault.PartialList(1) }},
	{"an old list", fault.List, func(n int) fault.Action { return fault.StaleList(n / 2) }},
}

// TestFaultSpoilt spoils each answer of the vault once.
func TestFaultSpoilt(t *testing.T) { faultSpoilt(t, faultEach, 8) }

func faultSpoilt(t *testing.T, each func(*testing.T, faultVisit), want int) {
	total, cases := 0, 0
	each(t, func(ctx context.Context, c faultCommand, before *faultScript, _ int, ops []fault.Record) {
		type spoil struct{ n, how int }
		var all []spoil
		for _, op := range ops {
			for how := range spoilt {
				if spoilt[how].kind == op.Kind {
					all = append(all, spoil{op.N, how})
				}
			}
		}
		total += len(all)
		for _, i := range faultSample(len(all), want) {
			cases++
			n, how := all[i].n, spoilt[all[i].how]
			faultCase(ctx, t, c, before, fmt.Sprintf("%s: %s", ops[n].Op, how.name), func(s *faultScript) (stop func()) {
				return s.w.above(func(b backend.Backend) backend.Backend { return fault.New(b, fault.At(n, false, how.action(n))) })
			})
		}
	})
	t.Logf("%d spoilt answers of %d", cases, total)
}
