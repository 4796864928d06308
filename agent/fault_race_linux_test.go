package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/tharsis-backup/tharsis/vault/log"
)

// TestFaultRace lets machines write to one vault at the same time, without any
// lock: every job commits, every point restores, and the log is one chain.
func TestFaultRace(t *testing.T) {
	for _, c := range []struct{ machines, jobs int }{{2, 6}, {8, 2}} {
		t.Run(fmt.Sprint(c.machines), func(t *testing.T) { race(t, c.machines, c.jobs) })
	}
}

func race(t *testing.T, machines, jobs int) {
	ctx := t.Context()
	dir := faultTemp(t)
	vault := filepath.Join(dir, "vault")
	type point struct{ id, src, want string }
	var mu sync.Mutex
	var points []point
	run := func(m int) error {
		w := &faultWorld{home: filepath.Join(dir, fmt.Sprint("home-", m)), vault: vault, host: fmt.Sprint("box-", m)}
		src := filepath.Join(dir, fmt.Sprint("src-", m))
		tree := flipTree()
		faultApply(t, src, nil, tree)
		for i := range jobs {
			next := faultTree{}
			for k, n := range tree {
				next[k] = n
			}
			next["dir/one"] = faultNode{kind: 'f', data: fmt.Sprintf("machine %d, job %d", m, i), mode: 0o644, tick: 100 + i}
			// All machines have this one: who is first stores it, or several do.
			next["shared"] = faultNode{kind: 'f', data: fmt.Sprint("in each machine ", i), mode: 0o644, tick: 200 + i}
			faultApply(t, src, tree, next)
			tree = next
			want := filepath.Join(dir, fmt.Sprintf("want-%d-%d", m, i))
			faultApply(t, want, nil, tree)
			res, err := w.backup(ctx, src)
			if err != nil {
				return fmt.Errorf("machine %d, job %d: %w", m, i, err)
			}
			mu.Lock()
			points = append(points, point{res.Point, src, want})
			mu.Unlock()
		}
		return nil
	}
	first := &faultWorld{home: filepath.Join(dir, "home-0"), vault: vault}
	if err := first.init(ctx); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	errs := make([]error, machines)
	for m := range machines {
		wg.Go(func() { errs[m] = run(m) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	reader := &faultWorld{home: filepath.Join(dir, "reader"), vault: vault, host: "reader"}
	if res, err := reader.verify(ctx); err != nil || res.Points != int64(machines*jobs) {
		t.Errorf("verify: %+v, %v", res, err)
	}
	for _, p := range points {
		if err := reader.restoresTo(ctx, t, p.id, p.src, p.want); err != nil {
			t.Error(err)
		}
	}
	err := reader.session(ctx, false, func(s *Session) error {
		st := s.vault.Log.State()
		if n := len(st.Machines()); n != machines+1 || st.Ignored() != 0 {
			t.Errorf("%d machines, %d entries ignored", n, st.Ignored())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	names, err := os.ReadDir(filepath.Join(vault, "log"))
	if err != nil {
		t.Fatal(err)
	}
	for i, n := range names {
		if n.Name() != filepath.Base(log.EntryName(uint64(i))) {
			t.Fatalf("entry %d of the log is %s", i, n.Name())
		}
	}
}
