package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tharsis-backup/tharsis/internal/durable"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/backend/fault"
)

// faultScript is a life of a machine, command by command. What was acknowledged is
// in acked.
type faultScript struct {
	r     *faultRig
	w     *faultWorld
	acked []int // state of each point that a backup told of
	pass  []string
}

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
			_, err := s.w.backup(ctx, s.r.src)
			if err == nil {
				s.acked = append(s.acked, state)
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
	return []faultCommand{
		{name: "init", run: func(ctx context.Context, s *faultScript) error { return s.w.init(ctx) }},
		faultBackup(0),
		faultBackup(1),
		merging,
		{name: "key change", run: func(ctx context.Context, s *faultScript) error {
			s.pass = []string{faultPass, faultNewPass}
			err := s.w.changePassphrase(ctx, faultPass, faultNewPass)
			if err == nil {
				s.pass = []string{faultNewPass}
			}
			return err
		}},
		{name: "restore", run: func(ctx context.Context, s *faultScript) error {
			_, err := s.w.restore(ctx, "latest", filepath.Join(filepath.Dir(s.w.home), "restored"))
			return err
		}},
	}
}

// recovers runs plain commands on what a death left and tells what is wrong then.
func (s *faultScript) recovers(ctx context.Context) error {
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
		return fmt.Errorf("the next backup is %s", res.Status)
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

// opens checks that a new machine can open the vault with a passphrase that counts.
func (s *faultScript) opens(ctx context.Context) error {
	var all error
	for _, p := range s.pass {
		fresh := &faultWorld{home: s.w.home + "-fresh", vault: s.w.vault, host: "fresh", secret: p}
		_, err := fresh.points(ctx)
		os.RemoveAll(fresh.home)
		if err == nil {
			return nil
		}
		all = errors.Join(all, err)
	}
	return fmt.Errorf("a new machine cannot open the vault: %w", all)
}

// faultMoments calls at for every moment before and after an operation on the
// vault or a durable step, one at a time; where it returns an error, that is
// what the operation gives.
type faultMoments struct {
	mu sync.Mutex
	n  int
	at func(n int, what string) error
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

// watch puts the moments into a world, for as long as the test runs. Nothing else
// in the process may use durable's hook meanwhile.
func (m *faultMoments) watch(w *faultWorld) (stop func()) {
	dir := filepath.Dir(w.home) + string(filepath.Separator)
	restore := durable.SetHook(func(s durable.Step) error {
		if !strings.HasPrefix(s.Path, dir) {
			return nil
		}
		return m.moment(s.String())
	})
	w.wrap = func(b backend.Backend) backend.Backend {
		return fault.New(b, func(op fault.Op) fault.Action {
			if err := m.moment(op.String()); err != nil {
				return fault.Fail(err)
			}
			return fault.Action{}
		})
	}
	return func() {
		restore()
		w.wrap = nil
	}
}

// count runs the script undisturbed and tells how many moments each command has.
func faultCount(t *testing.T) (moments []int) {
	ctx := t.Context()
	r := newFaultRig(t)
	s := &faultScript{r: r, w: r.world("count"), pass: []string{faultPass}}
	for _, c := range faultCommands() {
		if c.prepare != nil {
			if err := c.prepare(ctx, s); err != nil {
				t.Fatal(err)
			}
		}
		m := &faultMoments{}
		stop := m.watch(s.w)
		err := c.run(ctx, s)
		stop()
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		moments = append(moments, m.n)
	}
	if len(r.mergedRuns(t, s.w)) == 0 {
		t.Fatal("the script merges nothing")
	}
	return moments
}

// mergedRuns are the index runs that a merge superseded.
func (r *faultRig) mergedRuns(t *testing.T, w *faultWorld) (n []int) {
	err := w.session(t.Context(), false, func(s *Session) error {
		n = make([]int, len(s.vault.Log.State().PendingRuns()))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestFaultKillImages stops the script at every moment, takes what a death there
// would leave on the disk, and lets plain commands go on with that. Then the
// script runs on: so one run gives all of its deaths.
func TestFaultKillImages(t *testing.T) {
	moments := faultCount(t)
	total := 0
	for _, n := range moments {
		total += n
	}
	t.Logf("moments by command: %v, in all %d", moments, total)
	chosen := map[int]bool{}
	for _, n := range faultSample(total, 200) {
		chosen[n] = true
	}
	ctx := t.Context()
	r := newFaultRig(t)
	s := &faultScript{r: r, w: r.world("run"), pass: []string{faultPass}}
	begun, cases := 0, 0
	for _, c := range faultCommands() {
		if c.prepare != nil {
			if err := c.prepare(ctx, s); err != nil {
				t.Fatal(err)
			}
		}
		m := &faultMoments{}
		m.at = func(n int, what string) error {
			if !chosen[begun+n] && os.Getenv(faultAllEnv) == "" {
				return nil
			}
			cases++
			image := &faultScript{r: r, w: r.world("image"), acked: s.acked, pass: []string{faultPass, faultNewPass}}
			faultImage(t, s.w, image.w)
			if err := image.recovers(ctx); err != nil {
				t.Errorf("%s, moment %d, %s: %v", c.name, n, what, err)
			}
			os.RemoveAll(filepath.Dir(image.w.home))
			return nil
		}
		stop := m.watch(s.w)
		err := c.run(ctx, s)
		stop()
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		begun += m.n
	}
	t.Logf("%d deaths", cases)
}
