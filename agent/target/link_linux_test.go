package target

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tharsis-backup/tharsis/internal/disk"
	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// tally collects what links came to.
type tally struct {
	out  []Outcome
	errs []error
}

func (y *tally) done(o Outcome, err error) { y.out, y.errs = append(y.out, o), append(y.errs, err) }

func linked(key uint64) *manifest.Entry {
	e := fileEntry("abc")
	e.LinkKey = key
	return e
}

func TestLinks(t *testing.T) {
	dir := scratch(t)
	r := open(t, dir, Options{})
	var y tally
	if r.Top().Link("first", linked(1), y.done) || r.Top().Link("first", fileEntry("abc"), y.done) {
		t.Fatal("linked to nothing")
	}
	a := enter(t, r.Top(), "a", entry(manifest.KindDir, 0)) // closed for good once it is done
	ab := enter(t, a, "b", entry(manifest.KindDir, 0o100))
	f, _, err := ab.Create("first", linked(1))
	must(t, err)
	c := enter(t, r.Top(), "c", entry(manifest.KindDir, 0o555))
	for _, d := range []*Dir{ab, c} { // these wait
		if !d.Link("second", linked(1), y.done) {
			t.Fatal("not linked")
		}
	}
	c.Leave()
	ab.Leave()
	a.Leave()
	if len(y.out) != 0 {
		t.Error("a link to an unfinished file")
	}
	_, err = f.WriteAt([]byte("abc"), 0)
	must(t, err)
	_, err = f.Commit(nil)
	must(t, err)
	checkMeta(t, filepath.Join(dir, "a"), entry(manifest.KindDir, 0))
	checkMeta(t, filepath.Join(dir, "c"), entry(manifest.KindDir, 0o555))
	d := enter(t, r.Top(), "d", entry(manifest.KindDir, 0o700))
	for _, name := range []string{"third", "third"} {
		if !d.Link(name, linked(1), y.done) {
			t.Fatal("not linked")
		}
	}
	d.Leave()
	checkMeta(t, filepath.Join(dir, "a"), entry(manifest.KindDir, 0)) // as before
	r.NextSource()
	if r.Top().Link("other", linked(1), y.done) {
		t.Error("linked across sources")
	}
	finish(t, r)
	if got := fmt.Sprint(y.out, y.errs); got != "[1 1 1 2] [<nil> <nil> <nil> <nil>]" {
		t.Errorf("outcomes %s", got)
	}
	must(t, os.Chmod(filepath.Join(dir, "a"), 0o700))
	must(t, os.Chmod(filepath.Join(dir, "a", "b"), 0o700))
	first := lstat(t, filepath.Join(dir, "a/b/first"))
	for _, p := range []string{"a/b/second", "c/second", "d/third", "d/third (restored)"} {
		if st := lstat(t, filepath.Join(dir, p)); st.Ino != first.Ino || st.Nlink != 5 {
			t.Errorf("%s is inode %d with %d links, want %d", p, st.Ino, st.Nlink, first.Ino)
		}
	}
	noTemp(t, dir)
}

func TestLinkedSpecials(t *testing.T) {
	dir := scratch(t)
	r := open(t, dir, Options{Conflict: Overwrite})
	for i, e := range []*manifest.Entry{linkEntry("nowhere"), linkEntry("/etc/passwd"), entry(manifest.KindFIFO, 0o640)} {
		e.LinkKey = uint64(i + 1)
		name := itoa(uint32(i + 1))
		_, err := r.Top().Make(name, e, nil)
		must(t, err)
		var y tally
		for _, n := range []string{name + "b", name + "b", name} {
			if !r.Top().Link(n, e, y.done) {
				t.Fatal("not linked")
			}
		}
		if got := fmt.Sprint(y.out, y.errs); got != fmt.Sprint([]Outcome{Restored, Kept, Kept}, make([]error, 3)) {
			t.Errorf("outcomes %s", got)
		}
		a, b := lstat(t, filepath.Join(dir, name)), lstat(t, filepath.Join(dir, name+"b"))
		if a.Ino != b.Ino || a.Nlink != 2 {
			t.Errorf("%d and %d, %d links", a.Ino, b.Ino, a.Nlink)
		}
		checkMeta(t, filepath.Join(dir, name+"b"), e)
	}
	finish(t, r)
	noTemp(t, dir)
}

func TestLinkToExisting(t *testing.T) {
	dir := scratch(t)
	must(t, os.WriteFile(filepath.Join(dir, "first"), []byte("abc"), 0o600))
	r := open(t, dir, Options{})
	x, err := r.Top().Existing("first")
	must(t, err)
	must(t, x.SetMeta(linked(9), nil))
	x.Close()
	var y tally
	if !r.Top().Link("second", linked(9), y.done) || y.errs[0] != nil {
		t.Fatalf("not linked: %v", y.errs)
	}
	finish(t, r)
	if st := lstat(t, filepath.Join(dir, "second")); st.Nlink != 2 {
		t.Errorf("%d links", st.Nlink)
	}
}

// The first name is given up, kept back by a conflict, or replaced afterwards.
func TestLinkWithoutFirst(t *testing.T) {
	dir := scratch(t)
	r := open(t, dir, Options{Conflict: Skip})
	var y tally
	f, _, err := r.Top().Create("a", linked(1))
	must(t, err)
	if !r.Top().Link("b", linked(1), y.done) {
		t.Fatal("not linked")
	}
	f.Abort()
	wantErr(t, "link to an aborted file", y.errs[0], errAborted)
	if r.Top().Link("c", linked(1), y.done) {
		t.Error("linked to an aborted file")
	}

	f, _, err = r.Top().Create("k", linked(2))
	must(t, err)
	if !r.Top().Link("l", linked(2), y.done) {
		t.Fatal("not linked")
	}
	write(t, r.Top(), "k", "somebody's")
	if out, err := f.Commit(nil); out != Kept || err != nil {
		t.Fatalf("%v, %v", out, err)
	}
	wantErr(t, "link to a kept file", y.errs[1], errFirstKept)

	_, err = r.Top().WriteFile("m", linked(3), []byte("abc"), nil)
	must(t, err)
	must(t, os.Remove(filepath.Join(dir, "m")))
	must(t, os.Symlink("/etc/passwd", filepath.Join(dir, "m")))
	if !r.Top().Link("n", linked(3), y.done) {
		t.Fatal("not handled")
	}
	wantErr(t, "link to something else", y.errs[2], errReplaced)
	finish(t, r)
	if got := fmt.Sprintf("%q", listing(t, dir)); got != `["k" "m"]` {
		t.Errorf("there is %s", got)
	}
}

func TestLinkAcrossFileSystems(t *testing.T) {
	if !isRoot {
		t.Skip("needs root")
	}
	dir := scratch(t)
	mountTmpfs(t, filepath.Join(dir, "m"), "size=1m")
	r := open(t, dir, Options{})
	var y tally
	_, err := r.Top().WriteFile("a", linked(1), []byte("abc"), nil)
	must(t, err)
	f, _, err := r.Top().Create("b", linked(2))
	must(t, err)
	m := enter(t, r.Top(), "m", nil)
	for key := range uint64(2) {
		if m.Link("x", linked(key+1), y.done) {
			t.Error("linked across file systems")
		}
	}
	if out, err := m.WriteFile("x", linked(1), []byte("abc"), nil); out != Restored || err != nil {
		t.Errorf("%v, %v", out, err)
	}
	m.Leave()
	f.Abort()
	finish(t, r)
	if n := r.Notes(); len(n) != 1 || n[0].What != noteLink || n[0].Count != 2 {
		t.Errorf("notes %+v", n)
	}
}

func mountTmpfs(t testing.TB, dir, options string) {
	t.Helper()
	must(t, os.Mkdir(dir, 0o700))
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Skipf("no right to mount: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			t.Error(err)
		}
	})
}

// TestLinksOfTwoStates: names of one file that a point has in different states
// are different files.
func TestLinksOfTwoStates(t *testing.T) {
	r := open(t, scratch(t), Options{})
	var y tally
	f, _, err := r.Top().Create("first", linked(1))
	must(t, err)
	other := fileEntry("abd")
	other.LinkKey, other.Extents = 1, []manifest.Extent{{Length: 3, ID: [32]byte{9}}}
	for range 2 { // before it is complete, and after
		if r.Top().Link("other", other, y.done) || r.Top().Linked("first", other) {
			t.Fatal("linked to other content")
		}
		if f == nil {
			break
		}
		_, err = f.WriteAt([]byte("abc"), 0)
		must(t, err)
		_, err = f.Commit(nil)
		must(t, err)
		f = nil
	}
	if !r.Top().Linked("first", linked(1)) || len(y.out) != 0 {
		t.Error("not linked to its own content")
	}
	finish(t, r)
}

// TestLinkAfterTrouble: an error that is not about links, while it is tried whether
// there are any, does not make a second file of what is one.
func TestLinkAfterTrouble(t *testing.T) {
	dir := scratch(t)
	r := open(t, dir, Options{})
	f, _, err := r.Top().Create("first", linked(1))
	must(t, err)
	calls := 0
	restore := disk.SetHook(func(c disk.Call) error {
		if c.Op != disk.OpLink {
			return nil
		}
		if calls++; calls > 1 {
			return nil
		}
		return unix.EIO
	})
	defer restore()
	var y tally
	if !r.Top().Link("second", linked(1), y.done) || calls != 1 {
		t.Fatal("not linked")
	}
	_, err = f.WriteAt([]byte("abc"), 0)
	must(t, err)
	_, err = f.Commit(nil)
	must(t, err)
	finish(t, r)
	if a, b := lstat(t, filepath.Join(dir, "first")), lstat(t, filepath.Join(dir, "second")); a.Ino != b.Ino {
		t.Error("two files")
	}
}

// TestTempThatStays: where a temporary name cannot be removed, the restore says so.
func TestTempThatStays(t *testing.T) {
	dir := scratch(t)
	var failed []error
	r := open(t, dir, Options{Failed: func(err error) { failed = append(failed, err) }})
	f, _, err := r.Top().Create("a", fileEntry("abc"))
	must(t, err)
	_, err = f.WriteAt([]byte("abc"), 0)
	must(t, err)
	restore := disk.SetHook(func(c disk.Call) error {
		if c.Op == disk.OpRemove {
			return unix.EIO
		}
		return nil
	})
	f.Abort()
	restore()
	if len(failed) != 1 || !errors.Is(failed[0], unix.EIO) {
		t.Errorf("failures: %v", failed)
	}
}
