package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/backend/fault"
	"github.com/tharsis-backup/tharsis/vault/log"
)

// countdown is a context that does something when it was asked for its error so
// many times: a walk asks once an entry.
type countdown struct {
	context.Context
	left atomic.Int64
	do   func()
}

func (c *countdown) Err() error {
	if c.left.Add(-1) == 0 {
		c.do()
	}
	return c.Context.Err()
}

// cancelled runs a backup that is cancelled at about the n-th entry of its walk.
func (r *rig) cancelled(n int64, o BackupOptions) (BackupResult, error) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	defer cancel()
	c := &countdown{Context: ctx, do: cancel}
	c.left.Store(n)
	return r.try(c, o)
}

// cut runs a backup that must be cancelled before its end.
func (r *rig) cut(n int64) {
	r.t.Helper()
	if res, err := r.cancelled(n, BackupOptions{}); err == nil {
		r.t.Fatalf("not cancelled: %+v", res)
	}
}

// copyDir copies a tree of plain files.
func copyDir(t testing.TB, from, to string) {
	t.Helper()
	noErr(t, filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		out := to + strings.TrimPrefix(p, from)
		if d.IsDir() {
			return os.MkdirAll(out, 0o700)
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		return os.WriteFile(out, b, 0o600)
	}))
}

// fork is a rig that goes on from a copy of the home and the vault.
func (r *rig) fork() *rig {
	r.t.Helper()
	quick := quickDir(r.t)
	p := *r
	p.home, p.vault = filepath.Join(quick, "home"), filepath.Join(quick, "vault")
	p.equip()
	copyDir(r.t, r.home, p.home)
	copyDir(r.t, r.vault, p.vault)
	return &p
}

// journal is the path of the journal.
func (r *rig) journal() string {
	r.t.Helper()
	for _, f := range r.cacheFiles() {
		if filepath.Base(f) == "journal" {
			return f
		}
	}
	r.t.Fatal("no journal")
	return ""
}

// isFullScan checks that a point equals that of a machine that knows nothing.
func (r *rig) isFullScan(point string) {
	r.t.Helper()
	r.sameAsFullScan(point, &editor{})
}

// fileBytes is the size of each of manyFiles.
const fileBytes = 1000

// manyFiles fills the source with folders of one file each: a job hands these to
// the readers in many small batches.
func (r *rig) manyFiles(dirs int) {
	rng := rand.New(rand.NewPCG(11, 12))
	for i := range dirs {
		r.write(fmt.Sprintf("%04d/f", i), noise(rng, fileBytes))
	}
}

// inFlight bounds the files that a cancelled job may have walked past and not
// finished: batches in the queue, in the readers and being filled.
const inFlight = (queuedBatches + maxWorkers + 2) * batchDirs

// A job that is cancelled again and again does not read a finished file twice.
func TestResumeReadsNothingTwice(t *testing.T) {
	const manyDirs = 1200
	r := newRig(t)
	r.manyFiles(manyDirs)
	r.cut(1100)
	r.cut(2200)
	res := r.clean()
	if !res.Resumed {
		t.Error("not resumed")
	}
	if most := int64(manyDirs-2200/2+inFlight) * fileBytes; res.BytesRead > most {
		t.Errorf("%d bytes were read after the second cancel, at most %d were left", res.BytesRead, most)
	}
	if res.BytesAdded > res.BytesRead {
		t.Errorf("%d bytes added", res.BytesAdded)
	}
	r.restored(res.Point)
	r.isFullScan(res.Point)
	if res = r.clean(); res.BytesRead != 0 || res.Resumed {
		t.Errorf("the job after: %+v", res)
	}
}

// What was journaled of files that are gone or changed since is not believed.
func TestResumeSeesWhatChangedMeanwhile(t *testing.T) {
	const manyDirs = 400
	r := newRig(t)
	r.manyFiles(manyDirs)
	r.clean()
	rng := rand.New(rand.NewPCG(13, 14))
	for i := range manyDirs { // so that a job has something to journal
		if i%3 == 0 {
			r.write(fmt.Sprintf("%04d/f", i), noise(rng, fileBytes))
		}
		if i%10 == 1 {
			noErr(t, os.RemoveAll(filepath.Join(r.src, fmt.Sprintf("%04d", i))))
		}
	}
	r.cut(600)
	r.cut(700)
	for i := range manyDirs {
		dir := filepath.Join(r.src, fmt.Sprintf("%04d", i))
		switch i % 20 {
		case 0: // same size and modification time
			fi, err := os.Stat(filepath.Join(dir, "f"))
			noErr(t, err)
			r.write(fmt.Sprintf("%04d/f", i), noise(rng, fileBytes))
			noErr(t, os.Chtimes(filepath.Join(dir, "f"), time.Time{}, fi.ModTime()))
		case 1: // its removal was journaled
			r.write(fmt.Sprintf("%04d/f", i), "is back")
		case 3:
			noErr(t, os.RemoveAll(dir))
		case 6:
			noErr(t, os.RemoveAll(dir))
			noErr(t, os.WriteFile(dir, []byte("a file where a folder was"), 0o644))
		case 9:
			noErr(t, os.Rename(filepath.Join(dir, "f"), filepath.Join(dir, "g")))
		}
	}
	res := r.clean()
	r.restored(res.Point)
	r.isFullScan(res.Point)
}

// A huge file is read on from the last part whose packs were stored.
func TestResumeHugeFile(t *testing.T) {
	const size = 48 << 20
	src := t.TempDir()
	rng := rand.New(rand.NewPCG(15, 16))
	noErr(t, os.WriteFile(filepath.Join(src, "huge"), []byte(noise(rng, size)), 0o644))
	for _, c := range []struct {
		name string
		runs []int // how many packs each job stores before it ends
		soft bool
		most int64 // that the last job may read
	}{
		{"killed", []int{1}, false, size - 7<<20}, // the first pack has 11 MiB
		{"killed twice", []int{1, 1}, false, size - 7<<20},
		{"cancelled twice", []int{1, 1}, true, size - 24<<20},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			r.src = src
			for _, packs := range c.runs {
				r.stoppedAtPack(packs, c.soft)
			}
			res := r.clean()
			if !res.Resumed || res.BytesRead > c.most {
				t.Errorf("%d of %d bytes were read again, at most %d: %+v", res.BytesRead, size, c.most, res)
			}
			r.restored(res.Point)
			r.isFullScan(res.Point)
		})
	}
}

// stoppedAtPack runs a backup that is killed, or cancelled, when it is about to
// store one pack more than so many.
func (r *rig) stoppedAtPack(packs int, soft bool) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	defer cancel()
	var seen atomic.Int64
	r.env.Wrap = func(b backend.Backend) backend.Backend {
		return fault.New(b, func(op fault.Op) fault.Action {
			switch pack := op.Kind == fault.Put && strings.HasPrefix(op.Name, "packs/") && !op.After; {
			case !pack || seen.Add(1) <= int64(packs):
			case soft:
				cancel()
			default:
				return fault.Kill(cancel)
			}
			return fault.Action{}
		})
	}
	if res, err := r.try(ctx, BackupOptions{}); err == nil {
		r.t.Fatalf("not stopped: %+v", res)
	}
	r.env.Wrap = nil
}

// Parts of a file that was being written when the job read it are not believed.
func TestRacyPartsAreReadAgain(t *testing.T) {
	r := newRig(t)
	r.ahead.Store(0)
	rng := rand.New(rand.NewPCG(17, 18))
	r.write("a", noise(rng, 12<<20))
	for i := range 50 {
		r.write(fmt.Sprintf("b%02d/x", i), noise(rng, 10))
	}
	r.env.Wrap = func(b backend.Backend) backend.Backend { // all packs are stored, and the point is not made
		return fault.New(b, func(op fault.Op) fault.Action {
			if op.Kind == fault.Put && strings.HasPrefix(op.Name, "index/") {
				return fault.Fail(nil)
			}
			return fault.Action{}
		})
	}
	if res, err := r.try(t.Context(), BackupOptions{}); err == nil {
		t.Fatalf("not failed: %+v", res)
	}
	r.env.Wrap = nil
	r.ahead.Store(int64(10 * time.Second))
	if res := r.clean(); !res.Resumed || res.BytesRead != 12<<20+500 || res.BytesAdded != 0 {
		t.Errorf("racy: %+v", res)
	}
}

// A journal counts up to where it is whole, wherever it was cut or spoilt.
func TestResumeFromTornJournal(t *testing.T) {
	r := newRig(t)
	rng := rand.New(rand.NewPCG(19, 20))
	for i := range 60 {
		r.write(fmt.Sprintf("%02d/f", i), noise(rng, 500))
	}
	r.write("00/large", noise(rng, 5<<20))
	r.clean()
	for i := range 60 {
		if i%2 == 0 {
			r.write(fmt.Sprintf("%02d/f", i), noise(rng, 400))
		}
		if i%7 == 0 {
			noErr(t, os.Remove(filepath.Join(r.src, fmt.Sprintf("%02d/f", i))))
		}
	}
	r.write("00/large", noise(rng, 5<<20))
	r.cut(70)
	whole, err := os.ReadFile(r.journal())
	noErr(t, err)
	p := r.fork()
	full := p.root(p.fullScan())
	check := func(name string, journal []byte) {
		p := r.fork()
		noErr(t, os.WriteFile(p.journal(), journal, 0o600))
		res, err := p.try(t.Context(), BackupOptions{})
		if err != nil || res.Status != Completed {
			t.Fatalf("%s: %v, %+v: %s", name, err, res, p.notes)
		}
		if p.root(res.Point) != full {
			t.Errorf("%s: another point", name)
		}
	}
	step := max(len(whole)/25, 1)
	for n := 0; n <= len(whole); n += step {
		check(fmt.Sprintf("cut at %d of %d", n, len(whole)), whole[:n])
	}
	for range 12 {
		b := []byte(string(whole))
		at := rng.IntN(len(b))
		b[at] ^= 1 << rng.IntN(8)
		check(fmt.Sprintf("bit of byte %d of %d", at, len(b)), b)
	}
	check("with a tail", append([]byte(string(whole)), whole...))
	other := newRig(t)
	other.manyFiles(200)
	other.cut(300)
	foreign, err := os.ReadFile(other.journal())
	noErr(t, err)
	check("of another vault", foreign)
	check("that ends in another vault's", append([]byte(string(whole)), foreign...))
}

// A source that goes away midway fails, and nothing of what was seen counts.
func TestSourceGoesAwayMidway(t *testing.T) {
	const manyDirs = 300
	for _, killed := range []bool{false, true} {
		t.Run(fmt.Sprintf("killed=%v", killed), func(t *testing.T) {
			r := newRig(t)
			r.manyFiles(manyDirs)
			good := filepath.Join(r.dir, "good")
			noErr(t, os.Mkdir(good, 0o755))
			noErr(t, os.WriteFile(filepath.Join(good, "g"), []byte("good"), 0o644))
			both := BackupOptions{Paths: []string{good, r.src}}
			first := r.backup(both)
			rng := rand.New(rand.NewPCG(21, 22))
			for i := range manyDirs / 2 {
				r.write(fmt.Sprintf("%04d/f", 2*i), noise(rng, fileBytes))
			}
			away := r.src + ".away"
			c := &countdown{Context: t.Context(), do: func() {
				noErr(t, os.Rename(r.src, away))
				noErr(t, os.Mkdir(r.src, 0o755))
				noErr(t, os.WriteFile(filepath.Join(r.src, "other"), []byte("other"), 0o644))
			}}
			c.left.Store(350)
			if killed {
				r.env.Wrap = failCommits
			}
			res, err := r.try(c, both)
			if !killed {
				if err != nil || res.Status != CompletedWithWarnings || !r.notes.has(Failure, r.src, "went away") {
					t.Fatalf("%v, %+v: %s", err, res, r.notes)
				}
				p := r.point(res.Point)
				if p.Sources[0].Status != log.StatusComplete || p.Sources[1].Status != log.StatusFailed {
					t.Errorf("%+v", p.Sources)
				}
			}
			r.env.Wrap = nil
			noErr(t, os.RemoveAll(r.src))
			noErr(t, os.Rename(away, r.src))
			res = r.clean()
			r.restored(res.Point)
			r.isFullScan(res.Point)
			r.t = t
			if res, err := r.tryRestore(RestoreOptions{Point: first.Point, Target: r.temp()}); err != nil || res.Failed > 0 {
				t.Errorf("the point before: %v, %+v", err, res)
			}
		})
	}
}

// failCommits lets a job die just before its point is made.
func failCommits(b backend.Backend) backend.Backend {
	return fault.New(b, func(op fault.Op) fault.Action {
		if op.Kind == fault.Put && strings.HasPrefix(op.Name, "log/") {
			return fault.Kill(nil)
		}
		return fault.Action{}
	})
}

// What a PARTIAL holds is neither read nor stored again, even if the cache is
// lost, and it is no point.
func TestPartialSurvivesLostCache(t *testing.T) {
	const manyDirs = 400
	r := newRig(t)
	r.manyFiles(manyDirs)
	ahead := r.ahead
	r.env.Clock = func() time.Time { return time.Now().Add(time.Duration(ahead.Add(int64(time.Second)))) }
	r.env.PartialEvery = 5 * time.Second
	r.cut(700)
	r.wipe()
	var held int64
	r.env.PartialEvery = 0
	noErr(t, r.session(t.Context(), func(s *Session) error {
		if points, err := s.Points(t.Context(), PointFilter{}); err != nil || len(points) != 0 {
			t.Errorf("points: %v, %v", points, err)
		}
		partials := s.vault.Log.State().Partials()
		if len(partials) != 1 {
			t.Fatalf("%d partials", len(partials))
		}
		held = int64(partials[0].Source.Files)
		return nil
	}))
	if held < manyDirs/10 {
		t.Errorf("the PARTIAL holds %d files", held)
	}
	res := r.clean()
	if most := (manyDirs - held) * fileBytes; res.BytesRead > most || res.BytesAdded > most {
		t.Errorf("read %d and added %d bytes, at most %d", res.BytesRead, res.BytesAdded, most)
	}
	r.restored(res.Point)
	r.isFullScan(res.Point)
	noErr(t, r.session(t.Context(), func(s *Session) error {
		if n := len(s.vault.Log.State().Partials()); n != 0 {
			t.Errorf("%d partials are left", n)
		}
		return nil
	}))
}

// A PARTIAL of a job that came to few files does not make an emptied source, or
// one that lost most of its files, pass for a small one.
func TestEmptiedAfterPartial(t *testing.T) {
	for _, emptied := range []bool{false, true} {
		r := newRig(t)
		for i := range 60 {
			noErr(t, os.Mkdir(filepath.Join(r.src, fmt.Sprintf("%02d", i)), 0o755))
		}
		for i := range 20 {
			r.write(fmt.Sprintf("z/%02d", i), "x")
		}
		r.clean()
		noErr(t, os.Chmod(filepath.Join(r.src, "03"), 0o700))
		r.env.PartialEvery = time.Nanosecond
		for n := int64(0); r.partials() == 0; n += 5 {
			if n > 1000 {
				t.Fatal("no PARTIAL")
			}
			r.cancelled(n, BackupOptions{})
		}
		r.env.PartialEvery = 0
		noErr(t, os.Rename(filepath.Join(r.src, "z"), filepath.Join(r.dir, "z")))
		if emptied {
			noErr(t, os.RemoveAll(r.src))
			noErr(t, os.Mkdir(r.src, 0o755))
			if _, err := r.try(t.Context(), BackupOptions{}); !errors.Is(err, ErrAllFailed) || !r.notes.has(Failure, r.src, "empty") {
				t.Errorf("emptied: %v: %s", err, r.notes)
			}
			continue
		}
		if res := r.backup(BackupOptions{}); !r.point(res.Point).Suspect {
			t.Errorf("not suspect: %+v: %s", res, r.notes)
		}
	}
}

// partials is the number of sources that have a PARTIAL.
func (r *rig) partials() (n int) {
	r.t.Helper()
	noErr(r.t, r.session(r.t.Context(), func(s *Session) error {
		n = len(s.vault.Log.State().Partials())
		return nil
	}))
	return n
}

// A long job may make any number of PARTIALs, and so may the job that resumes
// it: neither takes what it goes by from itself.
func TestPartialsOfResumedJob(t *testing.T) {
	r := newRig(t)
	r.manyFiles(100)
	r.env.PartialEvery = time.Nanosecond
	for range 3 {
		r.cut(150)
		if r.partials() != 1 {
			t.Error("no PARTIAL")
		}
	}
	res := r.clean()
	r.restored(res.Point)
	r.isFullScan(res.Point)
	r.write("0003/f", "changed")
	r.cut(100)
	r.wipe()
	r.isFullScan(r.clean().Point)
	r.verified()
}

// What was journaled of files whose pack never reached the vault is not believed.
func TestResumeWithoutThePacks(t *testing.T) {
	for _, name := range []string{"packs/", "index/", "log/"} {
		for _, after := range []bool{false, true} {
			r := newRig(t)
			r.clean() // which makes the log know the machine
			r.smallTree()
			r.env.Wrap = func(b backend.Backend) backend.Backend {
				return fault.New(b, func(op fault.Op) fault.Action {
					if op.Kind == fault.Put && strings.HasPrefix(op.Name, name) && op.After == after {
						return fault.Kill(nil)
					}
					return fault.Action{}
				})
			}
			if res, err := r.try(t.Context(), BackupOptions{}); err == nil {
				t.Fatalf("not killed: %+v", res)
			}
			r.env.Wrap = nil
			res := r.clean()
			if name != "packs/" && (res.BytesRead != 0 || res.BytesAdded != 0) {
				t.Errorf("%s after=%v: %+v", name, after, res)
			}
			r.restored(res.Point)
			r.isFullScan(res.Point)
		}
	}
}
