package source

import (
	"context"
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

// narrow reads nothing ahead and holds little, so that a test can change what
// the walk has not come to yet.
var narrow = limits{batch: 2, names: 2, nameBytes: 1000, ahead: 1, held: 1}

// dirFDs counts the descriptors of folders at or below root, or of lost ones.
func dirFDs(t *testing.T, root string) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc")
	}
	n := 0
	for _, fd := range fds {
		path, err := os.Readlink("/proc/self/fd/" + fd.Name())
		var st unix.Stat_t
		if err == nil && unix.Stat("/proc/self/fd/"+fd.Name(), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR &&
			(strings.HasPrefix(path, root) || strings.HasPrefix(root, path)) {
			n++
		}
	}
	return n
}

// deepTree makes a chain of folders with a file in each, too long for a path.
func deepTree(t *testing.T, root string, depth int) string {
	t.Helper()
	fd, err := unix.Open(root, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	name := strings.Repeat("d", 200)
	for i := 0; err == nil && i < depth; i++ {
		var file int
		if file, err = unix.Openat(fd, "file", unix.O_CREAT|unix.O_WRONLY, 0o600); err != nil {
			break
		}
		fmt.Fprint(os.NewFile(uintptr(file), "file"), i)
		if err = unix.Mkdirat(fd, name, 0o700); err != nil {
			break
		}
		var next int
		next, err = unix.Openat(fd, name, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		unix.Close(fd)
		fd = next
	}
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	return name
}

func TestDeeperThanAnyPath(t *testing.T) {
	const depth = 300
	root := t.TempDir()
	deepTree(t, root, depth)
	for _, l := range []limits{defaultLimits, narrow} {
		tree := openTree(t, root, Options{}, l)
		var files []step
		for {
			s, ok := next(t, tree)
			if !ok {
				break
			}
			if s.state != Found {
				t.Fatal(s)
			}
			if s.entry.Kind == manifest.KindFile {
				files = append(files, s)
			}
			if len(files)%16 != 1 {
				continue
			}
			if n := dirFDs(t, root); n > maxOpenDirs {
				t.Fatalf("%d folders are open", n)
			}
		}
		if len(files) != depth {
			t.Fatalf("%d files", len(files))
		}
		// Late opens, from many goroutines, in no good order.
		var group sync.WaitGroup
		for g := range 40 {
			group.Go(func() {
				for i := g; i < depth; i += 29 {
					k := i * 7 % depth // the deepest comes first
					f, err := files[k].dir.Open("file")
					if err != nil {
						t.Error(err)
						return
					}
					buf := make([]byte, 10)
					if n, _ := f.Read(buf); string(buf[:n]) != fmt.Sprint(depth-1-k) {
						t.Errorf("file %d holds %q", k, buf[:n])
					}
					f.Close()
					if _, err := files[k].dir.Xattrs("file", manifest.KindFile); err != nil {
						t.Error(err)
					}
				}
			})
		}
		group.Wait()
		if n := dirFDs(t, root); n > maxOpenDirs {
			t.Errorf("%d folders are open", n)
		}
		tree.Close()
		if n := dirFDs(t, root); n > 0 {
			t.Errorf("%d folders are open after Close", n)
		}
		if _, err := files[0].dir.Open("file"); !errors.Is(err, os.ErrClosed) {
			t.Errorf("open after Close: %v", err)
		}
	}
}

// closeIdle empties the cache of descriptors.
func closeIdle(tree *Tree) {
	tree.fds.mu.Lock()
	defer tree.fds.mu.Unlock()
	for tree.fds.idle.next != &tree.fds.idle {
		tree.fds.evict()
	}
}

// upTo walks until the key.
func upTo(t *testing.T, tree *Tree, key string) step {
	t.Helper()
	for {
		s, ok := next(t, tree)
		if !ok {
			t.Fatalf("no %q", key)
		}
		if s.key == key {
			return s
		}
	}
}

func find(t *testing.T, steps []step, key string) step {
	t.Helper()
	for _, s := range steps {
		if s.key == key {
			return s
		}
	}
	t.Fatalf("no %q in %v", key, steps)
	return step{}
}

func TestFolderReplaced(t *testing.T) {
	root := t.TempDir()
	makeTree(t, root, "a/f=old", "b/f=old", "other/f=new")
	tree := openTree(t, root, Options{}, defaultLimits)
	all := rest(t, tree)
	for _, swap := range []func(path string) error{
		func(path string) error { return os.Rename(root+"/other", path) },
		func(path string) error { return os.Symlink(root+"/other", path) },
	} {
		for _, s := range all {
			if s.key != "a\x00f" {
				continue
			}
			closeIdle(tree)
			os.Rename(root+"/a", root+"/gone")
			if err := swap(root + "/a"); err != nil {
				t.Fatal(err)
			}
			if _, err := s.dir.Open("f"); !errors.Is(err, ErrReplaced) {
				t.Errorf("open: %v", err)
			}
			if _, err := s.dir.Xattrs("f", manifest.KindFile); !errors.Is(err, ErrReplaced) {
				t.Errorf("xattrs: %v", err)
			}
			if os.Remove(root+"/a") != nil { // no symlink
				os.Rename(root+"/a", root+"/other")
			}
			os.Rename(root+"/gone", root+"/a")
			if f, err := s.dir.Open("f"); err != nil {
				t.Errorf("the folder is back: %v", err)
			} else {
				f.Close()
			}
		}
	}
}

// TestChangesDuringWalk changes what is still to come.
func TestChangesDuringWalk(t *testing.T) {
	root := t.TempDir()
	makeTree(t, root, "a/1", "a/2", "b/1", "c/1", "d/1", "e/1", "f", "g", "new/1")
	l := narrow
	l.batch, l.names, l.held = 100, 100, 1<<20 // the root at once
	tree := openTree(t, root, Options{}, l)
	upTo(t, tree, "a")
	if err := errors.Join(
		os.RemoveAll(root+"/b"),
		os.RemoveAll(root+"/c"), os.Symlink("new", root+"/c"),
		os.Rename(root+"/d", root+"/x"), os.Rename(root+"/new", root+"/d"),
		os.RemoveAll(root+"/e"), os.WriteFile(root+"/e", nil, 0o600),
		os.Remove(root+"/f"),
	); err != nil {
		t.Fatal(err)
	}
	all := rest(t, tree)
	for key, want := range map[string]State{"a\x00" + "1": Found, "b": Vanished, "c": Unknown, "d": Unknown, "e": Unknown, "g": Found} {
		s := find(t, all, key)
		if s.state != want || (want != Found) != (s.err != nil) || want != Found && s.entry.Kind != 0 {
			t.Errorf("%v, want %v", s, want)
		}
		if want == Unknown && !errors.Is(s.err, ErrReplaced) {
			t.Errorf("%v", s)
		}
	}
	if s := find(t, all, "f"); s.state != Found { // it was statted before
		t.Error(s)
	} else if _, err := s.dir.Open("f"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// TestVanishedName removes a name between a folder's listing and its stat.
func TestVanishedName(t *testing.T) {
	root := t.TempDir()
	makeTree(t, root, "a/1", "b", "c", "d")
	l := narrow
	l.names, l.held = 100, 1<<20
	tree := openTree(t, root, Options{}, l) // batches of two: c and d are not statted
	upTo(t, tree, "a")
	os.Remove(root + "/d")
	if s := find(t, rest(t, tree), "d"); s.state != Vanished || !errors.Is(s.err, fs.ErrNotExist) {
		t.Error(s)
	}
}

func TestFolderCutShort(t *testing.T) {
	root := t.TempDir()
	makeTree(t, root, "d/1/x", "d/2/x", "d/3/x", "d/4/x", "d/5/x", "e")
	for _, replace := range []bool{false, true} {
		tree := openTree(t, root, Options{}, narrow)
		upTo(t, tree, "d\x002")
		os.Rename(root+"/d", root+"/../d")
		if replace {
			os.Mkdir(root+"/d", 0o700)
		}
		closeIdle(tree)
		all := rest(t, tree)
		os.Remove(root + "/d")
		os.Rename(root+"/../d", root+"/d")
		cut := find(t, all, "d")
		if cut.state != Cut || cut.entry.Kind != manifest.KindDir || cut.err == nil || cut.name != "d" {
			t.Errorf("got %v", all)
		}
		if s := find(t, all, "e"); s.state != Found {
			t.Error(s)
		}
	}
}

func TestUnreadable(t *testing.T) {
	if os.Geteuid() == 0 {
		unprivileged(t)
		return
	}
	root := t.TempDir()
	makeTree(t, root, "a/1", "b/1", "c/1", "d=x")
	os.Chmod(root+"/a", 0)
	os.Chmod(root+"/b", 0o400)
	os.Chmod(root+"/c", 0o100)
	os.Chmod(root+"/d", 0)
	defer func() {
		for _, n := range []string{"a", "b", "c"} {
			os.Chmod(root+"/"+n, 0o700)
		}
	}()
	all := walk(t, root, Options{}, defaultLimits)
	for key, want := range map[string]State{"a": Unlisted, "b": Found, "b\x001": Unknown, "c": Unlisted, "d": Found} {
		s := find(t, all, key)
		if s.state != want || want != Found && !errors.Is(s.err, fs.ErrPermission) {
			t.Errorf("%v, want %v", s, want)
		}
		if want == Unlisted && s.entry.Kind != manifest.KindDir {
			t.Errorf("%v has no entry", s)
		}
	}
}

func TestRootGoesAway(t *testing.T) {
	for name, hurt := range map[string]func(root string) error{
		"renamed":  func(root string) error { return os.Rename(root, root+"x") },
		"removed":  os.RemoveAll,
		"replaced": func(root string) error { return errors.Join(os.Rename(root, root+"x"), os.Mkdir(root, 0o700)) },
		"link":     func(root string) error { return errors.Join(os.Rename(root, root+"x"), os.Symlink(root+"x", root)) },
	} {
		for _, l := range []limits{narrow, defaultLimits} {
			root := t.TempDir() + "/root"
			makeTree(t, root, "a/1", "b/1", "c/1", "d", "e", "f", "g")
			tree := openTree(t, root, Options{}, l)
			upTo(t, tree, "a")
			if err := hurt(root); err != nil {
				t.Fatal(err)
			}
			for range 100 {
				if _, err := tree.Next(context.Background()); err != nil {
					if !errors.Is(err, ErrRootGone) {
						t.Errorf("%s: %v", name, err)
					}
					break
				}
			}
		}
	}
}

func TestMounts(t *testing.T) {
	root := t.TempDir()
	makeTree(t, root, "a", "m/", "p/", "z", "over=x", "masked=x", "real/x")
	mount := func(source, target, kind string, flags uintptr) {
		if err := unix.Mount(source, root+"/"+target, kind, flags, ""); err != nil {
			t.Skipf("can't mount: %v", err)
		}
		t.Cleanup(func() { unix.Unmount(root+"/"+target, unix.MNT_DETACH) })
	}
	mount("tmpfs", "m", "tmpfs", 0)
	mount("proc", "p", "proc", 0)
	makeTree(t, root, "m/1=one", "m/d/2")
	os.Link(root+"/m/1", root+"/m/3")
	mount(root+"/m/1", "over", "", unix.MS_BIND)
	mount("/proc/version", "masked", "", unix.MS_BIND)

	tree := openTree(t, root, Options{}, defaultLimits)
	all := rest(t, tree)
	wantPaths(t, all, "a m masked over p real real/x z")
	m, p, over := find(t, all, "m"), find(t, all, "p"), find(t, all, "over")
	if !m.skip || m.state != Found || !strings.Contains(m.entry.FSID, ":mount:tmpfs@") || m.entry.FSID == tree.FSID() {
		t.Errorf("tmpfs: %v, FSID %q, entered %v", m, m.entry.FSID, !m.skip)
	}
	if !p.skip || p.state != Found || p.entry.FSID == "" {
		t.Errorf("proc: %v, FSID %q", p, p.entry.FSID)
	}
	if s := find(t, all, "masked"); s.state != Skipped {
		t.Error(s)
	}
	if over.state != Found || over.entry.Size != 3 || over.entry.LinkKey == 0 {
		t.Errorf("%v: %+v", over, over.entry)
	}
	f, err := over.dir.Open("over")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if e := f.Opened(); e.LinkKey != over.entry.LinkKey || e.Inode != over.entry.Inode {
		t.Errorf("opened %+v, listed %+v", e, over.entry)
	}

	all = walk(t, root, Options{CrossMounts: true}, defaultLimits)
	wantPaths(t, all, "a m m/1 m/3 m/d m/d/2 masked over p real real/x z")
	one, three := find(t, all, "m\x001"), find(t, all, "m\x003")
	if one.entry.LinkKey == 0 || one.entry.LinkKey != three.entry.LinkKey || one.entry.LinkKey == over.entry.LinkKey {
		t.Errorf("link keys %d, %d, %d", one.entry.LinkKey, three.entry.LinkKey, over.entry.LinkKey)
	}
	if m := find(t, all, "m"); m.skip || m.entry.FSID == "" {
		t.Errorf("%v", m)
	}
	inner := openTree(t, root+"/m", Options{}, defaultLimits)
	if inner.FSID() != m.entry.FSID {
		t.Errorf("%q as a root, %q as a mount", inner.FSID(), m.entry.FSID)
	}
	inner.Close()
	if _, err := Open(root+"/p", Options{CrossMounts: true}); err == nil {
		t.Error("proc was opened as a root")
	}
}

func TestDevtmpfsIsPseudo(t *testing.T) {
	if mountOfPath("/dev").kind != "devtmpfs" {
		t.Skip("/dev is no devtmpfs")
	}
	if _, err := Open("/dev", Options{}); err == nil {
		t.Error("/dev was opened")
	}
}

func mountOfPath(path string) mount {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return mount{}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	unix.Fstat(fd, &st)
	m, _ := mountOf(fd, st.Dev)
	return m
}

func TestFSID(t *testing.T) {
	dir := t.TempDir()
	one := openTree(t, dir, Options{}, defaultLimits)
	two := openTree(t, filepath.Dir(dir), Options{}, defaultLimits)
	if one.FSID() == "" || one.FSID() != two.FSID() {
		t.Errorf("%q and %q", one.FSID(), two.FSID())
	}
	for _, m := range []mount{
		{source: "tmpfs", point: "/run"}, {source: "host:/x"}, {source: strings.Repeat("/long", 100)}, {source: "/é\n"},
	} {
		if s := m.label(); s == "" || len(s) > maxLabel || strings.ContainsAny(s, "\n ") {
			t.Errorf("%+v: %q", m, s)
		}
	}
}

// TestLinkKeysApart: link keys of one file system are a bijection of inodes.
func TestLinkKeysApart(t *testing.T) {
	fs := &fileSystem{seed: 42, stable: true}
	seen := map[uint64]bool{}
	for ino := range uint64(100000) {
		seen[fs.linkKey(&unix.Stat_t{Ino: ino})] = true
	}
	if len(seen) != 100000 {
		t.Errorf("%d keys", len(seen))
	}
	odd := &fileSystem{seed: 42}
	if odd.linkKey(&unix.Stat_t{Ino: 1, Size: 1}) == odd.linkKey(&unix.Stat_t{Ino: 1, Size: 2}) {
		t.Error("files of different sizes are taken for one")
	}
}

// TestFSIDOrError: where descriptors run out, a source is not on another file system:
// it is on the same one, or there is an error.
func TestFSIDOrError(t *testing.T) {
	dirs := []string{t.TempDir()}
	if dir, err := os.MkdirTemp("/dev/shm", "tharsis-fsid-"); err == nil {
		t.Cleanup(func() { os.RemoveAll(dir) })
		dirs = append(dirs, dir)
	}
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	refused, opened := 0, 0
	for _, dir := range dirs {
		want := func() string {
			tree, err := Open(dir, Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer tree.Close()
			return tree.FSID()
		}()
		for n := uint64(3); n < 64; n++ {
			if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: before.Max}); err != nil {
				t.Fatal(err)
			}
			tree, err := Open(dir, Options{})
			if rerr := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); rerr != nil {
				t.Fatal(rerr)
			}
			switch {
			case err == nil:
				if opened++; tree.FSID() != want {
					t.Errorf("%d descriptors: %s, want %s", n, tree.FSID(), want)
				}
				tree.Close()
			case errors.Is(err, unix.EMFILE):
				refused++
			default:
				t.Errorf("%d descriptors: %v", n, err)
			}
		}
	}
	if refused == 0 || opened == 0 {
		t.Errorf("%d refused, %d opened", refused, opened)
	}
}
