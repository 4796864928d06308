package treecmp

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// build fills dir with one entry of each kind, the same at each call.
func build(t *testing.T, dir string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Join(dir, "sub/inner"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("some bytes"), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "sub/big"), slices.Repeat([]byte("0123456789abcdef"), 40_000), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "sub/new\nline \xff\xfe"), nil, 0o644))
	must(t, os.Symlink("nowhere", filepath.Join(dir, "link")))
	must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o644))
	for _, name := range []string{"one", "two"} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte("same"), 0o644))
	}
	must(t, os.Link(filepath.Join(dir, "one"), filepath.Join(dir, "sub/inner/one again")))
	sparse := filepath.Join(dir, "sparse")
	must(t, os.WriteFile(sparse, []byte("start"), 0o644))
	must(t, os.Truncate(sparse, 1<<40))
	if os.Geteuid() == 0 {
		must(t, unix.Mknod(filepath.Join(dir, "device"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	}
	setTimes(t, dir)
}

// setTimes gives every entry the same time, folders last.
func setTimes(t *testing.T, dir string) {
	t.Helper()
	var all []string
	must(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		all = append(all, path)
		return err
	}))
	for _, path := range slices.Backward(all) {
		setTime(t, path, 1_600_000_000_123_456_789)
	}
}

func setTime(t *testing.T, path string, ns int64) {
	t.Helper()
	ts := unix.NsecToTimespec(ns)
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// alteration changes one aspect of one entry of the tree that build makes.
type alteration struct {
	path   string
	aspect Aspect
	root   bool // needs privileges
	alter  func(t *testing.T, path string)
}

var alterations = []alteration{
	{"file", Missing, false, func(t *testing.T, p string) { must(t, os.Remove(p)) }},
	{"sub/inner", Missing, false, func(t *testing.T, p string) { must(t, os.RemoveAll(p)) }},
	{"extra", Extra, false, func(t *testing.T, p string) { must(t, os.Mkdir(p, 0o755)) }},
	{"sub/new\nline \xff", Extra, false, func(t *testing.T, p string) { must(t, os.WriteFile(p, nil, 0o644)) }},
	{"fifo", Type, false, func(t *testing.T, p string) {
		must(t, os.Remove(p))
		must(t, os.WriteFile(p, nil, 0o644))
	}},
	{"file", Modes, false, func(t *testing.T, p string) { must(t, os.Chmod(p, 0o640)) }},
	{"file", Modes, false, func(t *testing.T, p string) { must(t, os.Chmod(p, 0o644|fs.ModeSetgid)) }},
	{"sub", Modes, false, func(t *testing.T, p string) { must(t, os.Chmod(p, 0o755|fs.ModeSticky)) }},
	{"link", Owners, true, func(t *testing.T, p string) { must(t, os.Lchown(p, 0, 7)) }},
	{"file", Owners, true, func(t *testing.T, p string) { must(t, os.Lchown(p, 7, 0)) }},
	{"file", Times, false, func(t *testing.T, p string) { setTime(t, p, 1_600_000_000_123_456_788) }},
	{"file", Times, false, func(t *testing.T, p string) { setTime(t, p, -1) }},
	{"link", Times, false, func(t *testing.T, p string) { setTime(t, p, 0) }},
	{"sub/inner", DirTimes, false, func(t *testing.T, p string) { setTime(t, p, 0) }},
	{".", DirTimes, false, func(t *testing.T, p string) { setTime(t, p, 0) }},
	{"file", Sizes, false, func(t *testing.T, p string) { must(t, os.Truncate(p, 9)) }},
	{"file", Content, false, func(t *testing.T, p string) { must(t, os.WriteFile(p, []byte("some Bytes"), 0o644)) }},
	{"sub/big", Content, false, func(t *testing.T, p string) { overwrite(t, p, 639_999) }},
	{"sparse", Content, false, func(t *testing.T, p string) { overwrite(t, p, 1<<39) }},
	{"sparse", Sparse, false, func(t *testing.T, p string) { overwriteWith(t, p, 1<<30, make([]byte, 1<<20)) }},
	{"link", Targets, false, func(t *testing.T, p string) {
		must(t, os.Remove(p))
		must(t, os.Symlink("nowhere/", p))
	}},
	{"device", Devices, true, func(t *testing.T, p string) {
		must(t, os.Remove(p))
		must(t, unix.Mknod(p, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))))
	}},
	{"sub/inner/one again", Links, false, func(t *testing.T, p string) {
		must(t, os.Remove(p))
		must(t, os.WriteFile(p, []byte("same"), 0o644))
	}},
	{"two", Links, false, func(t *testing.T, p string) {
		must(t, os.Remove(p))
		must(t, os.Link(filepath.Join(filepath.Dir(p), "one"), p))
	}},
	{"file", Xattrs, false, func(t *testing.T, p string) { setXattr(t, p, "user.a", "1") }},
	{"sub", Xattrs, false, func(t *testing.T, p string) { setXattr(t, p, "user.a", "") }},
	{"fifo", Xattrs, true, func(t *testing.T, p string) { setXattr(t, p, "trusted.a", "1") }},
	{"link", Xattrs, true, func(t *testing.T, p string) { setXattr(t, p, "trusted.a", "1") }},
	// An ACL of the owner, user 7, the group, the mask and others.
	{"file", Xattrs, false, func(t *testing.T, p string) {
		setXattr(t, p, "system.posix_acl_access", "\x02\x00\x00\x00"+
			"\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\x07\x00\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff"+
			"\x10\x00\x04\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff")
	}},
}

func overwrite(t *testing.T, path string, at int64) { overwriteWith(t, path, at, []byte("X")) }

func overwriteWith(t *testing.T, path string, at int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	defer f.Close()
	_, err = f.WriteAt(b, at)
	must(t, err)
}

func setXattr(t *testing.T, path, name, value string) {
	t.Helper()
	err := unix.Lsetxattr(path, name, []byte(value), 0)
	if errors.Is(err, unix.EOPNOTSUPP) && os.Getenv("THARSIS_CI") == "" {
		t.Skipf("the temporary folder's file system has no %s", name)
	}
	must(t, err)
}

// Each aspect, altered alone, is reported alone, from both sides, and is not
// reported where it is ignored.
func TestEachAspect(t *testing.T) {
	for i, alt := range alterations {
		t.Run(fmt.Sprintf("%d %v of %q", i, alt.aspect, alt.path), func(t *testing.T) {
			if alt.root && os.Geteuid() != 0 {
				t.Skip("needs root")
			}
			a, b := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
			build(t, a)
			build(t, b)
			expect(t, a, b, Options{})
			alt.alter(t, filepath.Join(b, alt.path))
			restoreTimes(t, b, alt)
			expect(t, a, b, Options{}, Diff{Path: alt.path, Aspect: alt.aspect})
			expect(t, a, b, Options{Ignore: alt.aspect})
			if alt.path != "." {
				expect(t, a, b, Options{Skip: func(p string) bool { return p == alt.path }})
			}
			if alt.aspect&(Missing|Extra|Sparse) == 0 {
				expect(t, b, a, Options{}, Diff{Path: alt.path, Aspect: alt.aspect})
			}
		})
	}
}

// restoreTimes undoes what an alteration did to times besides.
func restoreTimes(t *testing.T, root string, alt alteration) {
	if alt.aspect&(Times|DirTimes) == 0 {
		setTimes(t, root)
	}
}

// expect compares and wants exactly the given differences.
func expect(t *testing.T, a, b string, o Options, want ...Diff) {
	t.Helper()
	diffs, err := Compare(a, b, o)
	must(t, err)
	same := len(diffs) == len(want)
	for i := range want {
		same = same && diffs[i].Path == want[i].Path && diffs[i].Aspect == want[i].Aspect
	}
	if !same {
		t.Errorf("got %v, want %v", diffs, want)
	}
}

func TestSocketIsItsOwnAspect(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	must(t, unix.Mknod(filepath.Join(a, "socket"), unix.S_IFSOCK|0o600, 0))
	setTimes(t, a)
	setTimes(t, b)
	expect(t, a, b, Options{}, Diff{Path: "socket", Aspect: Sockets})
	expect(t, a, b, Options{Ignore: Sockets})
	expect(t, b, a, Options{}, Diff{Path: "socket", Aspect: Extra})
}

// A path beyond PATH_MAX, deeper than keepOpen, is compared to its end.
func TestDeepTree(t *testing.T) {
	const levels = 5 * keepOpen
	name := strings.Repeat("d", 20)
	deep := func(content string) string {
		root := t.TempDir()
		fd, err := unix.Open(root, openFolder, 0)
		must(t, err)
		for range levels {
			must(t, unix.Mkdirat(fd, name, 0o755))
			must(t, unix.Mkdirat(fd, "z", 0o755))
			next, err := unix.Openat(fd, name, openFolder, 0)
			must(t, err)
			must(t, unix.Close(fd))
			fd = next
		}
		file, err := unix.Openat(fd, "file", unix.O_CREAT|unix.O_WRONLY, 0o644)
		must(t, err)
		_, err = unix.Write(file, []byte(content))
		must(t, err)
		must(t, errors.Join(unix.Close(file), unix.Close(fd)))
		return root
	}
	a, b := deep("one"), deep("two")
	var stats Stats
	diffs, err := Compare(a, b, Options{Ignore: Times | DirTimes, Stats: &stats})
	must(t, err)
	want := strings.Repeat(name+"/", levels) + "file"
	if len(diffs) != 1 || diffs[0].Path != want || diffs[0].Aspect != Content {
		t.Errorf("got %d differences: %.200v", len(diffs), diffs)
	}
	if stats.Entries != 2*levels+2 || stats.Files != 1 || stats.Bytes != 3 {
		t.Errorf("compared %+v", stats)
	}
}

func TestMaxEndsTheWalk(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	for i := range 20 {
		must(t, os.WriteFile(filepath.Join(a, fmt.Sprint(i)), nil, 0o644))
	}
	diffs, err := Compare(a, b, Options{Max: 7, Ignore: DirTimes})
	must(t, err)
	if len(diffs) != 7 {
		t.Errorf("got %d differences, want 7", len(diffs))
	}
}

func TestRootMissing(t *testing.T) {
	for _, roots := range [][2]string{{t.TempDir(), "no/such"}, {"no/such", t.TempDir()}} {
		if _, err := Compare(roots[0], roots[1], Options{}); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("compare %q: got %v", roots, err)
		}
	}
}

func TestRootIsAFile(t *testing.T) {
	a, b := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	for _, path := range []string{a, b} {
		must(t, os.WriteFile(path, []byte(path[len(path)-1:]), 0o644))
		must(t, os.Chtimes(path, time.Time{}, time.Unix(5, 5)))
	}
	expect(t, a, b, Options{}, Diff{Path: ".", Aspect: Content})
	expect(t, a, a, Options{})
}

func TestUnreadableIsADifference(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root reads everything")
	}
	a, b := t.TempDir(), t.TempDir()
	for _, dir := range []string{a, b} {
		must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("same"), 0o200))
		must(t, os.Mkdir(filepath.Join(dir, "folder"), 0o300))
		setTimes(t, filepath.Join(dir, "file"))
	}
	expect(t, a, b, Options{Ignore: DirTimes}, Diff{Path: "file", Aspect: Unreadable}, Diff{Path: "folder", Aspect: Unreadable})
}
