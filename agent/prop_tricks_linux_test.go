package agent

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Edits that are hard to notice: each leaves as much as it was as a file system
// allows.

// tricks are the editor's edits of this kind.
func (e *editor) tricks() []func() string {
	all := []func() string{
		e.replaceAlike, e.renameOver, e.exchange, e.swapContents, e.ctimeOnly, e.linkAndChange, e.sameAgain, e.copyTimes,
		e.renameAround, e.emptyAndFull,
	}
	if e.inodes {
		all = append(all, e.swapTwins, e.makeTwins, e.makeTwins)
	}
	return all
}

// keepTime does something to a file and puts its modification time back.
func (e *editor) keepTime(p string, do func(fs.FileInfo)) {
	fi, err := os.Lstat(p)
	noErr(e.t, err)
	do(fi)
	noErr(e.t, os.Chtimes(p, time.Time{}, fi.ModTime()))
}

// replaceAlike removes a file and makes another of that name, size and time: on
// some file systems with the same inode number.
func (e *editor) replaceAlike() string {
	p := e.one(isFile)
	if p == "" {
		return ""
	}
	e.keepTime(p, func(fi fs.FileInfo) {
		noErr(e.t, os.Remove(p))
		noErr(e.t, os.WriteFile(p, []byte(noise(e.rng, int(min(fi.Size(), maxRewrite)))), fi.Mode().Perm()))
	})
	return fmt.Sprintf("replace alike %q", e.rel(p))
}

// renameOver renames an entry over another one, as programs save their files.
func (e *editor) renameOver() string {
	from, to := e.one(isFile), e.one(isFile)
	if from == "" || from == to {
		return ""
	}
	noErr(e.t, os.Rename(from, to))
	return fmt.Sprintf("rename %q over %q", e.rel(from), e.rel(to))
}

// exchange exchanges two entries of any kind.
func (e *editor) exchange() string {
	a, b := e.one(anyEntry), e.one(anyEntry)
	if a == "" || a == b || strings.HasPrefix(a, b+"/") || strings.HasPrefix(b, a+"/") {
		return ""
	}
	if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
		return ""
	}
	return fmt.Sprintf("exchange %q and %q", e.rel(a), e.rel(b))
}

// swapContents gives two files each other's content, and their times back.
func (e *editor) swapContents() string {
	a, b := e.one(isFile), e.one(isFile)
	if a == "" || a == b {
		return ""
	}
	fa, err := os.Lstat(a)
	noErr(e.t, err)
	fb, err := os.Lstat(b)
	noErr(e.t, err)
	if fa.Size() > maxRewrite || fb.Size() > maxRewrite || os.SameFile(fa, fb) {
		return ""
	}
	e.keepTime(a, func(fs.FileInfo) {
		e.keepTime(b, func(fs.FileInfo) {
			ca, cb := e.whole(a), e.whole(b)
			e.overwrite(a, cb)
			e.overwrite(b, ca)
		})
	})
	return fmt.Sprintf("swap contents of %q and %q", e.rel(a), e.rel(b))
}

// whole reads a file, of whatever mode.
func (e *editor) whole(p string) string {
	f := e.open(p, os.O_RDONLY)
	defer f.Close()
	fi, err := f.Stat()
	noErr(e.t, err)
	b := make([]byte, fi.Size())
	if _, err := f.ReadAt(b, 0); len(b) > 0 {
		noErr(e.t, err)
	}
	return string(b)
}

// overwrite makes content that of a file.
func (e *editor) overwrite(p, content string) {
	f := e.open(p, os.O_WRONLY|os.O_TRUNC)
	defer f.Close()
	_, err := f.WriteString(content)
	noErr(e.t, err)
}

// ctimeOnly changes nothing but the time of the last change: the mode is changed and
// changed back, or a name made and removed.
func (e *editor) ctimeOnly() string {
	p := e.one(isFile)
	if p == "" {
		return ""
	}
	if e.rng.IntN(2) == 0 {
		var st unix.Stat_t
		noErr(e.t, unix.Lstat(p, &st))
		noErr(e.t, unix.Chmod(p, 0o600))
		noErr(e.t, unix.Chmod(p, st.Mode&0o7777))
		return fmt.Sprintf("mode of %q there and back", e.rel(p))
	}
	to := e.free()
	if err := os.Link(p, to); err != nil {
		return "" // not of others' files, for a user
	}
	noErr(e.t, os.Remove(to))
	return fmt.Sprintf("link and unlink %q", e.rel(p))
}

// linkAndChange makes one more name and changes the file by it.
func (e *editor) linkAndChange() string {
	from, to := e.one(isFile), e.free()
	if from == "" || os.Link(from, to) != nil {
		return ""
	}
	e.keepTime(to, func(fs.FileInfo) {
		e.start(to)
	})
	return fmt.Sprintf("link %q to %q and change it", e.rel(from), e.rel(to))
}

// sameAgain writes what is there already.
func (e *editor) sameAgain() string {
	p := e.one(isFile)
	if p == "" {
		return ""
	}
	if fi, err := os.Lstat(p); err != nil || fi.Size() > maxRewrite {
		return ""
	}
	e.overwrite(p, e.whole(p))
	return fmt.Sprintf("write %q as it was", e.rel(p))
}

// copyTimes gives an entry the times of another.
func (e *editor) copyTimes() string {
	from, to := e.one(anyEntry), e.one(isFile)
	if from == "" || to == "" {
		return ""
	}
	fi, err := os.Lstat(from)
	noErr(e.t, err)
	e.start(to)
	noErr(e.t, os.Chtimes(to, time.Time{}, fi.ModTime()))
	return fmt.Sprintf("change %q and give it the time of %q", e.rel(to), e.rel(from))
}

// start writes over the first bytes of a file.
func (e *editor) start(p string) {
	f := e.open(p, os.O_WRONLY)
	defer f.Close()
	f.WriteString(noise(e.rng, 1+e.rng.IntN(20)))
}

// renameAround renames an entry away and back, and puts something in its place in
// between.
func (e *editor) renameAround() string {
	p, away := e.one(anyEntry), e.free()
	if p == "" || strings.HasPrefix(away, p+"/") {
		return ""
	}
	noErr(e.t, os.Rename(p, away))
	noErr(e.t, os.WriteFile(p, []byte("in between"), 0o600))
	noErr(e.t, os.Remove(p))
	noErr(e.t, os.Rename(away, p))
	return fmt.Sprintf("rename %q away and back", e.rel(p))
}

// emptyAndFull truncates a file and writes it anew, as long as it was.
func (e *editor) emptyAndFull() string {
	p := e.one(isFile)
	if p == "" {
		return ""
	}
	e.keepTime(p, func(fi fs.FileInfo) { e.overwrite(p, noise(e.rng, int(min(fi.Size(), maxRewrite)))) })
	return fmt.Sprintf("empty and fill %q", e.rel(p))
}

// twin is the name of files that differ in content and inode alone.
const twin = "twin"

// makeTwins puts such files into two folders.
func (e *editor) makeTwins() string {
	a, b := e.folder(), e.folder()
	if a == b || len(a) > 3000 || len(b) > 3000 {
		return ""
	}
	e.twinsIn(a, b)
	return fmt.Sprintf("twins in %q and %q", e.rel(a), e.rel(b))
}

// twinsIn makes twins. Nobody looks at them in between, so that they get the same
// ctime, which is that of a tick.
func (e *editor) twinsIn(a, b string) {
	n := 1 + e.rng.IntN(100)
	when := unix.NsecToTimespec(e.rng.Int64N(1e18))
	for _, d := range []string{a, b} {
		os.RemoveAll(filepath.Join(d, twin))
	}
	contents := []string{noise(e.rng, n), noise(e.rng, n)}
	for i, d := range []string{a, b} {
		p := filepath.Join(d, twin)
		noErr(e.t, os.WriteFile(p, []byte(contents[i]), 0o644))
		noErr(e.t, unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{when, when}, 0))
	}
}

// swapTwins exchanges two folders, if it can two that hold twins: which leaves all
// times of what they hold as they were.
func (e *editor) swapTwins() string {
	var holders []string
	for _, p := range e.list(isFile) {
		if filepath.Base(p) == twin && filepath.Dir(p) != e.root {
			holders = append(holders, filepath.Dir(p))
		}
	}
	if len(holders) < 2 {
		return ""
	}
	e.rng.Shuffle(len(holders), func(i, k int) { holders[i], holders[k] = holders[k], holders[i] })
	a, b := holders[0], holders[1]
	if strings.HasPrefix(a, b+"/") || strings.HasPrefix(b, a+"/") {
		return ""
	}
	if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
		return ""
	}
	return fmt.Sprintf("exchange the folders of twins %q and %q", e.rel(a), e.rel(b))
}

// Two files that are alike but for content and inode number, in two folders that are
// exchanged: no time and no size tells.
func TestExchangedTwins(t *testing.T) {
	r := newRig(t)
	if !reliableInodes(t, r.src) {
		t.Skip("inode numbers cannot be relied on here")
	}
	e := &editor{t: t, rng: rand.New(rand.NewPCG(85, 86)), root: r.src, inodes: true}
	a, b := filepath.Join(r.src, "a"), filepath.Join(r.src, "b")
	noErr(t, os.Mkdir(a, 0o755))
	noErr(t, os.Mkdir(b, 0o755))
	changed := func(dir string) unix.Timespec {
		var st unix.Stat_t
		noErr(t, unix.Lstat(filepath.Join(dir, twin), &st))
		return st.Ctim
	}
	for try := 0; ; try++ {
		e.twinsIn(a, b)
		if changed(a) == changed(b) {
			break
		}
		if try == 1000 {
			t.Skip("no two files get the same ctime here")
		}
	}
	r.clean()
	if e.swapTwins() == "" {
		t.Fatal("the twins cannot be exchanged")
	}
	res := r.clean()
	r.restored(res.Point)
	r.sameAsFullScan(res.Point, e)
}
