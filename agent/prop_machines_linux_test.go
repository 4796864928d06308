package agent

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tharsis-backup/tharsis/vault/log"
)

// Machines that back up to one vault at the same time don't hinder each other:
// each sees all points, and each point restores exactly.
func TestManyMachinesAtOnce(t *testing.T) {
	const machines, jobs = 4, 4
	r := newRig(t)
	type made struct{ point, kept string }
	var all [machines][]made
	t.Run("backups", func(t *testing.T) {
		for i := range machines {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				p := r.peer(fmt.Sprint(i))
				p.t, p.dir = t, t.TempDir()
				p.src = filepath.Join(r.dir, fmt.Sprintf("src%d", i))
				noErr(t, os.Mkdir(p.src, 0o755))
				e := &editor{t: t, rng: rand.New(rand.NewPCG(uint64(i), 99)), root: p.src}
				e.edit(15)
				for range jobs {
					res := p.accepted()
					dir, err := os.MkdirTemp(r.dir, "kept-")
					noErr(t, err)
					got, err := p.tryRestore(RestoreOptions{Point: res.Point, Target: dir})
					if err != nil || got.Failed > 0 {
						t.Fatalf("%v, %+v: %s", err, got, p.notes)
					}
					same(t, p.src, filepath.Join(dir, p.src))
					all[i] = append(all[i], made{res.Point, filepath.Join(dir, p.src)})
					e.edit(8)
				}
			})
		}
	})
	for i := range machines {
		p := r.peer(fmt.Sprint(i))
		var points []PointInfo
		noErr(t, p.session(t.Context(), func(s *Session) (err error) {
			points, err = s.Points(t.Context(), PointFilter{})
			return err
		}))
		if len(points) != machines*jobs {
			t.Errorf("machine %d sees %d points", i, len(points))
		}
		hosts := map[string]int{}
		for _, pt := range points {
			hosts[pt.Machine]++
		}
		for k := range machines {
			if hosts[fmt.Sprintf("host-home-%d", k)] != jobs {
				t.Errorf("machine %d sees %v", i, hosts)
			}
		}
		other := (i + 1) % machines
		for _, m := range all[other] {
			src := filepath.Join(r.dir, fmt.Sprintf("src%d", other))
			same(t, m.kept, filepath.Join(p.restore(m.point), src))
		}
	}
}

// copyHome gives a copy of the home, as a cloned disk or a restored system has.
func (r *rig) copyHome(name string) *rig {
	r.t.Helper()
	p := r.peer(name)
	copyDir(r.t, r.home, p.home)
	return p
}

func (r *rig) machineID() (id log.MachineID) {
	r.t.Helper()
	noErr(r.t, r.session(r.t.Context(), func(s *Session) error {
		id = s.machine.ID
		return nil
	}))
	return id
}

// A home that was copied to another machine becomes a machine of its own when it
// meets points of this ID that it did not make.
func TestClonedHomeIsNoticed(t *testing.T) {
	r := newRig(t)
	r.env.Hardware = "one"
	e := &editor{t: t, rng: rand.New(rand.NewPCG(31, 32)), root: r.src}
	e.edit(30)
	r.clean()
	clone := r.copyHome("clone")
	clone.env.Hardware = "two"
	e.edit(10)
	r.accepted()
	res := clone.backup(BackupOptions{})
	if !clone.notes.has(Warning, "", "taken for a copy") {
		t.Errorf("not noticed: %s", clone.notes)
	}
	if clone.machineID() == r.machineID() {
		t.Error("two machines with one ID")
	}
	clone.restored(res.Point)
	clone.isFullScan(res.Point)
	e.edit(10)
	for _, p := range []*rig{r, clone, r, clone} {
		res := p.accepted()
		if p.notes.has(Warning, "", "copy") || p.notes.has(Info, "", "older") {
			t.Errorf("noticed again: %s", p.notes)
		}
		p.isFullScan(res.Point)
	}
}

// A home that was put back from an old copy, on its own machine, goes on from
// the vault's log, whatever its cache says.
func TestOldHomeGoesOn(t *testing.T) {
	for _, jobs := range []int{1, 3} {
		for _, killed := range []bool{false, true} {
			r := newRig(t)
			e := &editor{t: t, rng: rand.New(rand.NewPCG(33, uint64(jobs))), root: r.src}
			e.edit(30)
			r.clean()
			e.edit(10)
			if killed { // the copy has a journal
				r.cancelled(20, BackupOptions{})
			}
			old := r.copyHome("old")
			for range jobs {
				e.edit(10)
				r.accepted()
			}
			e.edit(3)
			res := old.accepted()
			if !old.notes.has(Info, "", "older") {
				t.Errorf("not noticed: %s", old.notes)
			}
			if old.machineID() != r.machineID() {
				t.Error("another ID on the same machine")
			}
			old.restored(res.Point)
			old.isFullScan(res.Point)
			if res := old.clean(); res.BytesAdded != 0 || old.notes.has(Info, "", "older") {
				t.Errorf("the job after: %+v: %s", res, old.notes)
			}
			// The newer copy is the one that is behind now.
			res = r.clean()
			r.isFullScan(res.Point)
		}
	}
}

// A lost home: a new one restores, and backs up as a machine of its own.
func TestNewHomeOfOldVault(t *testing.T) {
	r := newRig(t)
	r.smallTree()
	first := r.clean()
	noErr(t, os.RemoveAll(r.home))
	r.restored(first.Point)
	res := r.clean()
	if res.BytesAdded != 0 || res.BytesRead == 0 {
		t.Errorf("%+v", res)
	}
	r.restored(res.Point)
}

// Points are found by what a user types.
func TestResolve(t *testing.T) {
	r := newRig(t)
	r.write("f", "1")
	var ids []string
	var times []time.Time
	for i := range 3 {
		r.write("f", strings.Repeat("x", i+2))
		res := r.clean()
		ids = append(ids, res.Point)
		times = append(times, time.Unix(0, r.point(res.Point).Started))
		r.ahead.Add(int64(time.Hour))
	}
	for spec, want := range map[string]string{
		"latest":                          ids[2],
		ids[0]:                            ids[0],
		ids[1][:12]:                       ids[1],
		strings.ToUpper(ids[1]):           ids[1],
		times[0].Format(time.RFC3339Nano): ids[0],
		times[1].Add(-1).Format(time.RFC3339Nano):                   ids[0],
		times[1].Add(time.Minute).UTC().Format(time.RFC3339):        ids[1],
		times[1].Local().Format("2006-01-02 15:04"):                 ids[1],
		times[2].Local().AddDate(0, 0, 1).Format("2006-01-02"):      ids[2],
		times[0].Add(-time.Hour).Local().Format("2006-01-02 15:04"): "",
		"0":     "",
		"xyz":   "",
		"ABCDE": "",
		"":      "",
	} {
		var got string
		err := r.session(t.Context(), func(s *Session) error {
			p, err := s.resolve(spec, "", "")
			if err == nil {
				got = p.Point.ID.String()
			}
			return err
		})
		if (err != nil) != (want == "") || got != want {
			t.Errorf("%q: got %q, %v, want %q", spec, got, err, want)
		}
	}
}
