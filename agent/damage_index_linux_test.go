package agent

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/tharsis-backup/tharsis/internal/treecmp"
	"github.com/tharsis-backup/tharsis/vault/key"
)

// objects are the paths of the vault's objects whose names begin so.
func (r *rig) objects(prefix string) (files []string) {
	r.t.Helper()
	noErr(r.t, filepath.WalkDir(r.vault, func(path string, e os.DirEntry, err error) error {
		rel, _ := filepath.Rel(r.vault, path)
		if err == nil && e.Type().IsRegular() && len(rel) >= len(prefix) && rel[:len(prefix)] == prefix {
			files = append(files, path)
		}
		return err
	}))
	return files
}

// packsOf are the paths of the packs of a type.
func (r *rig) packs(typ uint8) (files []string) {
	r.t.Helper()
	for _, f := range r.objects("packs/") {
		b, err := os.ReadFile(f)
		noErr(r.t, err)
		if b[5] == typ {
			files = append(files, f)
		}
	}
	return files
}

// spoil flips a bit of a file.
func spoil(t testing.TB, file string, at int) {
	t.Helper()
	b, err := os.ReadFile(file)
	noErr(t, err)
	b[at] ^= 16
	noErr(t, os.Chmod(file, 0o600))
	noErr(t, os.WriteFile(file, b, 0o600))
}

// packCase is a pack, and what is done to it.
type packCase struct {
	typ    uint8
	object string // its name in the vault
	how    string
}

func (c packCase) String() string {
	return fmt.Sprintf("%s of type %d %s", filepath.Base(c.object)[:8], c.typ, c.how)
}

// packCases are some of all packs with each of the ways, or all.
func (r *rig) packCases(some int, ways ...string) (chosen []packCase) {
	r.t.Helper()
	var all []packCase
	for _, how := range ways {
		for _, typ := range []uint8{key.TypeDataPack, key.TypeManifestPack} {
			for _, file := range r.packs(typ) {
				all = append(all, packCase{typ, file[len(r.vault)+1:], how})
			}
		}
	}
	for _, i := range sampleOf(len(all), some) {
		chosen = append(chosen, all[i])
	}
	return chosen
}

// fail does to a pack of the vault what a case says.
func (r *rig) fail(c packCase) {
	r.t.Helper()
	file := filepath.Join(r.vault, c.object)
	info, err := os.Stat(file)
	noErr(r.t, err)
	switch c.how {
	case "missing":
		noErr(r.t, os.Remove(file))
	case "cut":
		noErr(r.t, os.Truncate(file, info.Size()/2))
	case "flip": // in the first record
		spoil(r.t, file, 100)
	case "directory":
		spoil(r.t, file, int(info.Size())-30)
	case "both":
		spoil(r.t, file, 100)
		spoil(r.t, file, int(info.Size())-30)
	default:
		panic(c.how)
	}
}

// twoJobs is a rig with two points, in whose index there are two runs.
func twoJobs(t *testing.T) (r *rig, first, second string) {
	r = newRig(t)
	rng := rand.New(rand.NewPCG(71, 72))
	for i := range 120 {
		r.write(fmt.Sprintf("d%d/%03d", i%7, i), noise(rng, 700))
	}
	r.write("large", noise(rng, 500_000))
	first = r.clean().Point
	r.write("more", noise(rng, 3000))
	second = r.clean().Point
	r.wipe()
	if n := len(r.objects("index/")); n != 2 {
		t.Fatalf("%d runs", n)
	}
	return r, first, second
}

// Without an index, or with a damaged one, a restore goes by the packs' own
// directories, and gives everything.
func TestRestoreWithoutIndex(t *testing.T) {
	r, _, second := twoJobs(t)
	rng := rand.New(rand.NewPCG(73, 74))
	cases := map[string]func(p *rig){
		"no run": func(p *rig) { noErr(t, os.RemoveAll(filepath.Join(p.vault, "index"))) },
	}
	for i := range 2 {
		cases[fmt.Sprintf("run %d missing", i)] = func(p *rig) { noErr(t, os.Remove(p.objects("index/")[i])) }
	}
	for range 8 {
		i, share := rng.IntN(2), rng.Float64()
		cases[fmt.Sprintf("run %d flipped at %v", i, share)] = func(p *rig) {
			f := p.objects("index/")[i]
			info, err := os.Stat(f)
			noErr(t, err)
			spoil(t, f, int(float64(info.Size())*share))
		}
	}
	fell := 0
	for name, damage := range cases {
		t.Run(name, func(t *testing.T) {
			p := r.fork()
			p.t = t
			damage(p)
			p.restored(second)
			if p.notes.has(Info, "", "agent repair") {
				fell++
			}
		})
	}
	if fell < len(cases)*2/3 {
		t.Errorf("%d of %d restores went by the directories", fell, len(cases))
	}
}

// hurt runs a check and gives the paths that it says are hurt in a point.
func (r *rig) hurt(point string, o VerifyOptions) (paths map[string]bool, res VerifyResult) {
	r.t.Helper()
	err := r.session(r.t.Context(), func(s *Session) (err error) {
		res, err = s.Verify(r.t.Context(), o)
		return err
	})
	if err != nil && !errors.Is(err, ErrDamaged) || errors.Is(err, ErrDamaged) != (res.Damaged+res.Hurt > 0) {
		r.t.Fatalf("verify: %v, %+v", err, res)
	}
	paths = map[string]bool{}
	for _, d := range res.Damage {
		if d.Point == point {
			paths[d.Path] = true
		}
	}
	return paths, res
}

// checkedAndRestored restores a point of which no list of files is hurt: what a check
// says is hurt is what is missing, and all else is there.
// Of a pack that was cut, a restore may still get what lies before the cut, though a
// check counts all of it as hurt: exact is false then.
func (r *rig) checkedAndRestored(point, want string, exact bool) {
	r.t.Helper()
	hurt, _ := r.hurt(point, VerifyOptions{ReadData: true})
	dir := r.temp()
	defer removeAll(dir)
	res, err := r.tryRestore(RestoreOptions{Point: point, Target: dir})
	noErr(r.t, err)
	if warned := res.Status == CompletedWithWarnings; exact && warned != (len(hurt) > 0) || warned && len(hurt) == 0 {
		r.t.Errorf("%+v, hurt: %v: %s", res, hurt, r.notes)
	}
	diffs, err := treecmp.Compare(want, filepath.Join(dir, r.src), treecmp.Options{Max: 1 << 20})
	noErr(r.t, err)
	missing := map[string]bool{}
	for _, d := range diffs {
		if d.Aspect == treecmp.Missing {
			missing[filepath.Join(r.src, d.Path)] = true
		} else if d.Aspect != treecmp.DirTimes {
			r.t.Errorf("restored otherwise: %v", d)
		}
	}
	for path := range hurt {
		if !exact && !missing[path] {
			delete(hurt, path)
		}
	}
	if !maps.Equal(missing, hurt) {
		r.t.Errorf("missing: %v, said to be hurt: %v", missing, hurt)
	}
}

// A data pack that is missing, cut or flipped takes the files with it that it holds
// something of, and no others.
func TestRestoreWithoutPack(t *testing.T) {
	r, first, second := twoJobs(t)
	for _, c := range r.packCases(12, "missing", "cut", "flip", "directory", "both") {
		if c.typ != key.TypeDataPack {
			continue
		}
		p := r.fork()
		p.t = t
		p.fail(c)
		p.checkedAndRestored(second, r.src, c.how != "cut")
		for _, point := range []string{first, second} {
			hurt, res := p.hurt(point, VerifyOptions{ReadData: true})
			if res.Damaged != 1 || c.how == "directory" && res.Hurt != 0 {
				t.Errorf("%v: %+v, hurt: %v", c, res, hurt)
			}
		}
	}
}
