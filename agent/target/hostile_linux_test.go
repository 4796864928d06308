package target

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tharsis-backup/tharsis/vault/manifest"
)

func TestHostileNames(t *testing.T) {
	outer := scratch(t)
	dir := filepath.Join(outer, "t")
	r := open(t, dir, Options{Conflict: Overwrite})
	was := listing(t, outer)
	d := enter(t, r.Top(), "d", entry(manifest.KindDir, 0o755))
	for _, name := range []string{"", ".", "..", "../x", "/x", "/etc/x", "a/b", "a\x00b", "x/", strings.Repeat("n", 256)} {
		_, _, err := d.Enter(name, entry(manifest.KindDir, 0o755), nil)
		wantErr(t, "Enter", err, errName)
		_, err = d.WriteFile(name, fileEntry("x"), []byte("x"), nil)
		wantErr(t, "WriteFile", err, errName)
		_, err = d.Make(name, linkEntry("x"), nil)
		wantErr(t, "Make", err, errName)
		_, err = d.Existing(name)
		wantErr(t, "Existing", err, errName)
		e := fileEntry("x")
		e.LinkKey = 1
		if !d.Link(name, e, func(_ Outcome, err error) { wantErr(t, "Link", err, errName) }) {
			t.Error("Link wants content for a bad name")
		}
	}
	d.Leave()
	finish(t, r)
	if now := listing(t, outer); len(now) != len(was) || len(listing(t, filepath.Join(dir, "d"))) != 0 {
		t.Errorf("was %v, is %v", was, now)
	}
}

func TestHostileEntries(t *testing.T) {
	dir := scratch(t)
	r := open(t, dir, Options{})
	for _, size := range []uint64{1 << 63, 1<<64 - 1} {
		e := entry(manifest.KindFile, 0o644)
		e.Size = size
		_, _, err := r.Top().Create("f", e)
		wantErr(t, "Create", err, errTooBig)
	}
	e := entry(manifest.KindFile, 0o644)
	e.Size = 1<<63 - 1
	f, _, err := r.Top().Create("f", e)
	must(t, err)
	if _, err := f.Commit(nil); err == nil { // tmpfs and xfs can
		must(t, os.Remove(filepath.Join(dir, "f")))
	}
	e.Size = 10
	f, _, err = r.Top().Create("f", e)
	must(t, err)
	for _, c := range []struct{ off, n int64 }{{0, 11}, {10, 1}, {11, 0}, {-1, 1}, {1<<63 - 1, 1}, {5, 6}} {
		_, err = f.WriteAt(make([]byte, c.n), c.off)
		wantErr(t, "WriteAt", err, errSize)
	}
	f.Abort()
	f.Abort()
	_, err = f.Commit(nil)
	wantErr(t, "Commit", err, errDone)
	_, err = f.WriteAt([]byte("x"), 0)
	wantErr(t, "WriteAt", err, errDone)
	_, err = r.Top().WriteFile("f", fileEntry("abc"), []byte("ab"), nil)
	wantErr(t, "WriteFile", err, errSize)
	for k := range manifest.Kind(9) { // each method takes its kinds only
		e := entry(k, 0o600)
		if k != manifest.KindFile {
			_, _, err := r.Top().Create("k", e)
			wantErr(t, "Create", err, errKind)
		}
		if k != manifest.KindDir {
			_, _, err := r.Top().Enter("k", e, nil)
			wantErr(t, "Enter", err, errKind)
		}
		if k < manifest.KindSymlink || k > manifest.KindFIFO {
			_, err := r.Top().Make("k", e, nil)
			wantErr(t, "Make", err, errKind)
		}
	}
	bad := []manifest.Xattr{{Name: ""}, {Name: "user."}, {Name: "a\x00b"}, {Name: strings.Repeat("user.", 100)}, {Name: "x.y"}, {Name: "user.big", Value: make([]byte, 1<<17)}}
	_, err = r.Top().WriteFile("x", fileEntry("abc"), []byte("abc"), bad)
	must(t, err)
	finish(t, r)
	if n := listing(t, dir); len(n) != 1 || n[0] != "x" {
		t.Errorf("left: %q", n)
	}
	if len(r.Notes()) == 0 || len(r.Notes()) > 3 {
		t.Errorf("notes: %+v", r.Notes())
	}
}

// planted makes a folder to restore into and one beside it that must not change.
func planted(t *testing.T) (dir, canary string) {
	t.Helper()
	outer := scratch(t)
	dir, canary = filepath.Join(outer, "t"), filepath.Join(outer, "canary")
	must(t, os.MkdirAll(filepath.Join(canary, "sub"), 0o755))
	must(t, os.WriteFile(filepath.Join(canary, "f"), []byte("precious"), 0o644))
	must(t, os.WriteFile(filepath.Join(canary, "sub", "f"), []byte("precious"), 0o600))
	must(t, os.Mkdir(dir, 0o700))
	return dir, canary
}

func TestPlantedSymlinks(t *testing.T) {
	for _, rule := range []Conflict{Copy, Overwrite, Skip, Newer} {
		dir, canary := planted(t)
		for name, to := range map[string]string{"d": canary, "f": filepath.Join(canary, "f"), "l": "../canary", "p": filepath.Join(canary, "new")} {
			must(t, os.Symlink(to, filepath.Join(dir, name)))
		}
		was := snapshot(t, canary)
		r := open(t, dir, Options{Conflict: rule})
		for _, name := range []string{"d", "l"} {
			d, _, err := r.Top().Enter(name, entry(manifest.KindDir, 0o777), []manifest.Xattr{{Name: "user.x"}})
			must(t, err)
			if d != nil {
				write(t, d, "f", "evil")
				sub := enter(t, d, "sub", entry(manifest.KindDir, 0o777))
				write(t, sub, "f", "evil")
				sub.Leave()
				d.Leave()
			}
		}
		write(t, r.Top(), "f", "evil")
		write(t, r.Top(), "p", "evil")
		_, err := r.Top().Make("f", linkEntry("x"), nil)
		must(t, err)
		finish(t, r)
		if now := snapshot(t, canary); now != was {
			t.Errorf("rule %d: outside was\n%s\nis\n%s", rule, was, now)
		}
	}
}

// A point may hold a symlink, and then a folder of the same name.
func TestRestoredSymlinkAsParent(t *testing.T) {
	for _, rule := range []Conflict{Copy, Overwrite, Skip, Newer} {
		dir, canary := planted(t)
		was := snapshot(t, canary)
		r := open(t, dir, Options{Conflict: rule})
		base := enter(t, r.Top(), "base", entry(manifest.KindDir, 0o755))
		_, err := base.Make("d", linkEntry(canary), nil)
		must(t, err)
		d, _, err := base.Enter("d", entry(manifest.KindDir, 0o777), nil)
		must(t, err)
		if d != nil {
			write(t, d, "f", "evil")
			d.Leave()
		}
		// And the other way round: the folder goes while it is filled.
		if d = enter(t, base, "e", entry(manifest.KindDir, 0o777)); true {
			_, err = base.Make("e", linkEntry(canary), nil)
			if rule == Overwrite && err != nil {
				t.Errorf("an empty folder is overwritten: %v", err)
			}
			d.WriteFile("f", fileEntry("evil"), []byte("evil"), nil)
			d.Leave()
		}
		base.Leave()
		r.Finish()
		if now := snapshot(t, canary); now != was {
			t.Errorf("rule %d: outside was\n%s\nis\n%s", rule, was, now)
		}
	}
}

func TestDuplicates(t *testing.T) {
	for _, rule := range []Conflict{Copy, Overwrite, Skip, Newer} {
		dir := scratch(t)
		r := open(t, dir, Options{Conflict: rule})
		d := enter(t, r.Top(), "d", entry(manifest.KindDir, 0o500))
		again := enter(t, r.Top(), "d", entry(manifest.KindDir, 0o700))
		write(t, d, "f", "1")
		write(t, again, "f", "2")
		_, err := d.Make("f", linkEntry("f"), nil)
		must(t, err)
		d.Leave()
		again.Leave()
		finish(t, r)
		noTemp(t, dir)
		want := map[Conflict]int{Copy: 3, Overwrite: 1, Skip: 1, Newer: 1}[rule]
		if n := len(listing(t, filepath.Join(dir, "d"))); n != want {
			t.Errorf("rule %d: %d names, want %d", rule, n, want)
		}
	}
}

// Somebody moves a folder away while it isn't open, and puts another there.
func TestReplacedFolder(t *testing.T) {
	dir, canary := planted(t)
	was := snapshot(t, canary)
	r := open(t, dir, Options{})
	d := enter(t, r.Top(), "d", entry(manifest.KindDir, 0o755))
	for i := range 2 * cachedDirs { // pushes d out of the cache
		enter(t, r.Top(), "o"+itoa(uint32(i)), entry(manifest.KindDir, 0o755))
	}
	if d.fd >= 0 {
		t.Fatal("d is still open")
	}
	must(t, os.Rename(filepath.Join(dir, "d"), filepath.Join(dir, "moved")))
	must(t, os.Symlink(canary, filepath.Join(dir, "d")))
	_, err := d.WriteFile("f", fileEntry("evil"), []byte("evil"), nil)
	wantErr(t, "through a symlink", err, errNotDir)
	must(t, os.Remove(filepath.Join(dir, "d")))
	must(t, os.Mkdir(filepath.Join(dir, "d"), 0o700))
	_, err = d.WriteFile("f", fileEntry("evil"), []byte("evil"), nil)
	wantErr(t, "in another folder", err, errReplaced)
	d.Leave()
	err = r.Finish()
	wantErr(t, "Finish", err, errReplaced)
	if len(listing(t, filepath.Join(dir, "d"))) != 0 || snapshot(t, canary) != was {
		t.Error("the wrong folder was touched")
	}
}

// TestRacer restores while somebody with write permission exchanges folders,
// files and symlinks as fast as possible: for a second, or with THARSIS_ALL a million
// times.
func TestRacer(t *testing.T) {
	dir, canary := planted(t)
	was := snapshot(t, canary)
	stop := make(chan struct{})
	var racers sync.WaitGroup
	attacks := [][]string{{"a"}, {"a", "b"}, {"a", "b", "c"}, {"a", "f"}, {"a", "b", "l"}}
	swaps := make([]int, len(attacks))
	var total atomic.Int64
	want, end := int64(0), time.Now().Add(time.Second)
	if os.Getenv("THARSIS_ALL") != "" {
		want, end = 1_000_000, time.Now().Add(time.Hour)
	}
	racers.Go(func() { // one: more would leave the restore no time
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			if i := n % len(attacks); attack(dir, canary, attacks[i], n/len(attacks)) {
				swaps[i]++
				total.Add(1)
			}
		}
	})
	done, failed := 0, 0
	for time.Now().Before(end) && (want == 0 || total.Load() < want) {
		ok, bad := race(t, dir)
		done, failed = done+ok, failed+bad
	}
	close(stop)
	racers.Wait()
	if now := snapshot(t, canary); now != was {
		t.Errorf("outside was\n%s\nis\n%s", was, now)
	}
	t.Logf("%v swaps, %d entries restored, %d refused", swaps, done, failed)
	if done == 0 || total.Load() < want {
		t.Errorf("%d swaps, and %d entries were restored", total.Load(), done)
	}
}

// attack exchanges what has the path with a symlink to the canary. It goes down
// by descriptors itself, so that it doesn't fall for its own symlinks.
func attack(dir, canary string, path []string, n int) bool {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	for _, name := range path[:len(path)-1] {
		if err != nil {
			return false
		}
		next, nerr := unix.Openat(fd, name, unix.O_RDONLY|dirFlags, 0)
		unix.Close(fd)
		fd, err = next, nerr
	}
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	name := path[len(path)-1]
	evil := name + ".evil"
	if n%16 == 0 { // a restore may have replaced the symlink: both are real now
		unix.Renameat(fd, evil, fd, "old"+itoa(uint32(n+1)))
	}
	unix.Symlinkat(canary, fd, evil)
	return unix.Renameat2(fd, name, fd, evil, unix.RENAME_EXCHANGE) == nil
}

// race restores a small tree by all methods, and counts what went well and not.
func race(t *testing.T, dir string) (ok, bad int) {
	r := open(t, dir, Options{Conflict: Overwrite})
	count := func(_ Outcome, err error) {
		if err != nil {
			bad++
		} else {
			ok++
		}
	}
	var dirs []*Dir
	d := r.Top()
	for _, name := range []string{"a", "b", "c"} {
		sub, out, err := d.Enter(name, entry(manifest.KindDir, 0o755), []manifest.Xattr{{Name: "user.evil", Value: []byte("1")}})
		count(out, err)
		if err != nil {
			break
		}
		r.evict()
		for _, file := range []string{"f", "l", "n"} {
			e := fileEntry("evil")
			e.LinkKey = 1
			if !sub.Link(file, e, count) {
				count(sub.WriteFile(file, e, []byte("evil"), nil))
			}
			if x, err := sub.Existing(file); err == nil {
				x.ReadAt(make([]byte, 1), 0)
				x.SetMeta(fileEntry("evil"), nil)
				x.Close()
			}
			r.evict()
		}
		count(sub.Make("l", linkEntry("evil"), nil))
		dirs = append(dirs, sub)
		d = sub
	}
	for i := len(dirs) - 1; i >= 0; i-- {
		dirs[i].Leave()
	}
	if err := r.Finish(); err != nil {
		bad++
	}
	return ok, bad
}

// evict closes all folders that can be opened again.
func (r *Root) evict() {
	r.cache.mu.Lock()
	defer r.cache.mu.Unlock()
	for len(r.cache.open) > 0 {
		r.cache.drop(r.cache.open[0])
	}
}

func TestUnfinished(t *testing.T) {
	dir := scratch(t)
	r := open(t, dir, Options{})
	f, _, err := r.Top().Create("f", fileEntry("abc"))
	must(t, err)
	_, err = f.WriteAt([]byte("a"), 0)
	must(t, err)
	if err := r.Finish(); err == nil || !strings.Contains(err.Error(), "not done") {
		t.Errorf("Finish with an open file: %v", err)
	}
	// The killed restore's file is there; a later one is not disturbed.
	if n := listing(t, dir); len(n) != 1 || !strings.HasPrefix(n[0], tempPrefix) || !strings.HasSuffix(n[0], tempSuffix) {
		t.Errorf("left: %q", n)
	}
	r = open(t, dir, Options{})
	if out := write(t, r.Top(), "f", "abc"); out != Restored {
		t.Errorf("outcome %v", out)
	}
	finish(t, r)
	if _, err := r.Top().WriteFile("g", fileEntry("abc"), []byte("abc"), nil); err == nil {
		t.Error("a finished target takes files")
	}
}
