package agent

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tharsis-backup/tharsis/internal/treecmp"
)

// restoredTwice checks that a point is exact, that the next job reads nothing but
// so many bytes of files whose times are never old, and that restoring over what was restored leaves it as it is.
func (r *rig) restoredTwice(racy int64) {
	r.t.Helper()
	first := r.clean()
	dir := r.restore(first.Point)
	out := filepath.Join(dir, r.src)
	same(r.t, r.src, out)
	if res := r.clean(); res.BytesRead > racy || r.root(res.Point) != r.root(first.Point) {
		r.t.Errorf("nothing changed: %+v", res)
	}
	again, err := r.tryRestore(RestoreOptions{Point: first.Point, Target: dir})
	if err != nil || again.Failed != 0 || again.Bytes != 0 {
		r.t.Errorf("restored again: %v, %+v: %s", err, again, r.notes)
	}
	same(r.t, r.src, out)
	removeAll(dir)
}

// bothUsers runs a test as root, where this is, and as a user who isn't.
func bothUsers(t *testing.T, test func(*testing.T)) {
	asUser(t)
	if !t.Failed() {
		test(t)
	}
}

func TestAnyNames(t *testing.T) {
	bothUsers(t, func(t *testing.T) {
		r := newRig(t)
		names := []string{
			strings.Repeat("n", 255), strings.Repeat("\xe2\x82\xac", 85), "a\nb", "\n", " ", "-", "--help", "...", "~", "*?[", `\`,
			"\xff\xfe", "\xed\xa0\x80", "name (restored 2026-11-23 14-05).txt", "con", "nul.txt", "trailing.", "e\u0301", "\u00e9",
		}
		for b := 1; b < 256; b++ {
			if b != '/' && b != '.' {
				names = append(names, string([]byte{byte(b)}))
			}
		}
		slices.Sort(names)
		names = slices.Compact(names)
		for _, n := range names {
			noErr(t, os.WriteFile(filepath.Join(r.src, n), []byte(n), 0o644))
		}
		noErr(t, os.Mkdir(filepath.Join(r.src, "in"), 0o755))
		for _, n := range names {
			p := filepath.Join(r.src, "in", n)
			noErr(t, os.Mkdir(p, 0o755))
			noErr(t, os.Symlink(n, filepath.Join(p, n)))
		}
		r.restoredTwice(0)
	})
}

// deepen makes folders below dir until the path has n bytes, and a file there.
func deepen(t *testing.T, dir string, n int) {
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	noErr(t, err)
	name := strings.Repeat("d", 250)
	for length := len(dir); length < n; length += len(name) + 1 {
		noErr(t, unix.Mkdirat(fd, name, 0o755))
		next, err := unix.Openat(fd, name, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		noErr(t, err)
		unix.Close(fd)
		fd = next
	}
	f, err := unix.Openat(fd, "file", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	noErr(t, err)
	unix.Write(f, []byte("at the bottom"))
	unix.Close(f)
	noErr(t, unix.Symlinkat("file", fd, "link"))
	noErr(t, unix.Linkat(fd, "file", fd, "hard", 0))
	unix.Close(fd)
}

func TestLongPaths(t *testing.T) {
	bothUsers(t, func(t *testing.T) {
		r := newRig(t)
		deepen(t, r.src, 3*unix.PathMax)
		r.write("beside/f", "x")
		r.restoredTwice(0)
	})
}

func TestHardLinks(t *testing.T) {
	bothUsers(t, func(t *testing.T) {
		r := newRig(t)
		p := func(name string) string { return filepath.Join(r.src, name) }
		link := func(from, to string) {
			noErr(t, os.MkdirAll(filepath.Dir(p(to)), 0o755))
			noErr(t, unix.Linkat(unix.AT_FDCWD, p(from), unix.AT_FDCWD, p(to), 0))
		}
		r.write("m/small", "small")
		r.write("m/large", noise(rand.New(rand.NewPCG(1, 1)), 3<<20))
		r.write("m/empty", "")
		noErr(t, os.Symlink("nowhere", p("m/sym")))
		noErr(t, unix.Mkfifo(p("m/fifo"), 0o600))
		for _, n := range []string{"small", "large", "empty", "sym", "fifo"} {
			link("m/"+n, "a/"+n)
			link("m/"+n, "z/deep/"+n)
			link("m/"+n, n)
		}
		r.restoredTwice(0)
		res := r.clean()
		// Any part of the names restores, with its content.
		dir := r.temp()
		got, err := r.tryRestore(RestoreOptions{Point: res.Point, Target: dir, Paths: []string{p("z"), p("large")}})
		if err != nil || got.Failed > 0 {
			t.Fatalf("%v, %+v: %s", err, got, r.notes)
		}
		sameBut(t, p("z"), filepath.Join(dir, p("z")), treecmp.Links)
		sameBut(t, p("large"), filepath.Join(dir, p("large")), treecmp.Links)
		// Fewer names: the links that are left.
		noErr(t, os.Remove(p("m/small")))
		noErr(t, os.Remove(p("a/sym")))
		noErr(t, os.Remove(p("z/deep/large")))
		r.restoredTwice(0)
	})
}

func TestSparseFiles(t *testing.T) {
	r := newRig(t)
	sparse := func(name string, size int64, data ...int64) int64 {
		f, err := os.Create(filepath.Join(r.src, name))
		noErr(t, err)
		defer f.Close()
		noErr(t, f.Truncate(size))
		for _, at := range data {
			_, err := f.WriteAt([]byte("data"), at)
			noErr(t, err)
		}
		var st unix.Stat_t
		noErr(t, unix.Fstat(int(f.Fd()), &st))
		return st.Blocks * 512
	}
	const tib = 1 << 40
	room := sparse("all hole", tib) + sparse("ends with a hole", tib, 0) + sparse("begins with a hole", tib, tib-4) +
		sparse("islands", tib, 4096, 1<<30, tib/2+17, tib-100) + sparse("small hole", 8192) + sparse("one byte", 1)
	var many []int64
	for i := range 40 {
		many = append(many, int64(i)<<24)
	}
	room += sparse("many", 1<<30, many...)
	res := r.clean()
	if res.BytesRead > room+64<<10 {
		t.Errorf("read %d bytes of files that take %d", res.BytesRead, room)
	}
	r.restoredTwice(0)
	// A hole that is filled, and data that becomes a hole.
	f, err := os.OpenFile(filepath.Join(r.src, "islands"), os.O_RDWR, 0)
	noErr(t, err)
	_, err = f.WriteAt([]byte("filled"), 1<<35)
	noErr(t, err)
	noErr(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 1<<30, 1<<20))
	noErr(t, f.Close())
	r.restoredTwice(0)
}

// A restore over a file whose hole was filled puts the hole back, wherever that
// is, although size and time are equal.
func TestRestoreOverFilledHole(t *testing.T) {
	r := newRig(t)
	p := filepath.Join(r.src, "f")
	noErr(t, os.WriteFile(p, nil, 0o644))
	noErr(t, os.Truncate(p, 1<<34))
	res := r.clean()
	dir := r.restore(res.Point)
	out := filepath.Join(dir, p)
	fi, err := os.Stat(out)
	noErr(t, err)
	for _, at := range []int64{0, 1 << 20, 1<<30 + 5, 1<<34 - 4} {
		f, err := os.OpenFile(out, os.O_WRONLY, 0)
		noErr(t, err)
		_, err = f.WriteAt([]byte("data"), at)
		noErr(t, err)
		noErr(t, f.Close())
		noErr(t, os.Chtimes(out, fi.ModTime(), fi.ModTime()))
		if got, err := r.tryRestore(RestoreOptions{Point: res.Point, Target: dir, Conflict: "overwrite"}); err != nil || got.Failed > 0 {
			t.Fatalf("%v, %+v", err, got)
		}
		same(t, r.src, filepath.Join(dir, r.src))
	}
}

func TestSpecialFiles(t *testing.T) {
	r := newRig(t)
	p := func(name string) string { return filepath.Join(r.src, name) }
	noErr(t, unix.Mkfifo(p("fifo"), 0o640))
	noErr(t, unix.Mknod(p("socket"), unix.S_IFSOCK|0o600, 0))
	for name, target := range map[string]string{
		"dangling": "nowhere", "absolute": "/etc/passwd", "loop": "loop", "dots": "../../..", "raw": "\xff\n", "long": strings.Repeat("x/", 2000),
	} {
		noErr(t, os.Symlink(target, p(name)))
	}
	if err := unix.Mknod(p("char"), unix.S_IFCHR|0o660, int(unix.Mkdev(1, 3))); err == nil {
		noErr(t, unix.Mknod(p("block"), unix.S_IFBLK|0o600, int(unix.Mkdev(259, 1<<19))))
		noErr(t, unix.Mknod(p("whiteout"), unix.S_IFCHR, 0))
	} else if !errors.Is(err, unix.EPERM) {
		t.Fatal(err)
	}
	r.restoredTwice(0)
}

func TestSocketsAreNoted(t *testing.T) {
	r := newRig(t)
	noErr(t, unix.Mknod(filepath.Join(r.src, "socket"), unix.S_IFSOCK|0o600, 0))
	r.write("f", "x")
	for range 2 {
		res := r.clean()
		if !r.notes.has(Info, "/socket", "socket") {
			t.Errorf("not noted: %s", r.notes)
		}
		r.wantNames(res.Point, "f")
	}
}

func TestModesOwnersAndTimes(t *testing.T) {
	bothUsers(t, func(t *testing.T) {
		r := newRig(t)
		root := os.Getuid() == 0
		rng := rand.New(rand.NewPCG(2, 2))
		times := []unix.Timespec{
			{Sec: 0}, {Sec: -1, Nsec: 999999999}, {Sec: -1 << 31}, {Sec: -1}, {Sec: 1<<31 - 1}, {Sec: 1 << 31}, {Sec: 1 << 32, Nsec: 1},
			{Sec: 1<<33 + 12345, Nsec: 123456789}, {Sec: 1700000000, Nsec: 987654321},
		}
		i := 0
		for mode := uint32(0); mode < 0o10000; mode += 0o111 {
			for _, dir := range []bool{false, true} {
				p := filepath.Join(r.src, fmt.Sprintf("%v-%05o", dir, mode))
				m := mode
				if dir {
					noErr(t, os.Mkdir(p, 0o755))
					noErr(t, os.WriteFile(filepath.Join(p, "inside"), []byte("x"), 0o644))
					if !root {
						m |= 0o500
					}
				} else {
					noErr(t, os.WriteFile(p, []byte(p), 0o644))
					if !root {
						m |= 0o400
					}
				}
				if root {
					noErr(t, os.Lchown(p, rng.IntN(1<<20), rng.IntN(1<<20)))
				}
				noErr(t, unix.Chmod(p, m))
				ts := times[i%len(times)]
				i++
				noErr(t, unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
			}
		}
		for k, ts := range times {
			p := filepath.Join(r.src, fmt.Sprintf("link%d", k))
			noErr(t, os.Symlink("x", p))
			noErr(t, unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
		}
		if root {
			noErr(t, os.Lchown(filepath.Join(r.src, "link0"), 1<<31, 1<<32-2))
		}
		noErr(t, unix.UtimesNanoAt(unix.AT_FDCWD, r.src, []unix.Timespec{times[1], times[1]}, 0))
		noErr(t, unix.Chmod(r.src, 0o2555))
		r.restoredTwice(1 << 20) // times to come count as racy
		noErr(t, unix.Chmod(r.src, 0o755))
	})
}

// acl encodes a POSIX ACL as the kernel takes it: tag, permissions, ID.
func acl(rows ...[3]uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, r := range rows {
		b = binary.LittleEndian.AppendUint16(b, uint16(r[0]))
		b = binary.LittleEndian.AppendUint16(b, uint16(r[1]))
		b = binary.LittleEndian.AppendUint32(b, r[2])
	}
	return b
}

func TestAttributes(t *testing.T) {
	bothUsers(t, func(t *testing.T) {
		r := newRig(t)
		set := func(p, name string, value []byte) {
			t.Helper()
			err := unix.Lsetxattr(p, name, value, 0)
			if err != nil && os.Getuid() == 0 && !errors.Is(err, unix.ENOTSUP) {
				t.Fatalf("%s %s: %v", p, name, err)
			}
		}
		all := []string{r.src}
		for i := range 6 {
			all = append(all, r.write(fmt.Sprintf("f%d", i), strings.Repeat("x", i*40<<10)))
			d := filepath.Join(r.src, fmt.Sprintf("d%d", i))
			noErr(t, os.Mkdir(d, 0o755))
			all = append(all, d, r.write(fmt.Sprintf("d%d/f", i), "y"))
		}
		const none = 1<<32 - 1
		access := acl([3]uint32{1, 7, none}, [3]uint32{2, 5, 1000}, [3]uint32{2, 4, 54321}, [3]uint32{4, 4, none}, [3]uint32{8, 7, 100}, [3]uint32{16, 7, none}, [3]uint32{32, 0, none})
		capability := append([]byte{1, 0, 0, 2}, bytes.Repeat([]byte{0, 4, 0, 0}, 4)...)
		for i, p := range all {
			fi, err := os.Lstat(p)
			noErr(t, err)
			set(p, "user.small", []byte("value"))
			if i%2 == 0 {
				set(p, "user.empty", nil)
				set(p, "user.raw\xff\n", []byte("\x00\xff"))
			}
			if i%3 == 0 {
				set(p, "user.large", bytes.Repeat([]byte{byte(i / 6)}, 2000))
				set(p, "system.posix_acl_access", access)
			}
			if fi.IsDir() && i%2 == 0 {
				set(p, "system.posix_acl_default", access)
			}
			if i%4 == 1 {
				set(p, "trusted.own", []byte("trusted"))
				if !fi.IsDir() {
					set(p, "security.capability", capability)
				}
			}
		}
		sym := filepath.Join(r.src, "sym")
		noErr(t, os.Symlink("x", sym))
		set(sym, "trusted.link", []byte("of a link"))
		r.restoredTwice(0)
		// Changed, removed and added attributes, with all else as it is.
		before := r.clean()
		unix.Lremovexattr(all[0], "user.small")
		set(all[1], "user.small", []byte("other"))
		unix.Lremovexattr(all[3], "system.posix_acl_access")
		set(all[4], "user.new", []byte("new"))
		r.restoredTwice(0)
		r.restore(before.Point)
	})
}

// A folder that its owner may not write to comes back with what is in it, and a
// default ACL of a folder does not reach what is restored into it.
func TestUnwritableFolders(t *testing.T) {
	bothUsers(t, func(t *testing.T) {
		r := newRig(t)
		for _, d := range []string{"a", "a/b", "a/b/c", "e"} {
			for i := range 3 {
				r.write(fmt.Sprintf("%s/f%d", d, i), d)
			}
		}
		for _, d := range []string{"a/b/c", "a/b", "a", "e"} {
			noErr(t, os.Chmod(filepath.Join(r.src, d), 0o555))
		}
		r.restoredTwice(0)
	})
}

// What root saved a user gets back as far as the kernel lets him, with the rest
// named once a kind.
func TestRestoreByUser(t *testing.T) {
	const place = "THARSIS_TEST_RESTORE"
	if dir := os.Getenv(place); dir != "" {
		restoreByUser(t, dir)
		return
	}
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	r := newRig(t)
	for i := range 5 {
		p := r.write(fmt.Sprintf("d%d/f", i), fmt.Sprint("content ", i))
		noErr(t, os.Chown(p, 1000+i, 2000+i))
		noErr(t, unix.Chmod(p, 0o6755))
		unix.Setxattr(p, "trusted.x", []byte("x"), 0)
		unix.Setxattr(p, "user.x", []byte("x"), 0)
		noErr(t, unix.Mknod(filepath.Join(r.src, fmt.Sprintf("dev%d", i)), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	}
	r.clean()
	dir := t.TempDir()
	copyDir(t, r.vault, filepath.Join(dir, "vault"))
	noErr(t, filepath.WalkDir(dir, func(p string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(p, plainUser, plainUser)
	}))
	for p := filepath.Dir(dir); p != os.TempDir() && p != "/"; p = filepath.Dir(p) {
		noErr(t, os.Chmod(p, 0o711))
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestRestoreByUser$", "-test.v")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TMPDIR="+dir, place+"="+dir, "THARSIS_TEST_SRC="+r.src)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: plainUser, Gid: plainUser}}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
		t.Errorf("%v\n%s", err, out)
	}
}

func restoreByUser(t *testing.T, dir string) {
	r := &rig{t: t, dir: dir, vault: filepath.Join(dir, "vault"), home: filepath.Join(dir, "home"), src: os.Getenv("THARSIS_TEST_SRC")}
	r.equip()
	out := filepath.Join(dir, "out")
	res, err := r.tryRestore(RestoreOptions{Point: "latest", Target: out})
	if err != nil {
		t.Fatal(err)
	}
	if res.Failed != 0 || res.Status != Completed {
		t.Errorf("%+v: %s", res, r.notes)
	}
	for i := range 5 {
		p := filepath.Join(out, r.src, fmt.Sprintf("d%d", i), "f")
		b, err := os.ReadFile(p)
		if err != nil || string(b) != fmt.Sprint("content ", i) {
			t.Errorf("%s: %q, %v", p, b, err)
		}
		fi, err := os.Stat(p)
		if err != nil || fi.Mode() != 0o755 { // the setuid bit would be of another user
			t.Errorf("%s: %v, %v", p, fi.Mode(), err)
		}
	}
	// Owners, devices, trusted attributes, setuid: once each.
	if n := len(r.notes.list); n == 0 || n > 6 {
		t.Errorf("%d notes: %s", n, r.notes)
	}
	t.Log(r.notes)
}
