package agent

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/treecmp"
	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/manifest"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// damageTest is a vault of some machines with some points each, which is damaged.
type damageTest struct {
	t        *testing.T
	rng      *rand.Rand
	machines []*rig
	editors  []*editor
	points   []damagedPoint
	log      []string
}

// damagedPoint is a point with what it showed, and where what it needs lay before
// the damage.
type damagedPoint struct {
	machine int
	id      string
	kept    string // what it restored to
	list    [][]string
	files   map[string][][]string // by path: for each chunk, and page of a block table, the packs that have it
}

// Damage of any kind to packs and index runs is contained and healed: after a check
// that puts into quarantine, a repair, and a backup of each machine, the new points are
// whole, and the old ones have all that does not lie in damaged packs alone.
func TestDamageIsHealed(t *testing.T) {
	n := 5
	if os.Getenv(faultAllEnv) != "" {
		n = 200
	}
	seeds(t, n, func(t *testing.T, rng *rand.Rand) {
		d := &damageTest{t: t, rng: rng}
		d.build()
		hurt := d.damage()
		d.heal()
		d.newPoints()
		for i := range d.points {
			d.oldPoint(&d.points[i], hurt)
		}
		if t.Failed() {
			t.Logf("%s", strings.Join(d.log, "\n"))
		}
	})
}

func (d *damageTest) build() {
	r := newRig(d.t)
	for i := range 2 {
		m := r
		if i > 0 {
			m = r.peer(fmt.Sprint(i))
			m.src = filepath.Join(r.dir, fmt.Sprintf("src%d", i))
			noErr(d.t, os.Mkdir(m.src, 0o755))
		}
		for n := range 6 { // room for the editor, and some references
			m.write(fmt.Sprintf("room%d/file", n), noise(d.rng, 2000))
		}
		d.machines = append(d.machines, m)
		d.editors = append(d.editors, &editor{t: d.t, rng: d.rng, root: m.src})
	}
	for range 3 {
		for i, m := range d.machines {
			d.editors[i].edit(15)
			res := m.accepted()
			d.points = append(d.points, damagedPoint{machine: i, id: res.Point, kept: filepath.Join(m.restore(res.Point), m.src)})
		}
	}
	for i := range d.points {
		d.locate(&d.points[i])
	}
}

// locate finds which packs have what a point needs.
func (d *damageTest) locate(p *damagedPoint) {
	m := d.machines[p.machine]
	ctx := d.t.Context()
	p.files = map[string][][]string{}
	noErr(d.t, m.session(ctx, func(s *Session) error {
		info, err := s.vault.Log.State().PointByPrefix(p.id)
		if err != nil {
			return err
		}
		x, err := s.vault.OpenIndex(ctx, vault.IndexOptions{})
		if err != nil {
			return err
		}
		packs := func(id chunk.ID) (names []string) {
			locs, err := x.Find(ctx, id, nil)
			noErr(d.t, err)
			for _, l := range locs {
				names = append(names, pack.Name(l.Pack))
			}
			return names
		}
		root := info.Point.Sources[0].Root
		pages := s.pages(x)
		tables := map[chunk.ID]bool{}
		c := manifest.NewCursor(pages, root)
		for {
			k, e, err := c.Next(ctx)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			path := manifest.PathOf(k)
			p.files[path] = nil
			if !e.XattrRef.Hole() {
				p.files[path] = append(p.files[path], packs(e.XattrRef.ID))
			}
			for ext, err := range manifest.Extents(ctx, pages, e) {
				if err != nil {
					return err
				}
				if !ext.Hole() {
					p.files[path] = append(p.files[path], packs(ext.ID))
				}
			}
			if !e.Table.IsZero() {
				tables[e.Table] = true
				p.files[path] = append(p.files[path], packs(e.Table))
			}
		}
		return manifest.Pages(ctx, pages, root, nil, func(ref manifest.Ref) error {
			if ref.Page && !tables[ref.ID] {
				p.list = append(p.list, packs(ref.ID))
			}
			return nil
		})
	}))
}

// damage spoils objects and returns their names.
func (d *damageTest) damage() map[string]bool {
	m := d.machines[0]
	all := append(m.objects("packs/"), m.objects("index/")...)
	hurt := map[string]bool{}
	for range 1 + d.rng.IntN(4) {
		file := all[d.rng.IntN(len(all))]
		how := []string{"flip", "cut", "delete", "swap"}[d.rng.IntN(4)]
		d.log = append(d.log, how+" "+file)
		hurt[file[len(m.vault)+1:]] = true
		b, err := os.ReadFile(file)
		if err != nil {
			continue // deleted already
		}
		noErr(d.t, os.Chmod(file, 0o600))
		switch how {
		case "flip":
			for range 1 + d.rng.IntN(3) {
				b[d.rng.IntN(len(b))] ^= 1 << d.rng.IntN(8)
			}
			noErr(d.t, os.WriteFile(file, b, 0o600))
		case "cut":
			noErr(d.t, os.Truncate(file, int64(d.rng.IntN(len(b)))))
		case "delete":
			noErr(d.t, os.Remove(file))
		case "swap":
			other := all[d.rng.IntN(len(all))]
			o, err := os.ReadFile(other)
			if err != nil {
				continue
			}
			hurt[other[len(m.vault)+1:]] = true
			d.log = append(d.log, "with "+other)
			noErr(d.t, os.Chmod(other, 0o600))
			noErr(d.t, os.WriteFile(file, o, 0o600))
			noErr(d.t, os.WriteFile(other, b, 0o600))
		}
	}
	for _, m := range d.machines {
		if d.rng.IntN(2) == 0 {
			d.log = append(d.log, "wipe "+m.home)
			m.wipe()
		}
	}
	return hurt
}

// heal takes trust from what is damaged and makes the index anew, in any order and
// by any machine. What the content of packs is that no index named is looked at after a
// repair, as that says.
func (d *damageTest) heal() {
	some := func() *rig { return d.machines[d.rng.IntN(len(d.machines))] }
	check := func() { some().hurt("", VerifyOptions{ReadData: true, Quarantine: true}) }
	first := d.rng.IntN(2) == 0
	if first {
		d.log = append(d.log, "check first")
		check()
	}
	if res := some().repair(RepairOptions{}); res.Packs > 0 || !first {
		check()
	}
}

// newPoints lets each machine back up, and checks what comes of it.
func (d *damageTest) newPoints() {
	for i, m := range d.machines {
		d.editors[i].edit(d.rng.IntN(6))
		res := m.backup(BackupOptions{AcceptSources: []string{m.src}})
		d.log = append(d.log, fmt.Sprintf("backup of machine %d: %s: %s", i, res.Status, m.notes))
		m.usable(res.Point)
		if hurt, v := m.hurt(res.Point, VerifyOptions{ReadData: true, Point: res.Point}); v.Hurt+v.Damaged > 0 {
			d.t.Errorf("the new point of machine %d: %v, %+v", i, hurt, v.Damage)
		}
		m.wipe()
		m.restored(res.Point)
		m.ahead.Add(int64(25 * time.Hour)) // the next job lists the packs
		d.editors[i].edit(2)
		next := m.accepted()
		m.usable(next.Point)
		m.restored(next.Point)
	}
	m := d.machines[0]
	res := m.repair(RepairOptions{})
	_, v := m.hurt("", VerifyOptions{ReadData: true, Quarantine: true})
	if res.Runs+res.Quarantined+v.Quarantined+v.DamagedRuns != 0 || v.Hurt != res.Files {
		d.t.Errorf("something was left to do: %+v, %+v", res, v)
	}
}

// oldPoint restores a point from before the damage.
func (d *damageTest) oldPoint(p *damagedPoint, hurt map[string]bool) {
	m := d.machines[p.machine]
	lost := func(packs []string) bool { return !slices.ContainsFunc(packs, func(p string) bool { return !hurt[p] }) }
	dir := m.temp()
	defer removeAll(dir)
	res, err := m.tryRestore(RestoreOptions{Point: p.id, Target: dir})
	list := slices.ContainsFunc(p.list, lost)
	if err != nil {
		if !list || !errors.Is(err, key.ErrDamaged) {
			d.t.Errorf("point %.8s: %v", p.id, err)
		}
		return
	}
	diffs, err := treecmp.Compare(p.kept, filepath.Join(dir, m.src), treecmp.Options{Max: 1 << 20})
	if err != nil {
		if !list {
			d.t.Errorf("point %.8s: %v", p.id, err)
		}
		return
	}
	if len(diffs) > 0 && res.Failed == 0 {
		d.t.Errorf("point %.8s: restored otherwise without a word: %v", p.id, diffs)
	}
	for _, diff := range diffs {
		path := diff.Path
		if path == "." {
			path = ""
		}
		mayLack := slices.ContainsFunc(p.files[path], lost)
		switch {
		case mayLack && diff.Aspect&(treecmp.Missing|treecmp.Xattrs|treecmp.Links) != 0:
		case list && diff.Aspect&(treecmp.Missing|treecmp.Links|ofFolders) != 0:
		case diff.Aspect == treecmp.Links && slices.ContainsFunc(diffs, func(o treecmp.Diff) bool { return o.Aspect == treecmp.Missing }):
		default:
			d.t.Errorf("point %.8s: restored otherwise: %v: %s", p.id, diff, m.notes)
		}
	}
}
