package agent

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/backend/fault"
	"github.com/tharsis-backup/tharsis/vault/log"
)

// cloneHome is a home that somebody uses, with a tree of files of its own that
// stands at the source's path while it backs up.
type cloneHome struct {
	*rig
	name     string
	hardware string
	tree     string // where its files are meanwhile
	edits    *editor
	images   []string // copies of the home
}

// clonePoint is a point that somebody was told of.
type clonePoint struct {
	id, kept string
	machine  log.MachineID
	maker    string
}

// cloneWorld is a vault with homes that are copies of each other.
type cloneWorld struct {
	t      *testing.T
	rng    *rand.Rand
	r      *rig
	homes  []*cloneHome
	points []clonePoint
	story  []string
}

func newCloneWorld(t *testing.T, rng *rand.Rand) *cloneWorld {
	w := &cloneWorld{t: t, rng: rng, r: newRig(t)}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("story: %s", strings.Join(w.story, ", "))
		}
	})
	noErr(t, os.Remove(w.r.src))
	first := &cloneHome{rig: w.r, name: "0", hardware: "hw0", tree: filepath.Join(w.r.dir, "tree-0")}
	w.add(first)
	w.use(first, func() { first.edits.edit(12) })
	return w
}

func (w *cloneWorld) add(h *cloneHome) {
	h.env.Hardware = h.hardware
	h.edits = &editor{t: w.t, rng: rand.New(rand.NewPCG(w.rng.Uint64(), 1)), root: w.r.src}
	if _, err := os.Stat(h.tree); err != nil {
		noErr(w.t, os.Mkdir(h.tree, 0o755))
	}
	w.homes = append(w.homes, h)
}

// use puts a home's files in place while fn runs.
func (w *cloneWorld) use(h *cloneHome, fn func()) {
	w.t.Helper()
	if _, err := os.Stat(w.r.src); err == nil { // of another one that is interrupted
		away := w.r.src + "-away"
		noErr(w.t, os.Rename(w.r.src, away))
		defer func() { noErr(w.t, os.Rename(away, w.r.src)) }()
	}
	noErr(w.t, os.Rename(h.tree, w.r.src))
	fn()
	noErr(w.t, os.Rename(w.r.src, h.tree))
}

// backup makes a point and checks that it is what the home's files are.
func (w *cloneWorld) backup(h *cloneHome) {
	w.t.Helper()
	w.use(h, func() {
		res := h.accepted()
		machine := h.point(res.Point).Machine
		dir := h.restore(res.Point)
		same(w.t, h.src, filepath.Join(dir, h.src))
		w.points = append(w.points, clonePoint{res.Point, filepath.Join(dir, h.src), machine, h.name})
	})
}

// die lets a backup die on its way, and leave a journal.
func (w *cloneWorld) die(h *cloneHome) {
	w.t.Helper()
	n := w.rng.IntN(40)
	h.env.Wrap = func(b backend.Backend) backend.Backend {
		return fault.New(b, fault.At(n, w.rng.IntN(2) == 0, fault.Kill(nil)))
	}
	w.use(h, func() {
		// A point that it told nobody of may be there all the same.
		if res, err := h.try(w.t.Context(), BackupOptions{}); err == nil {
			h.env.Wrap = nil
			dir := h.restore(res.Point)
			same(w.t, h.src, filepath.Join(dir, h.src))
			w.points = append(w.points, clonePoint{res.Point, filepath.Join(dir, h.src), h.point(res.Point).Machine, h.name})
		}
	})
	h.env.Wrap = nil
}

// clone copies a home, with its files or with others.
func (w *cloneWorld) clone(h *cloneHome, hardware string) {
	w.t.Helper()
	name := fmt.Sprint(len(w.homes))
	p := &cloneHome{rig: h.copyHome("copy" + name), name: name, hardware: hardware, tree: filepath.Join(w.r.dir, "tree-"+name)}
	if w.rng.IntN(2) == 0 {
		noErr(w.t, exec.Command("cp", "-a", h.tree, p.tree).Run())
	}
	w.add(p)
	w.use(p, func() { p.edits.edit(6) })
}

// during lets another home back up while one does, just before its COMMIT.
func (w *cloneWorld) during(h, other *cloneHome) {
	w.t.Helper()
	done := false
	h.env.Wrap = func(b backend.Backend) backend.Backend {
		return fault.New(b, func(op fault.Op) fault.Action {
			if !done && op.Kind == fault.Put && !op.After && strings.HasPrefix(op.Name, "log/") {
				done = true
				w.backup(other)
			}
			return fault.Action{}
		})
	}
	w.backup(h)
	h.env.Wrap = nil
}

// step does one thing to one home.
func (w *cloneWorld) step() {
	w.t.Helper()
	h := w.homes[w.rng.IntN(len(w.homes))]
	tell := func(format string, args ...any) { w.story = append(w.story, fmt.Sprintf(format, args...)) }
	switch n := w.rng.IntN(14); {
	case n < 5:
		tell("%s backs up", h.name)
		w.backup(h)
	case n < 7:
		tell("%s edits", h.name)
		w.use(h, func() { h.edits.edit(4) })
	case n < 8:
		tell("%s dies", h.name)
		w.die(h)
	case n < 10 && len(w.homes) < 5:
		hardware := h.hardware
		if w.rng.IntN(2) == 0 {
			hardware = fmt.Sprint("hw", len(w.homes))
		}
		tell("%s is copied as %d on %s", h.name, len(w.homes), hardware)
		w.clone(h, hardware)
	case n < 11:
		tell("%s is imaged", h.name)
		image := w.r.temp()
		copyDir(w.t, h.home, filepath.Join(image, "home"))
		h.images = append(h.images, filepath.Join(image, "home"))
	case n < 12 && len(h.images) > 0:
		k := w.rng.IntN(len(h.images))
		tell("%s is put back to image %d", h.name, k)
		noErr(w.t, os.RemoveAll(h.home))
		copyDir(w.t, h.images[k], h.home)
	case n < 13:
		other := w.homes[w.rng.IntN(len(w.homes))]
		if other == h {
			return
		}
		tell("%s backs up while %s does", other.name, h.name)
		w.during(h, other)
	default:
		tell("%s loses its cache", h.name)
		h.wipe()
	}
}

// check restores every point, and looks whether the points of a machine ID are one
// home's, or were handed over.
func (w *cloneWorld) check() {
	w.t.Helper()
	fresh := w.r.peer("fresh")
	var listed []PointInfo
	noErr(w.t, fresh.session(w.t.Context(), func(s *Session) (err error) {
		w.checkChains(s.vault.Log.State().Points())
		listed, err = s.Points(w.t.Context(), PointFilter{})
		return err
	}))
	makers := map[log.MachineID][]string{}
	for _, p := range w.points {
		at := slices.IndexFunc(listed, func(l PointInfo) bool { return l.ID.String() == p.id })
		if at < 0 || listed[at].MachineID != p.machine {
			w.t.Errorf("point %.8s of %s is lost, or another machine's", p.id, p.maker)
			continue
		}
		dir := fresh.restore(p.id)
		same(w.t, p.kept, filepath.Join(dir, w.r.src))
		removeAll(dir)
		if list := makers[p.machine]; len(list) == 0 || list[len(list)-1] != p.maker {
			makers[p.machine] = append(list, p.maker)
		}
	}
	for id, list := range makers {
		w.checkMakers(id, list)
	}
}

// checkChains checks that each COMMIT names the one of its machine before it.
func (w *cloneWorld) checkChains(points []log.PointInfo) {
	w.t.Helper()
	last := map[log.MachineID]log.Head{}
	for _, p := range points {
		want, ok := last[p.Point.Machine]
		if !ok {
			want = log.NoEntry
		}
		if p.Point.Previous != want {
			w.t.Errorf("entry %d of machine %s continues %s, not %s", p.Entry.Seq, p.Point.Machine, p.Point.Previous, want)
		}
		last[p.Point.Machine] = p.Entry
	}
}

// checkMakers looks at who made the points of a machine ID. A copy on other hardware
// never has the ID of another home. One on the same hardware may make one point
// before the other learns of it, and that one goes on; then they are two.
func (w *cloneWorld) checkMakers(id log.MachineID, list []string) {
	w.t.Helper()
	hardware := map[string]string{}
	for _, h := range w.homes {
		hardware[h.name] = h.hardware
	}
	for i, x := range list {
		if hardware[x] != hardware[list[0]] {
			w.t.Errorf("machine %s has points of %s and of %s, which is on other hardware", id, list[0], x)
		}
		for _, y := range list[i+1:] {
			turns, next := 0, x
			for _, m := range list[i:] {
				if y != x && m == next {
					turns++
					next = map[string]string{x: y, y: x}[m]
				}
			}
			if turns > 3 {
				w.t.Errorf("%s and %s take turns as machine %s: %v", x, y, id, list)
			}
		}
	}
}

// Copies of a home, on the same hardware and on other, homes put back to an older
// state, jobs that die and jobs of two copies at once, each with files of its own at
// one path: every point restores exactly, none is lost, and two homes that are both
// in use end up as two machines.
func TestCopiesOfHomes(t *testing.T) {
	seeds(t, 6, func(t *testing.T, rng *rand.Rand) {
		w := newCloneWorld(t, rng)
		for range 16 {
			w.step()
		}
		for range 2 {
			for _, h := range w.homes {
				w.story = append(w.story, h.name+" backs up")
				w.backup(h)
			}
		}
		w.check()
	})
}
