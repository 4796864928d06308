package source

import (
	"bytes"
	"context"
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

	"golang.org/x/sys/unix"

	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// step is an Item that can be kept.
type step struct {
	key   string
	name  string
	entry manifest.Entry
	state State
	skip  bool
	err   error
	dir   *Dir
}

func (s step) String() string {
	return fmt.Sprintf("%q %v kind %d err %v", s.key, s.state, s.entry.Kind, s.err)
}

func openTree(t testing.TB, root string, o Options, l limits) *Tree {
	t.Helper()
	tree, err := open(root, o, l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tree.Close() })
	return tree
}

// next returns the next step; ok is false at the end.
func next(t testing.TB, tree *Tree) (step, bool) {
	t.Helper()
	it, err := tree.Next(context.Background())
	if err == io.EOF {
		return step{}, false
	}
	if err != nil {
		t.Fatal(err)
	}
	return step{string(it.Key), it.Name, it.Entry, it.State, it.NotEntered, it.Err, it.Dir}, true
}

// rest returns the remaining steps, checking their order.
func rest(t testing.TB, tree *Tree) []step {
	t.Helper()
	var all []step
	last := ""
	for {
		s, ok := next(t, tree)
		if !ok {
			return all
		}
		if len(all) > 0 && s.key <= last && s.state != Cut {
			t.Fatalf("key %q after %q", s.key, last)
		}
		if s.state != Cut {
			last = s.key
		}
		if base := s.key[strings.LastIndexByte(s.key, 0)+1:]; s.key != "" && base != s.name {
			t.Fatalf("key %q has name %q", s.key, s.name)
		}
		all = append(all, s)
	}
}

func walk(t testing.TB, root string, o Options, l limits) []step {
	t.Helper()
	return rest(t, openTree(t, root, o, l))
}

// slowWalk is what a walk without exclusions must yield, found in the most
// obvious way: lstat, list, sort, descend.
func slowWalk(t *testing.T, path, key string) []step {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFSOCK {
		return []step{{key: key, state: Skipped}}
	}
	e := manifest.Entry{
		Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid, Inode: st.Ino,
		MTime: manifest.Time{Sec: st.Mtim.Sec, Nsec: uint32(st.Mtim.Nsec)},
		CTime: manifest.Time{Sec: st.Ctim.Sec, Nsec: uint32(st.Ctim.Nsec)},
	}
	if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		e.LinkKey = st.Ino // to be compared as a partition
	}
	all := []step{{key: key}}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		e.Kind, e.Size = manifest.KindFile, uint64(st.Size)
	case unix.S_IFLNK:
		e.Kind = manifest.KindSymlink
		target, err := os.Readlink(path)
		if err != nil {
			t.Fatal(err)
		}
		e.Target = target
	case unix.S_IFIFO:
		e.Kind = manifest.KindFIFO
	case unix.S_IFCHR:
		e.Kind, e.Major, e.Minor = manifest.KindChar, unix.Major(st.Rdev), unix.Minor(st.Rdev)
	case unix.S_IFBLK:
		e.Kind, e.Major, e.Minor = manifest.KindBlock, unix.Major(st.Rdev), unix.Minor(st.Rdev)
	case unix.S_IFDIR:
		e.Kind = manifest.KindDir
		list, err := os.ReadDir(path)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, d := range list {
			names = append(names, d.Name())
		}
		slices.Sort(names)
		for _, n := range names {
			k := n
			if key != "" {
				k = key + "\x00" + n
			}
			all = append(all, slowWalk(t, path+"/"+n, k)...)
		}
	}
	all[0].entry = e
	return all
}

// compare checks a walk with a slow one. Link keys and names of owners are
// checked for what they say.
func compare(t *testing.T, got, want []step) {
	t.Helper()
	links := map[uint64]uint64{}
	seen := map[uint64]uint64{}
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i].key != want[i].key || got[i].state != want[i].state {
			t.Fatalf("step %d of %d, want %d: got %v, want %v", i, len(got), len(want), at(got, i), at(want, i))
		}
		g, w := got[i].entry, want[i].entry
		if (g.LinkKey == 0) != (w.LinkKey == 0) {
			t.Fatalf("%v: link key %d, want %d", got[i], g.LinkKey, w.LinkKey)
		}
		if g.LinkKey != 0 {
			if k, ok := links[g.LinkKey]; ok && k != w.LinkKey {
				t.Fatalf("%v: two files, one link key", got[i])
			}
			if k, ok := seen[w.LinkKey]; ok && k != g.LinkKey {
				t.Fatalf("%v: one file, two link keys", got[i])
			}
			links[g.LinkKey], seen[w.LinkKey] = w.LinkKey, g.LinkKey
		}
		if (g.FSID != "") != (i == 0 && g.Kind == manifest.KindDir) {
			t.Fatalf("%v: FSID %q", got[i], g.FSID)
		}
		if g.Kind != 0 && g.UID == 0 && g.User != "root" {
			t.Fatalf("%v: user %q", got[i], g.User)
		}
		g.LinkKey, w.LinkKey, g.FSID, g.User, g.Group = 0, 0, "", "", ""
		if w.Inode != 0 && g.Inode == 0 {
			w.Inode = 0 // the temporary folder is on an odd file system
		}
		if fmt.Sprint(g) != fmt.Sprint(w) {
			t.Fatalf("%v:\n got %+v\nwant %+v", got[i], g, w)
		}
	}
}

func at(steps []step, i int) string {
	if i < len(steps) {
		return steps[i].String()
	}
	return "nothing"
}

// oddNames are names that sort or print oddly; any bytes are names.
var oddNames = []string{
	"a", "a!", "a.", "a\x01", "a\xff", "ab", "A", " ", "\n", "new\nline", "\xff\xfe", "\x01", "~", "-rf", "*", "[x]",
	"é", "e\u0301", "...", ".hidden", strings.Repeat("x", 255), strings.Repeat("\xff", 255), "back\\slash",
}

// randomTree fills dir at random and returns the paths of its files.
func randomTree(t *testing.T, rnd *rand.Rand, dir string, depth int, files *[]string) {
	t.Helper()
	must := func(err error) {
		if err != nil && !errors.Is(err, os.ErrExist) {
			t.Fatal(err)
		}
	}
	for range rnd.IntN(12) {
		name := oddNames[rnd.IntN(len(oddNames))]
		if rnd.IntN(2) == 0 {
			name = fmt.Sprint(rnd.IntN(1000))
		}
		path := dir + "/" + name
		if _, err := os.Lstat(path); err == nil {
			continue
		}
		switch k := rnd.IntN(20); {
		case k < 6 && depth > 0:
			must(os.Mkdir(path, os.FileMode(0o700|rnd.IntN(0o100))))
			randomTree(t, rnd, path, depth-1, files)
		case k == 7:
			must(os.Symlink(oddNames[rnd.IntN(len(oddNames))], path))
			*files = append(*files, path)
		case k == 8:
			must(os.Symlink("..", path)) // a loop
		case k == 9:
			must(unix.Mkfifo(path, 0o600))
		case k == 10 && os.Geteuid() == 0:
			must(unix.Mknod(path, unix.S_IFCHR|0o644, int(unix.Mkdev(300, 70000))))
		case k == 11 && os.Geteuid() == 0:
			must(unix.Mknod(path, unix.S_IFBLK|0o644, int(unix.Mkdev(7, 3))))
		case k == 12 && len(*files) > 0:
			must(os.Link((*files)[rnd.IntN(len(*files))], path))
		case k == 13:
			socket(t, path)
		default:
			must(os.WriteFile(path, make([]byte, rnd.IntN(5000)), os.FileMode(rnd.IntN(0o1000))))
			when := time.Unix(rnd.Int64N(8e9)-2e9, rnd.Int64N(1e9))
			must(os.Chtimes(path, when, when))
			*files = append(*files, path)
		}
	}
}

// socket makes a socket, by a short path as its address is limited.
func socket(t *testing.T, path string) {
	t.Helper()
	if err := unix.Mknod(path, unix.S_IFSOCK|0o600, 0); err != nil {
		t.Fatal(err)
	}
}

func TestWalkEqualsSlowWalk(t *testing.T) {
	tight := []limits{
		defaultLimits,
		{batch: 1, names: 1, nameBytes: 300, ahead: 1, held: 1},
		{batch: 2, names: 3, nameBytes: 1000, ahead: 2000, held: 3000},
		{batch: 3, names: 100, nameBytes: 1000, ahead: 1 << 20, held: 6000},
		{batch: 100, names: 4, nameBytes: 5000, ahead: 1, held: 1 << 20},
	}
	for range 5 {
		seed := rand.Uint64()
		root := filepath.Join(t.TempDir(), "root")
		if err := os.Mkdir(root, 0o755); err != nil {
			t.Fatal(err)
		}
		var files []string
		randomTree(t, rand.New(rand.NewPCG(seed, 1)), root, 6, &files)
		want := slowWalk(t, root, "")
		for _, l := range tight {
			t.Logf("seed %d, limits %+v, %d entries", seed, l, len(want))
			compare(t, walk(t, root, Options{}, l), want)
		}
	}
}

func TestRoots(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(dir+"/file", []byte("abc"), 0o600)
	os.Mkdir(dir+"/empty", 0o700)
	os.Symlink("empty", dir+"/link")
	os.Symlink(dir, dir+"/again")
	unix.Mkfifo(dir+"/fifo", 0o600)
	for _, name := range []string{"file", "empty", "link", "fifo", "again/file", "again/empty"} {
		got := walk(t, dir+"/"+name, Options{}, defaultLimits)
		compare(t, got, slowWalk(t, dir+"/"+name, ""))
		if len(got) != 1 || got[0].name != filepath.Base(name) {
			t.Errorf("%s: %v", name, got)
		}
		if _, err := got[0].dir.Xattrs(got[0].name, got[0].entry.Kind); !errors.Is(err, os.ErrClosed) && err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	socket(t, dir+"/sock")
	for _, bad := range []string{"sock", "missing", "file/x"} {
		if _, err := Open(dir+"/"+bad, Options{}); err == nil {
			t.Errorf("%s was opened", bad)
		}
	}
	for _, bad := range []string{"", ".", "/proc", "/proc/self", dir + "/", dir + "/../x"} {
		if _, err := Open(bad, Options{}); err == nil {
			t.Errorf("%q was opened", bad)
		}
	}
}

func TestRootFolder(t *testing.T) {
	tree := openTree(t, "/", Options{Excludes: []string{"/*", "!/etc", "/etc/*", "!/etc/passwd"}}, defaultLimits)
	all := rest(t, tree)
	if len(all) != 3 || all[1].key != "etc" || all[2].key != "etc\x00passwd" {
		t.Fatalf("got %v", all)
	}
	if _, err := all[0].dir.Xattrs(all[0].name, manifest.KindDir); err != nil {
		t.Error(err)
	}
	if p := tree.Path([]byte("etc\x00passwd")); p != "/etc/passwd" {
		t.Error(p)
	}
	if tree.FSID() == "" || all[0].entry.FSID != tree.FSID() {
		t.Errorf("FSID %q, entry %q", tree.FSID(), all[0].entry.FSID)
	}
}

func TestBigFolderTakesManyPasses(t *testing.T) {
	root := t.TempDir()
	const n = 1200
	for i := range n {
		if err := unix.Mknod(fmt.Sprintf("%s/%d", root, i*7919%n), unix.S_IFREG|0o600, 0); err != nil {
			t.Fatal(err)
		}
	}
	want := slowWalk(t, root, "")
	compare(t, walk(t, root, Options{}, limits{batch: 64, names: 300, nameBytes: 1 << 20, ahead: 1 << 20, held: 1 << 20}), want)
	compare(t, walk(t, root, Options{}, limits{batch: 64, names: 1 << 20, nameBytes: 1000, ahead: 1 << 20, held: 1 << 20}), want)
}

func TestContext(t *testing.T) {
	root := t.TempDir()
	for i := range 100 {
		os.MkdirAll(fmt.Sprintf("%s/%d/x", root, i), 0o700)
	}
	want := slowWalk(t, root, "")
	tree := openTree(t, root, Options{}, limits{batch: 3, names: 10, nameBytes: 1000, ahead: 1, held: 1})
	var got []step
	for {
		// A walk that is cancelled now and then must go on as if it was not.
		ctx, cancel := context.WithCancel(context.Background())
		go cancel()
		it, err := tree.Next(ctx)
		cancel()
		if errors.Is(err, context.Canceled) {
			continue
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, step{key: string(it.Key), entry: it.Entry, state: it.State})
	}
	compare(t, got, want)
	tree.Close()
	if _, err := tree.Next(context.Background()); err != io.EOF {
		t.Error(err)
	}
	tree = openTree(t, root, Options{}, defaultLimits)
	tree.Close()
	if _, err := tree.Next(context.Background()); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
}

func TestListerDropsRepeats(t *testing.T) {
	l := lister{limit: limits{names: 3, nameBytes: 100}}
	var dents []byte
	for _, name := range strings.Fields("c b a b . .. e d a c b f a a a a") {
		d := make([]byte, 24)
		d[16] = 24
		copy(d[19:], name)
		dents = append(dents, d...)
	}
	var bound []byte
	for range 3 {
		var err error
		if bound, err = l.take(dents, "", bound); err != nil {
			t.Fatal(err)
		}
	}
	l.sort()
	var names []string
	for _, r := range l.out.refs {
		names = append(names, string(l.name(r)))
	}
	if s := strings.Join(names, ""); !strings.HasPrefix("abcdef", s) || s == "" || !l.out.more {
		t.Errorf("got %q, more %v", s, l.out.more)
	}
	bad := bytes.Replace(dents, []byte("f\x00"), []byte("/f"), 1)
	if _, err := l.take(bad, "", nil); err != errSlash {
		t.Error(err)
	}
}
