package rescue

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// nasty is a tree with one of everything that a restore has to bring back.
type nasty struct {
	t   *testing.T
	dir string
	rng *rand.Rand
}

func newNasty(t *testing.T) *nasty {
	n := &nasty{t, filepath.Join(t.TempDir(), "source"), rand.New(rand.NewPCG(4, 4))}
	t.Cleanup(func() { removeAll(n.dir) })
	n.names()
	n.contents()
	n.links()
	n.deep()
	n.attributes()
	n.metadata()
	return n
}

// newPlain is a tree of files, of which one is too large for one record.
func newPlain(t *testing.T) *nasty {
	n := &nasty{t, filepath.Join(t.TempDir(), "source"), rand.New(rand.NewPCG(5, 5))}
	n.names()
	n.write("big", n.noise(3<<20))
	for i := range 200 {
		n.write(fmt.Sprintf("many/%d/%03d", i%9, i), n.noise(i))
	}
	return n
}

func (n *nasty) path(name string) string { return filepath.Join(n.dir, name) }

func (n *nasty) write(name, content string) string {
	n.t.Helper()
	path := n.path(name)
	noErr(n.t, os.MkdirAll(filepath.Dir(path), 0o755))
	noErr(n.t, os.WriteFile(path, []byte(content), 0o644))
	return path
}

func (n *nasty) noise(size int) string {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(n.rng.Uint32())
	}
	return string(b)
}

func (n *nasty) names() {
	for _, name := range []string{
		"new\nline", "\xff\xfe not UTF-8", " space ", "-dash", "...", "日本", "e\u0301", "é", "back\\slash", "\x1b[31m", "a", "a.b", "a b",
		"A", "a-", strings.Repeat("n", 255), "\x01",
	} {
		n.write("names/"+name, name)
		n.write("names/in/"+name+"/f", name)
	}
	noErr(n.t, os.MkdirAll(n.path("empty folder"), 0o700))
}

// contents writes files of all shapes: a block table of pages needs over 16 extents.
func (n *nasty) contents() {
	n.write("files/empty", "")
	n.write("files/big", n.noise(12<<20))
	n.write("files/text", strings.Repeat("the same line again and again\n", 100_000))
	for i := range 300 {
		n.write(fmt.Sprintf("files/many/%03d", i), n.noise(i*7))
	}
	for name, holes := range map[string]int64{"one hole": 1, "many holes": 20} {
		f, err := os.Create(n.path("files/" + name))
		noErr(n.t, err)
		for i := range holes {
			_, err = f.WriteAt([]byte(n.noise(64<<10)), (2*i+1)<<16)
			noErr(n.t, err)
		}
		noErr(n.t, f.Truncate(holes<<17+1<<20))
		noErr(n.t, f.Close())
	}
	f, err := os.Create(n.path("files/only a hole"))
	noErr(n.t, err)
	noErr(n.t, f.Truncate(1<<40))
	noErr(n.t, f.Close())
}

func (n *nasty) links() {
	t := n.t
	noErr(t, os.Mkdir(n.path("links"), 0o755))
	for name, target := range map[string]string{
		"dangling": "nowhere", "absolute": "/etc/passwd", "up": "../../..", "loop": "loop", "odd": "\xff\n", "long": strings.Repeat("x/", 2000),
	} {
		noErr(t, os.Symlink(target, n.path("links/"+name)))
	}
	noErr(t, unix.Mkfifo(n.path("links/fifo"), 0o640))
	if os.Getuid() == 0 {
		noErr(t, unix.Mknod(n.path("links/char"), unix.S_IFCHR|0o620, int(unix.Mkdev(1, 3))))
		noErr(t, unix.Mknod(n.path("links/block"), unix.S_IFBLK|0o600, int(unix.Mkdev(300, 70000))))
		noErr(t, os.Link(n.path("links/char"), n.path("links/char again")))
	}
	for from, to := range map[string]string{
		"files/text": "links/text", "files/empty": "links/empty", "links/dangling": "names/dangling again", "links/fifo": "names/fifo again",
	} {
		noErr(t, os.Link(n.path(from), n.path(to)))
	}
}

// deep makes two chains of folders, deeper than a reader would like to hold open,
// with something to do in each on the way back.
func (n *nasty) deep() {
	for _, chain := range []string{"deep/a", "deep/b"} {
		path := chain
		for i := range 150 {
			path = fmt.Sprintf("%s/d%d", path, i%10)
		}
		n.write(path+"/end", "the end")
		for p := path; p != chain; p = filepath.Dir(p) {
			n.write(p+"/z", p)
		}
		noErr(n.t, os.Link(n.path("files/text"), n.path(path+"/text")))
	}
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

func (n *nasty) attributes() {
	root := os.Getuid() == 0
	set := func(name, attr string, value []byte) {
		n.t.Helper()
		err := unix.Lsetxattr(n.path(name), attr, value, 0)
		if errors.Is(err, unix.ENOTSUP) && os.Getenv("THARSIS_CI") == "" {
			n.t.Logf("%s: %v", attr, err)
			return
		}
		noErr(n.t, err)
	}
	const none = 1<<32 - 1
	access := acl([3]uint32{1, 7, none}, [3]uint32{2, 5, 1000}, [3]uint32{4, 4, none}, [3]uint32{16, 6, none}, [3]uint32{32, 1, none})
	n.write("attributes/f", "f")
	n.write("attributes/g", "g")
	n.write("attributes/d/inside", "a default ACL must not reach this")
	set("attributes/f", "user.small", []byte("value"))
	set("attributes/f", "user.empty", nil)
	set("attributes/g", "user.large", bytes.Repeat([]byte("large"), 500)) // in a chunk
	set("attributes/g", "user.raw\xff\n", []byte("\x00\xff"))
	set("attributes/f", "system.posix_acl_access", access)
	set("attributes/d", "system.posix_acl_access", access)
	set("attributes/d", "system.posix_acl_default", access)
	set("links/fifo", "system.posix_acl_access", access)
	if root {
		set("attributes/g", "trusted.own", []byte("trusted"))
		set("links/absolute", "trusted.link", []byte("of a symlink"))
		set("attributes/g", "security.capability", append([]byte{1, 0, 0, 2}, bytes.Repeat([]byte{0, 4, 0, 0}, 4)...))
	}
}

// metadata sets owners, modes and times, folders last.
func (n *nasty) metadata() {
	t := n.t
	for i, mode := range []uint32{0o4755, 0o2755, 0o6711, 0o1644, 0o400, 0o000, 0o7777} {
		if os.Getuid() != 0 {
			mode |= 0o400
		}
		path := n.write(fmt.Sprintf("modes/f%d", i), "f")
		if os.Getuid() == 0 {
			noErr(t, os.Lchown(path, 1000+i, 2000+i))
			noErr(t, os.Lchown(n.path("links/up"), 1<<31, 1<<32-2))
		}
		noErr(t, unix.Chmod(path, mode))
	}
	for i, ts := range []unix.Timespec{{Sec: -1, Nsec: 999999999}, {Sec: -1 << 31}, {Sec: 0}, {Sec: 1 << 32, Nsec: 1}, {Sec: 1700000000, Nsec: 987654321}} {
		setTime(t, n.write(fmt.Sprintf("times/f%d", i), "f"), ts)
		link := n.path(fmt.Sprintf("times/l%d", i))
		noErr(t, os.Symlink("x", link))
		setTime(t, link, ts)
	}
	n.write("closed/inner/f", "in folders without write permission")
	n.write("closed/g", "g")
	for _, name := range []string{"closed/inner", "closed", "times", "modes"} {
		setTime(t, n.path(name), unix.Timespec{Sec: -12345, Nsec: 6789})
	}
	noErr(t, unix.Chmod(n.path("closed/inner"), 0o500))
	noErr(t, unix.Chmod(n.path("closed"), 0o2555))
	noErr(t, unix.Chmod(n.dir, 0o3755))
}

func setTime(t *testing.T, path string, ts unix.Timespec) {
	t.Helper()
	noErr(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
}

// edit changes the tree in a bit of everything, differently for each i.
func (n *nasty) edit(i int) {
	t := n.t
	f, err := os.OpenFile(n.path("files/big"), os.O_WRONLY, 0)
	noErr(t, err)
	_, err = f.WriteAt([]byte(n.noise(1000)), int64(i)<<20)
	noErr(t, err)
	noErr(t, f.Close())
	n.write(fmt.Sprintf("files/many/%03d", 3*i), n.noise(500))
	n.write(fmt.Sprintf("names/new %d", i), "new")
	noErr(t, os.RemoveAll(n.path(fmt.Sprintf("files/many/%03d", 100+i))))
	noErr(t, os.Rename(n.path(fmt.Sprintf("files/many/%03d", 200+i)), n.path(fmt.Sprintf("names/moved %d", i))))
	noErr(t, os.Chmod(n.path(fmt.Sprintf("modes/f%d", i%4)), 0o640|os.FileMode(i)))
	noErr(t, os.Symlink(fmt.Sprint(i), n.path(fmt.Sprintf("links/new %d", i))))
	noErr(t, unix.Lsetxattr(n.path("attributes/f"), "user.small", fmt.Append(nil, i), 0))
}
