package target

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// openDirs counts the descriptors of folders that this process has open.
func openDirs(t *testing.T) int {
	t.Helper()
	n := 0
	for _, fd := range listing(t, "/proc/self/fd") {
		var st unix.Stat_t
		var num int
		fmt.Sscan(fd, &num)
		if unix.Fstat(num, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			n++
		}
	}
	return n
}

// A path of 300 folders with long names is 20 times PATH_MAX.
func TestDeep(t *testing.T) {
	const depth = 300
	dir := scratch(t)
	before := openDirs(t)
	r := open(t, dir, Options{})
	name := strings.Repeat("n", 250)
	dirs := []*Dir{r.Top()}
	want := entry(manifest.KindDir, 0o510)
	for i := range depth {
		d := enter(t, dirs[i], name, want)
		write(t, d, "f", "x")
		dirs = append(dirs, d)
		if n := openDirs(t) - before; n > maxDirs {
			t.Fatalf("%d folders are open", n)
		}
	}
	for i := 0; i < depth; i += 37 { // back to folders that were closed meanwhile
		write(t, dirs[i], "g", "x")
	}
	for i := depth; i > 0; i-- {
		dirs[i].Leave()
	}
	finish(t, r)
	if n := openDirs(t); n != before {
		t.Errorf("%d folders are open, before %d", n, before)
	}
	if len(r.Notes()) != 0 {
		t.Errorf("notes %+v", r.Notes())
	}
	checkDeep(t, dir, name, depth, want)
}

// checkDeep goes down by descriptors, and removes on the way up.
func checkDeep(t *testing.T, dir, name string, depth int, want *manifest.Entry) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	must(t, err)
	fds := []int{fd}
	for i := range depth {
		fd, err := unix.Openat(fds[i], name, unix.O_RDONLY|dirFlags, 0)
		must(t, err)
		var st unix.Stat_t
		must(t, unix.Fstat(fd, &st))
		if st.Mode&0o7777 != want.Mode || st.Mtim.Sec != want.MTime.Sec || st.Mtim.Nsec != int64(want.MTime.Nsec) {
			t.Errorf("level %d has mode %o, mtime %d.%d", i, st.Mode, st.Mtim.Sec, st.Mtim.Nsec)
		}
		must(t, unix.Fchmod(fd, 0o700))
		must(t, unix.Unlinkat(fd, "f", 0))
		fds = append(fds, fd)
	}
	for i := depth; i >= 0; i-- {
		unix.Unlinkat(fds[i], "g", 0)
		if i < depth {
			must(t, unix.Unlinkat(fds[i], name, unix.AT_REMOVEDIR))
		}
		unix.Close(fds[i])
	}
}

// Many goroutines work in many folders, with more folders than descriptors.
func TestParallel(t *testing.T) {
	dir := scratch(t)
	before := openDirs(t)
	r := open(t, dir, Options{})
	var wait sync.WaitGroup
	const folders, files = 3 * cachedDirs, 20
	for i := range folders {
		up := enter(t, r.Top(), fmt.Sprint(i), entry(manifest.KindDir, 0o500))
		d := enter(t, up, "sub", entry(manifest.KindDir, 0o711))
		up.Leave()
		var list []*File
		for j := range files {
			e := fileEntry("content")
			f, _, err := d.Create(fmt.Sprint(j), e)
			must(t, err)
			list = append(list, f)
		}
		d.Leave()
		wait.Go(func() {
			for j, f := range list {
				var pieces sync.WaitGroup
				for k := range 7 {
					pieces.Go(func() {
						if _, err := f.WriteAt([]byte("content"[k:k+1]), int64(k)); err != nil {
							t.Error(err)
						}
					})
				}
				pieces.Wait()
				if j%5 == 4 {
					f.Abort()
				} else if _, err := f.Commit(nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	if n := openDirs(t) - before; n > maxDirs {
		t.Errorf("%d folders are open", n)
	}
	finish(t, r)
	noTemp(t, dir)
	for i := range folders {
		up := filepath.Join(dir, fmt.Sprint(i))
		checkMeta(t, up, entry(manifest.KindDir, 0o500))
		checkMeta(t, filepath.Join(up, "sub"), entry(manifest.KindDir, 0o711))
		if n := len(listing(t, filepath.Join(up, "sub"))); n != files*4/5 {
			t.Errorf("%d files", n)
		}
		for j := range files {
			if j%5 != 4 && read(t, filepath.Join(up, "sub", fmt.Sprint(j))) != "content" {
				t.Errorf("%d/%d has other content", i, j)
			}
		}
		must(t, os.Chmod(up, 0o700))
	}
}

func TestNoSpace(t *testing.T) {
	if !isRoot {
		t.Skip("needs root")
	}
	outer := scratch(t)
	dir := filepath.Join(outer, "m")
	mountTmpfs(t, dir, "size=256k,nr_inodes=20")
	r := open(t, dir, Options{})
	e := entry(manifest.KindFile, 0o644)
	e.Size = 1 << 20
	_, err := r.Top().WriteFile("big", e, make([]byte, 1<<20), nil)
	wantErr(t, "WriteFile", err, unix.ENOSPC)
	if err != nil && !strings.Contains(err.Error(), `m/big"`) {
		t.Errorf("%v has no path", err)
	}
	if n := listing(t, dir); len(n) != 0 {
		t.Errorf("left: %q", n)
	}
	var last error
	for i := range 30 {
		if _, err := r.Top().WriteFile(fmt.Sprint(i), fileEntry("x"), []byte("x"), nil); err != nil {
			last = err
		}
	}
	wantErr(t, "without inodes", last, unix.ENOSPC)
	_, _, err = r.Top().Enter("d", entry(manifest.KindDir, 0o755), nil)
	wantErr(t, "Enter", err, unix.ENOSPC)
	_, err = r.Top().Make("l", linkEntry("x"), nil)
	wantErr(t, "Make", err, unix.ENOSPC)
	finish(t, r)
	noTemp(t, dir)
}

func TestReadOnlyFileSystem(t *testing.T) {
	if !isRoot {
		t.Skip("needs root")
	}
	dir := filepath.Join(scratch(t), "m")
	mountTmpfs(t, dir, "size=256k")
	must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
	must(t, unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	r := open(t, dir, Options{})
	d := enter(t, r.Top(), "d", nil)
	_, err := d.WriteFile("f", fileEntry("x"), []byte("x"), nil)
	wantErr(t, "WriteFile", err, unix.EROFS)
	_, _, err = d.Enter("d", entry(manifest.KindDir, 0o755), nil)
	wantErr(t, "Enter", err, unix.EROFS)
	d.Leave()
	finish(t, r)
}

// Folders of the target that forbid what we do are opened up, and put right.
func TestClosedFolders(t *testing.T) {
	dir := scratch(t)
	modes := []uint32{0, 0o100, 0o200, 0o400, 0o500, 0o300, 0o555, 0o2555}
	for _, m := range modes {
		must(t, os.MkdirAll(filepath.Join(dir, itoa(m), "in"), 0o700))
		must(t, unix.Chmod(filepath.Join(dir, itoa(m), "in"), m))
		must(t, unix.Chmod(filepath.Join(dir, itoa(m)), m))
	}
	r := open(t, dir, Options{})
	var later []*Dir
	for _, m := range modes {
		d := enter(t, r.Top(), itoa(m), nil)
		in := enter(t, d, "in", entry(manifest.KindDir, 0o750))
		write(t, d, "f", "x")
		write(t, in, "f", "x")
		d.Leave()
		later = append(later, in)
	}
	r.evict()
	for _, in := range later {
		write(t, in, "g", "x")
		in.Leave()
	}
	finish(t, r)
	for _, m := range modes {
		path := filepath.Join(dir, itoa(m))
		if got := lstat(t, path).Mode & 0o7777; got != m {
			t.Errorf("mode %o became %o", m, got)
		}
		must(t, os.Chmod(path, 0o700))
		checkMeta(t, filepath.Join(path, "in"), entry(manifest.KindDir, 0o750))
		if n := len(listing(t, path)) + len(listing(t, filepath.Join(path, "in"))); n != 4 {
			t.Errorf("mode %o: %d names", m, n)
		}
	}
	if len(r.Notes()) != 0 {
		t.Errorf("notes %+v", r.Notes())
	}
}

func TestOpen(t *testing.T) {
	old := unix.Umask(0o027)
	defer unix.Umask(old)
	outer := scratch(t)
	dir := filepath.Join(outer, "a", "b", "c")
	r := open(t, dir, Options{})
	if m := lstat(t, dir).Mode & 0o7777; m != 0o700 {
		t.Errorf("mode is %o while filled", m)
	}
	enter(t, r.Top(), "way", nil).Leave()
	finish(t, r)
	for _, d := range []string{dir, filepath.Dir(dir), filepath.Join(dir, "way")} {
		if m := lstat(t, d).Mode & 0o7777; m != 0o750 {
			t.Errorf("%q has mode %o", d, m)
		}
	}
	// The way to the target may have symlinks; the target's folder can be described.
	must(t, os.Symlink(filepath.Join(outer, "a"), filepath.Join(outer, "l")))
	r = open(t, filepath.Join(outer, "l", "b"), Options{})
	r.Top().Describe(entry(manifest.KindDir, 0o711), nil)
	write(t, r.Top(), "f", "x")
	finish(t, r)
	checkMeta(t, filepath.Join(outer, "a", "b"), entry(manifest.KindDir, 0o711))
	if _, err := Open(filepath.Join(outer, "a", "b", "f"), Options{}); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("a file as target: %v", err)
	}
	if _, err := Open(filepath.Join(outer, "a", "b", "f", "x"), Options{}); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("below a file: %v", err)
	}
	root := open(t, "/", Options{})
	if _, err := root.Top().Existing("proc"); err != nil {
		t.Error(err)
	}
	_, err := root.Top().Existing("none of this name")
	wantErr(t, "in /", err, fs.ErrNotExist)
	if err != nil && !strings.Contains(err.Error(), `"/none of this name"`) {
		t.Errorf("%v", err)
	}
	finish(t, root)
}

func TestFailed(t *testing.T) {
	dir := scratch(t)
	var got []error
	r := open(t, dir, Options{Failed: func(err error) { got = append(got, err) }})
	for _, name := range []string{"a", "b"} {
		d := enter(t, r.Top(), name, entry(manifest.KindDir, 0o755))
		r.evict()
		must(t, os.Remove(filepath.Join(dir, name)))
		d.Leave()
	}
	err := r.Finish()
	wantErr(t, "Finish", err, fs.ErrNotExist)
	if len(got) != 2 || !strings.Contains(err.Error(), "1 more") {
		t.Errorf("%v, %v", got, err)
	}
}
