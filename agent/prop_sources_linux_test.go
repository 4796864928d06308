package agent

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tharsis-backup/tharsis/agent/home"
	"github.com/tharsis-backup/tharsis/vault/log"
	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// plainUser is one that owns nothing.
const plainUser = 65534

// asUser runs the test that calls it as a user who is not root, in another
// process where this one's is root: true says that it did, and the caller is done.
func asUser(t *testing.T) bool {
	t.Helper()
	if os.Getuid() != 0 {
		return false
	}
	dir := t.TempDir()
	for p := dir; p != os.TempDir() && p != "/"; p = filepath.Dir(p) {
		noErr(t, os.Chmod(p, 0o711)) // so that the user gets there
	}
	tmp := filepath.Join(dir, "tmp")
	noErr(t, os.Mkdir(tmp, 0o700))
	noErr(t, os.Chown(tmp, plainUser, plainUser))
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Dir = tmp
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: plainUser, Gid: plainUser}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("as user %d: %v\n%s", plainUser, err, out)
	}
	return true
}

// names are the paths of a point's entries, sorted, without the root.
func (r *rig) names(point string) []string {
	r.t.Helper()
	all := r.entries(point)
	delete(all, "")
	return slices.Sorted(maps.Keys(all))
}

func (r *rig) wantNames(point string, want ...string) {
	r.t.Helper()
	slices.Sort(want)
	if got := r.names(point); !slices.Equal(got, want) {
		r.t.Errorf("the point has\n%q, want\n%q", got, want)
	}
}

func TestExcludes(t *testing.T) {
	r := newRig(t)
	for _, f := range []string{
		"a.txt", "a.log", "keep.log", "cache/CACHEDIR.TAG", "cache/x", "build/out", "deep/build/out", "deep/b.tmp",
		"own/.tharsisignore", "own/secret", "own/public", "own/below/secret",
	} {
		r.write(f, "x")
	}
	r.write("cache/CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55\n")
	r.write("own/.tharsisignore", "secret\n")
	file := filepath.Join(r.dir, "patterns")
	noErr(t, os.WriteFile(file, []byte("# comment\n*.tmp\n"), 0o644))
	all := r.clean()
	r.wantNames(all.Point, "a.txt", "a.log", "keep.log", "cache", "cache/CACHEDIR.TAG", "build", "build/out", "deep", "deep/build",
		"deep/build/out", "deep/b.tmp", "own", "own/.tharsisignore", "own/public", "own/below")
	some := r.backup(BackupOptions{Excludes: []string{"*.log", "!keep.log", "/build"}, ExcludeFiles: []string{file}})
	r.wantNames(some.Point, "a.txt", "keep.log", "cache", "cache/CACHEDIR.TAG", "deep", "deep/build", "deep/build/out",
		"own", "own/.tharsisignore", "own/public", "own/below")
	if some.BytesRead != 0 {
		t.Errorf("excluding read %d bytes", some.BytesRead)
	}
	// What is no longer excluded comes back, stored already.
	again := r.clean()
	if r.root(again.Point) != r.root(all.Point) || again.BytesAdded != 0 {
		t.Errorf("no longer excluded: %+v", again)
	}
	if _, err := r.try(t.Context(), BackupOptions{ExcludeFiles: []string{file + "x"}}); err == nil && !r.notes.has(Failure, "", "") {
		t.Error("a missing file of patterns is no failure")
	}
}

// The vault and the home are left out, where they lie in the source.
func TestOwnFilesAreLeftOut(t *testing.T) {
	r := newRig(t)
	r.write("f", "x")
	for _, name := range []string{"vault", "home"} {
		noErr(t, os.Mkdir(filepath.Join(r.src, name+"-box"), 0o755))
	}
	inside := r.fork()
	inside.vault, inside.home = filepath.Join(r.src, "vault-box", "v"), filepath.Join(r.src, "home-box", "h")
	copyDir(t, r.vault, inside.vault)
	copyDir(t, r.home, inside.home)
	for range 2 {
		res := inside.clean()
		inside.wantNames(res.Point, "f", "vault-box", "home-box")
	}
}

func mountTmpfs(t *testing.T, dir string) {
	t.Helper()
	if err := unix.Mount("tharsis-test", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("cannot mount here: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
}

func TestMounts(t *testing.T) {
	r := newRig(t)
	r.write("a/f", "x")
	r.write("m/under", "hidden by the mount")
	mountTmpfs(t, filepath.Join(r.src, "m"))
	r.write("m/in", "on the other file system")
	one := r.clean()
	r.wantNames(one.Point, "a", "a/f", "m")
	if !r.notes.has(Info, "/m", "not entered") {
		t.Errorf("not noted: %s", r.notes)
	}
	crossed := r.backup(BackupOptions{CrossMounts: true})
	r.wantNames(crossed.Point, "a", "a/f", "m", "m/in")
	if e := r.entries(crossed.Point)["m"]; e.FSID == "" {
		t.Errorf("the mount point has no file system: %+v", e)
	}
	r.wantNames(r.clean().Point, "a", "a/f", "m")
	noErr(t, unix.Unmount(filepath.Join(r.src, "m"), 0))
	r.wantNames(r.clean().Point, "a", "a/f", "m", "m/under")
}

// staleNames are the entries of a point that are flagged stale.
func (r *rig) staleNames(point string) (names []string) {
	r.t.Helper()
	for p, e := range r.entries(point) {
		if e.Flags&manifest.FlagStale != 0 {
			names = append(names, p)
		}
	}
	slices.Sort(names)
	return names
}

// What cannot be read keeps what the base has, flagged, and is named.
func TestUnreadableKeepsBase(t *testing.T) {
	if asUser(t) {
		return
	}
	r := newRig(t)
	for _, f := range []string{"d/a", "d/sub/b", "d/sub/large", "e/c", "f"} {
		r.write(f, "content of "+f)
	}
	r.write("d/sub/large", strings.Repeat("large", 100<<10))
	before := r.clean()
	kept := filepath.Join(r.restore(before.Point), r.src)

	hide := func(mode uint32) {
		for _, p := range []string{"d", "f"} {
			noErr(t, unix.Chmod(filepath.Join(r.src, p), mode))
		}
	}
	hide(0)
	r.write("e/c", "changed while the others were unreadable")
	for i := range 3 {
		res := r.backup(BackupOptions{})
		if res.Status != CompletedWithWarnings || res.Warnings != 2 || res.FilesGone != 0 {
			t.Errorf("%+v: %s", res, r.notes)
		}
		for _, p := range []string{"/d", "/f"} {
			if !r.notes.has(Warning, p, "permission denied") {
				t.Errorf("%s is not named: %s", p, r.notes)
			}
		}
		want := []string{"d/a", "d/sub", "d/sub/b", "d/sub/large", "f"}
		if got := r.staleNames(res.Point); !slices.Equal(got, want) {
			t.Errorf("stale: %q, want %q", got, want)
		}
		dir := filepath.Join(r.restore(res.Point), r.src)
		noErr(t, os.Chmod(filepath.Join(dir, "d"), 0o755))
		same(t, filepath.Join(kept, "d", "sub"), filepath.Join(dir, "d", "sub"))
		same(t, filepath.Join(r.src, "e"), filepath.Join(dir, "e"))
		if i == 1 {
			r.wipe()
		}
	}
	hide(0o755)
	r.write("d/a", "changed when it was readable again")
	res := r.clean()
	if got := r.staleNames(res.Point); len(got) != 0 {
		t.Errorf("still stale: %q", got)
	}
	r.restored(res.Point)
	r.isFullScan(res.Point)
}

// An unreadable folder or file that no point has leaves no trace but its name.
func TestUnreadableAndNew(t *testing.T) {
	if asUser(t) {
		return
	}
	r := newRig(t)
	r.write("d/a", "x")
	r.write("f", "x")
	r.write("g", "x")
	noErr(t, os.Chmod(filepath.Join(r.src, "d"), 0))
	noErr(t, os.Chmod(filepath.Join(r.src, "f"), 0))
	for range 2 {
		res := r.backup(BackupOptions{})
		if res.Status != CompletedWithWarnings {
			t.Errorf("%+v", res)
		}
		r.wantNames(res.Point, "d", "g")
	}
	noErr(t, os.Chmod(filepath.Join(r.src, "d"), 0o755))
	noErr(t, os.Chmod(filepath.Join(r.src, "f"), 0o644))
	r.restored(r.clean().Point)
}

// A job that was killed and whose folder then can't be listed keeps what both
// the base and the journal have.
func TestUnreadableAfterKill(t *testing.T) {
	if asUser(t) {
		return
	}
	r := newRig(t)
	r.write("d/old", "x")
	r.write("d/changed", "x")
	r.write("d/gone", "x")
	r.clean()
	noErr(t, os.Remove(filepath.Join(r.src, "d", "gone")))
	r.write("d/changed", "y")
	r.write("d/new", "y")
	r.env.Wrap = failCommits
	if _, err := r.try(t.Context(), BackupOptions{}); err == nil {
		t.Fatal("not killed")
	}
	r.env.Wrap = nil
	noErr(t, os.Chmod(filepath.Join(r.src, "d"), 0))
	res := r.backup(BackupOptions{})
	// What the job saw go is kept nevertheless: it was seen by no point.
	r.wantNames(res.Point, "d", "d/changed", "d/gone", "d/new", "d/old")
	if got := r.staleNames(res.Point); len(got) != 4 {
		t.Errorf("stale: %q", got)
	}
	noErr(t, os.Chmod(filepath.Join(r.src, "d"), 0o755))
	r.restored(r.clean().Point)
}

// A source that is not what it was fails, with its earlier points and other
// sources untouched, until it is back or accepted.
func TestSourceFails(t *testing.T) {
	aside := func(r *rig) { noErr(r.t, os.Rename(r.src, r.src+".away")) }
	back := func(r *rig) {
		noErr(r.t, os.RemoveAll(r.src))
		noErr(r.t, os.Rename(r.src+".away", r.src))
	}
	for _, c := range []struct {
		name, text    string
		spoil, mend   func(*rig)
		cannotBeTaken bool
	}{
		{"missing", "no such file", aside, func(r *rig) { noErr(r.t, os.Rename(r.src+".away", r.src)) }, true},
		{"emptied", "empty", func(r *rig) { aside(r); noErr(r.t, os.Mkdir(r.src, 0o755)) }, back, false},
		{"a file", "empty", func(r *rig) { aside(r); noErr(r.t, os.WriteFile(r.src, []byte("x"), 0o644)) }, back, false},
		{"another file system", "another file system", func(r *rig) {
			mountTmpfs(r.t.(*testing.T), r.src)
			r.write("new", "on the other")
		}, func(r *rig) { noErr(r.t, unix.Unmount(r.src, 0)) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			for i := range 10 {
				r.write(fmt.Sprintf("d/%d", i), "x")
			}
			good := filepath.Join(r.dir, "good")
			noErr(t, os.Mkdir(good, 0o755))
			both := BackupOptions{Paths: []string{r.src, good}}
			first := r.backup(both)
			c.spoil(r)
			for range 2 {
				res := r.backup(both)
				if res.Status != CompletedWithWarnings || res.FilesGone != 0 || !r.notes.has(Failure, r.src, c.text) {
					t.Fatalf("%+v: %s", res, r.notes)
				}
				for _, src := range r.point(res.Point).Sources {
					if failed := src.Status == log.StatusFailed; failed != (src.Path == r.src) {
						t.Errorf("%+v", src)
					}
				}
			}
			if res, err := r.try(t.Context(), BackupOptions{}); !errors.Is(err, ErrAllFailed) || res.Point != "" {
				t.Errorf("alone: %v, %+v", err, res)
			}
			if _, err := r.try(t.Context(), BackupOptions{DryRun: true}); !errors.Is(err, ErrAllFailed) {
				t.Errorf("alone, in a dry run: %v", err)
			}
			if !c.cannotBeTaken {
				fork := r.fork()
				res := fork.backup(BackupOptions{AcceptSources: []string{r.src}})
				if res.Status != Completed {
					t.Errorf("accepted: %+v: %s", res, fork.notes)
				}
				fork.restored(res.Point)
			}
			c.mend(r)
			res := r.backup(both)
			if res.Status != Completed || res.BytesRead != 0 || res.FilesUnmodified != 10 {
				t.Errorf("back: %+v: %s", res, r.notes)
			}
			r.restore(first.Point)
		})
	}
}

func TestSuspect(t *testing.T) {
	r := newRig(t)
	for i := range 10 {
		r.write(fmt.Sprintf("d/%d", i), "x")
	}
	r.clean()
	for i := range 5 {
		noErr(t, os.Remove(filepath.Join(r.src, "d", fmt.Sprint(i))))
	}
	if p := r.point(r.clean().Point); p.Suspect { // half is not over half
		t.Error("suspect")
	}
	for i := range 3 {
		noErr(t, os.Remove(filepath.Join(r.src, "d", fmt.Sprint(5+i))))
	}
	res := r.backup(BackupOptions{})
	p := r.point(res.Point)
	if res.Status != CompletedWithWarnings || !p.Suspect || p.Sources[0].Status != log.StatusSuspect || !r.notes.has(Warning, r.src, "suspect") {
		t.Errorf("%+v: %+v: %s", res, p, r.notes)
	}
	r.restored(res.Point)
	noErr(t, os.Remove(filepath.Join(r.src, "d", "8")))
	noErr(t, os.Remove(filepath.Join(r.src, "d", "9")))
	if res := r.backup(BackupOptions{AcceptSources: []string{r.src}}); res.Status != Completed || r.point(res.Point).Suspect {
		t.Errorf("accepted: %+v", res)
	}
}

// churn changes a file without pause, its size too, until stop is called.
func churn(t *testing.T, path string, size int) (stop func()) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	noErr(t, err)
	var done atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; !done.Load(); i++ {
			f.WriteAt([]byte{byte(i)}, int64(i%size))
			f.Truncate(int64(size + i%17))
		}
	})
	return func() {
		done.Store(true)
		wg.Wait()
		f.Close()
	}
}

// A file that changes each time while it is read is stored as unstable, and read
// again by the next job.
func TestUnstable(t *testing.T) {
	for _, size := range []int{20 << 10, 4 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			r := newRig(t)
			p := r.write("f", strings.Repeat("x", size))
			r.write("g", "beside")
			r.clean()
			stop := churn(t, p, size)
			var res BackupResult
			for range 200 { // it takes luck to change the file in all tries
				if res = r.backup(BackupOptions{}); res.Status == CompletedWithWarnings {
					break
				}
			}
			stop()
			if !r.notes.has(Warning, "/f", "changed each time") {
				t.Fatalf("%+v: %s", res, r.notes)
			}
			e := r.entries(res.Point)["f"]
			if e.Flags != manifest.FlagUnstable {
				t.Errorf("flags %v", e.Flags)
			}
			if src := r.point(res.Point).Sources[0]; src.Status != log.StatusWarnings {
				t.Errorf("%+v", src)
			}
			r.restore(res.Point)
			res = r.clean()
			if e = r.entries(res.Point)["f"]; e.Flags != 0 || res.BytesRead < int64(size) {
				t.Errorf("the job after: %+v, flags %v", res, e.Flags)
			}
			r.restored(res.Point)
		})
	}
}

// meanwhile runs a backup and does something after the walk met the last entry
// and before the (few, small) files are read.
func (r *rig) meanwhile(do func()) BackupResult {
	r.t.Helper()
	// The walk notes a socket when it comes to it.
	last := filepath.Join(r.src, "~last")
	noErr(r.t, unix.Mknod(last, unix.S_IFSOCK|0o600, 0))
	r.notes.hook = func(n Note) {
		if n.Path == last {
			do()
		}
	}
	res := r.backup(BackupOptions{})
	r.notes.hook = nil
	noErr(r.t, os.Remove(last))
	return res
}

func TestFilesChangeBetweenWalkAndRead(t *testing.T) {
	for _, based := range []bool{false, true} {
		t.Run(fmt.Sprintf("based=%v", based), func(t *testing.T) {
			r := newRig(t)
			list := []string{"d/gone", "gone", "grown", "large", "link", "replaced", "shrunk", "stays"}
			fill := func(c string) {
				for _, f := range list {
					r.write(f, strings.Repeat(c, 100))
				}
			}
			fill("base")
			if based {
				r.clean()
				fill("now")
			}
			p := func(name string) string { return filepath.Join(r.src, name) }
			res := r.meanwhile(func() {
				noErr(t, os.RemoveAll(p("d")))
				noErr(t, os.Remove(p("gone")))
				r.write("grown", strings.Repeat("grown", 1000))
				r.write("large", strings.Repeat("large", 100<<10))
				noErr(t, os.Remove(p("link")))
				noErr(t, os.Symlink("stays", p("link")))
				noErr(t, os.Remove(p("replaced")))
				r.write("replaced", "by another file")
				r.write("shrunk", "s")
			})
			for _, f := range []string{"d/gone", "/gone"} {
				if !r.notes.has(Info, f, "vanished") {
					t.Errorf("%s: %s", f, r.notes)
				}
			}
			// A link in the place of a file is an entry that could not be read.
			if res.Status != CompletedWithWarnings || res.Warnings != 1 || !r.notes.has(Warning, "/link", "replaced") {
				t.Errorf("%+v: %s", res, r.notes)
			}
			want := []string{"d", "grown", "large", "replaced", "shrunk", "stays"}
			if based {
				want = append(want, "link")
			}
			r.wantNames(res.Point, want...)
			if src := r.point(res.Point).Sources[0]; int(src.Files) != len(want)-1 || int(src.Entries) != len(want)+1 {
				t.Errorf("the point says that it has %d files of %d entries", src.Files, src.Entries)
			}
			dir := filepath.Join(r.restore(res.Point), r.src)
			for _, f := range []string{"grown", "large", "replaced", "shrunk", "stays"} {
				same(t, p(f), filepath.Join(dir, f))
			}
			res = r.clean()
			r.restored(res.Point)
			r.isFullScan(res.Point)
		})
	}
}

func TestSourcePaths(t *testing.T) {
	r := newRig(t)
	for _, f := range []string{"a/f", "a-/f", "a/b/f", "c"} {
		r.write(f, "x")
	}
	noErr(t, os.Symlink("c", filepath.Join(r.src, "link")))
	p := func(name string) string { return filepath.Join(r.src, name) }
	paths := func(point string) (all []string) {
		for _, src := range r.point(point).Sources {
			all = append(all, src.Path)
		}
		return all
	}
	res := r.backup(BackupOptions{Paths: []string{p("link"), p("c"), p("a/b"), p("a-"), p("a"), p("a")}})
	want := []string{p("a"), p("a-"), p("c"), p("link")}
	if got := paths(res.Point); !slices.Equal(got, want) {
		t.Errorf("sources %q, want %q", got, want)
	}
	if !r.notes.has(Info, "a/b", "is inside "+p("a")) {
		t.Errorf("no note: %s", r.notes)
	}
	// A file and a link are sources as well, and no path means those of last time.
	noErr(t, os.WriteFile(p("c"), []byte("changed"), 0o644))
	res = r.backup(BackupOptions{Paths: []string{}})
	if got := paths(res.Point); !slices.Equal(got, want) || res.FilesChanged != 1 || res.Status != Completed {
		t.Errorf("sources %q, %+v", got, res)
	}
	dir := r.restore(res.Point)
	for _, name := range []string{"a", "a-", "c", "link"} {
		same(t, p(name), filepath.Join(dir, p(name)))
	}
	fresh := newRig(t)
	if _, err := fresh.try(t.Context(), BackupOptions{Paths: []string{}}); !errors.Is(err, ErrNoSources) {
		t.Errorf("no path on a new machine: %v", err)
	}
}

// A dry run tells what a backup would do, and changes nothing.
func TestDryRun(t *testing.T) {
	r := newRig(t)
	r.smallTree()
	compare := func() {
		t.Helper()
		vault := r.vaultBytes()
		dry := r.backup(BackupOptions{DryRun: true})
		if dry.Point != "" || dry.BytesStored != 0 || r.vaultBytes() != vault {
			t.Errorf("dry run: %+v", dry)
		}
		real := r.fork().backup(BackupOptions{})
		dry.Point, dry.Duration, dry.Head = real.Point, real.Duration, real.Head
		dry.BytesAdded, dry.BytesStored = real.BytesAdded, real.BytesStored
		if dry != real {
			t.Errorf("dry run: %+v\nreal run: %+v", dry, real)
		}
	}
	compare()
	r.clean()
	compare()
	r.write("d1/new", "x")
	r.write("d1/medium", "changed")
	noErr(t, os.Remove(filepath.Join(r.src, "d2", "large")))
	compare()
	r.env.Wrap = failCommits
	if _, err := r.try(t.Context(), BackupOptions{}); err == nil {
		t.Fatal("not killed")
	}
	r.env.Wrap = nil
	compare()
	r.isFullScan(r.clean().Point)
}

// Two jobs on one home: the second one is refused, at once.
func TestBusyHome(t *testing.T) {
	r := newRig(t)
	noErr(t, r.session(t.Context(), func(s *Session) error {
		h, err := home.Open(r.home)
		noErr(t, err)
		if err := h.Lock(); !errors.Is(err, home.ErrBusy) {
			t.Errorf("locked twice: %v", err)
		}
		return nil
	}))
}
