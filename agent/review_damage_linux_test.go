package agent

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tharsis-backup/tharsis/vault/pack"
)

// A check names what is hurt wherever an index run is damaged, also where only
// looking something up meets that.
func TestVerifyDamagedRun(t *testing.T) {
	r := newRig(t)
	rng := rand.New(rand.NewPCG(51, 52))
	for i := range 300 {
		r.write(fmt.Sprintf("%03d", i), noise(rng, 300))
	}
	r.clean()
	runs, err := filepath.Glob(filepath.Join(r.vault, "index", "*"))
	must(t, err)
	size, err := os.Stat(runs[0])
	must(t, err)
	for at := int64(0); at < size.Size(); at += 1 + size.Size()/15 {
		p := r.fork()
		run := filepath.Join(p.vault, "index", filepath.Base(runs[0]))
		b, err := os.ReadFile(run)
		must(t, err)
		b[at] ^= 1
		must(t, os.WriteFile(run, b, 0o600))
		var res VerifyResult
		err = p.session(t.Context(), func(s *Session) (err error) {
			res, err = s.Verify(t.Context(), VerifyOptions{})
			return err
		})
		if !errors.Is(err, ErrDamaged) || res.Hurt == 0 {
			t.Errorf("byte %d: %v, %+v", at, err, res)
		}
	}
}

// Where the list of one source's files is damaged, the other sources are restored.
func TestRestoreBesideDamagedSource(t *testing.T) {
	r := newRig(t)
	r.write("a/x", "one")
	r.write("b/x", "two")
	res := r.backup(BackupOptions{Paths: []string{filepath.Join(r.src, "a"), filepath.Join(r.src, "b")}})
	p := r.point(res.Point)
	must(t, r.session(t.Context(), func(s *Session) error {
		v, err := s.view(t.Context())
		if err != nil {
			return err
		}
		locs, err := v.index.Find(t.Context(), p.Sources[0].Root, nil)
		if err != nil || len(locs) == 0 {
			return fmt.Errorf("no root page: %w", err)
		}
		f := filepath.Join(r.vault, pack.Name(locs[0].Pack))
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		b[locs[0].RecordOffset+20] ^= 1
		os.Chmod(f, 0o600)
		return os.WriteFile(f, b, 0o600)
	}))
	r.wipe()
	for _, paths := range [][]string{nil, {filepath.Join(r.src, "b/x")}} {
		dir := r.temp()
		got, err := r.tryRestore(RestoreOptions{Point: "latest", Target: dir, Paths: paths})
		if want := len(paths) == 0; err != nil || (got.Status == CompletedWithWarnings) != want || (got.Failed == 1) != want {
			t.Errorf("%v, %+v: %s", err, got, r.notes)
		}
		if b, err := os.ReadFile(filepath.Join(dir, r.src, "b/x")); err != nil || string(b) != "two" {
			t.Errorf("%q, %v", b, err)
		}
	}
}

// A restore of a point in which a source failed is not complete.
func TestRestoreWithoutFailedSource(t *testing.T) {
	r := newRig(t)
	r.write("a/x", "one")
	a, b := filepath.Join(r.src, "a"), filepath.Join(r.src, "b")
	r.backup(BackupOptions{Paths: []string{a, b}})
	for _, c := range []struct {
		paths []string
		want  Status
	}{{nil, CompletedWithWarnings}, {[]string{a}, Completed}} {
		res, err := r.tryRestore(RestoreOptions{Point: "latest", Target: r.temp(), Paths: c.paths})
		if err != nil || res.Status != c.want || res.Restored == 0 {
			t.Errorf("%v: %v, %+v: %s", c.paths, err, res, r.notes)
		}
	}
}

// One file of the source / is restored without what the target itself is being
// made what / was.
func TestRestoreOfOneFileOfRoot(t *testing.T) {
	r := newRig(t)
	file := r.write("x", "one")
	o := BackupOptions{Paths: []string{"/"}, CrossMounts: true, Excludes: []string{"/*"}}
	for _, name := range strings.Split(r.src[1:], "/") {
		last := strings.TrimSuffix(o.Excludes[len(o.Excludes)-1], "*") + name
		o.Excludes = append(o.Excludes, "!"+last, last+"/*")
	}
	o.Excludes = o.Excludes[:len(o.Excludes)-1]
	r.backup(o)
	for _, paths := range [][]string{{file}, nil} {
		dir := r.temp()
		res, err := r.tryRestore(RestoreOptions{Point: "latest", Target: dir, Paths: paths})
		if b, rerr := os.ReadFile(filepath.Join(dir, file)); err != nil || rerr != nil || string(b) != "one" {
			t.Fatalf("%v, %v, %+v: %s", err, rerr, res, r.notes)
		}
		want, err := os.Stat("/")
		must(t, err)
		got, err := os.Stat(dir)
		must(t, err)
		if same := got.Mode() == want.Mode(); same != (paths == nil) {
			t.Errorf("%v: the target is %v, and / is %v", paths, got.Mode(), want.Mode())
		}
		if len(paths) > 0 && res.Restored != 1 {
			t.Errorf("%+v", res)
		}
	}
}
