package agent

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ok demands that a step of a pattern worked.
func (m *moving) ok(err error) {
	if err != nil {
		m.t.Helper()
		m.t.Errorf("the test itself: %v", err)
	}
}

// put writes content over what is there, in place.
func (m *moving) put(name, content string, flags int) {
	f, err := os.OpenFile(m.p(name), os.O_WRONLY|os.O_CREATE|flags, 0o644)
	m.ok(err)
	_, err = f.WriteString(content)
	m.ok(err)
	m.ok(f.Close())
}

// still does something and puts the modification time of a/f back.
func (m *moving) still(do func()) {
	fi, err := os.Stat(m.p("a/f"))
	m.ok(err)
	do()
	m.ok(os.Chtimes(m.p("a/f"), time.Time{}, fi.ModTime()))
}

func (m *moving) rename(from, to string) { m.ok(os.Rename(m.p(from), m.p(to))) }

func (m *moving) exchange(a, b string) {
	m.ok(unix.Renameat2(unix.AT_FDCWD, m.p(a), unix.AT_FDCWD, m.p(b), unix.RENAME_EXCHANGE))
}

// over makes something of another name and renames it over a/f.
func (m *moving) over(do func(path string)) {
	do(m.p("a/f.new"))
	m.rename("a/f.new", "a/f")
}

// instead makes something in the place of what is there.
func (m *moving) instead(name string, do func(path string)) {
	m.ok(os.RemoveAll(m.p(name)))
	do(m.p(name))
}

func (m *moving) file(content string) func(string) {
	return func(path string) { m.ok(os.WriteFile(path, []byte(content), 0o644)) }
}

func (m *moving) link(target string) func(string) {
	return func(path string) { m.ok(os.Symlink(target, path)) }
}

func (m *moving) node(mode uint32, dev uint64) func(string) {
	return func(path string) { m.ok(unix.Mknod(path, mode|0o600, int(dev))) }
}

func (m *moving) folder(path string) { m.ok(os.Mkdir(path, 0o755)) }

// filled is a folder with a file in it.
func (m *moving) filled(path string) {
	m.folder(path)
	m.ok(os.WriteFile(filepath.Join(path, "f"), []byte("of another folder"), 0o644))
}

func (m *moving) half() int64 { return int64(m.size / 2) }

// punched digs a hole, or changes the file in another way, where the file system can.
func (m *moving) fallocate(mode uint32) {
	f, err := os.OpenFile(m.p("a/f"), os.O_RDWR, 0)
	m.ok(err)
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), mode, 0, m.half()&^4095|1024); err != nil && err != unix.EOPNOTSUPP {
		m.ok(err)
	}
}

// mapped writes by a shared mapping.
func (m *moving) mapped() {
	f, err := os.OpenFile(m.p("a/f"), os.O_RDWR, 0)
	m.ok(err)
	defer f.Close()
	b, err := unix.Mmap(int(f.Fd()), 0, 1000, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil { // it is empty or short by now
		m.ok(err)
		return
	}
	copy(b, m.fresh(1000))
	m.ok(unix.Msync(b, unix.MS_SYNC))
	m.ok(unix.Munmap(b))
}

// home puts the source back where it was, if it isn't there.
func (m *moving) home() {
	gone := filepath.Join(m.away, "src")
	if _, err := os.Lstat(gone); err == nil {
		m.ok(os.RemoveAll(m.src))
		m.ok(os.Rename(gone, m.src))
	} else if _, err := os.Lstat(m.src); err != nil {
		m.filled(m.src)
	}
}

func (m *moving) leave() { m.ok(os.Rename(m.src, filepath.Join(m.away, "src"))) }

// movingPatterns are the ways in which a source changes.
var movingPatterns = []movingPattern{
	{on: "file", name: "append a line", do: func(m *moving) { m.put("a/f", "one more line\n", os.O_APPEND) }},
	{on: "file", name: "append much", do: func(m *moving) { m.put("a/f", m.fresh(200<<10), os.O_APPEND) }},
	{on: "file", name: "truncate to nothing", do: func(m *moving) { m.ok(os.Truncate(m.p("a/f"), 0)) }},
	{on: "file", name: "truncate to half", do: func(m *moving) { m.ok(os.Truncate(m.p("a/f"), m.half())) }},
	{on: "file", name: "extend by a hole", do: func(m *moving) { m.ok(os.Truncate(m.p("a/f"), int64(m.size)+200<<10)) }},
	{on: "file", name: "write anew, shorter", do: func(m *moving) { m.put("a/f", m.fresh(m.size/3), os.O_TRUNC) }},
	{on: "file", name: "write anew, longer", do: func(m *moving) { m.put("a/f", m.fresh(m.size*3), os.O_TRUNC) }},
	{on: "file", name: "write anew, as long", do: func(m *moving) { m.put("a/f", m.fresh(m.size), os.O_TRUNC) }},
	{on: "file", name: "overwrite all", do: func(m *moving) { m.put("a/f", m.fresh(m.size), 0) }},
	{on: "file", name: "overwrite the start", do: func(m *moving) { m.put("a/f", "other", 0) }},
	{on: "file", name: "overwrite all, mtime put back", do: func(m *moving) { m.still(func() { m.put("a/f", m.fresh(m.size), 0) }) }},
	{on: "file", name: "overwrite the start, mtime put back", do: func(m *moving) { m.still(func() { m.put("a/f", "other", 0) }) }},
	{on: "file", name: "overwrite, mtime in the future", do: func(m *moving) {
		m.put("a/f", "other", 0)
		m.ok(os.Chtimes(m.p("a/f"), time.Time{}, time.Now().Add(1000*time.Hour)))
	}},
	{on: "file", name: "overwrite, mtime long ago", do: func(m *moving) {
		m.put("a/f", "other", 0)
		m.ok(os.Chtimes(m.p("a/f"), time.Time{}, time.Unix(-1e9, 1)))
	}},
	{on: "file", name: "change and change back", do: func(m *moving) {
		was, err := os.ReadFile(m.p("a/f"))
		m.ok(err)
		m.put("a/f", m.fresh(m.size), 0)
		m.put("a/f", string(was), 0)
	}},
	{on: "file", name: "write by a mapping", do: (*moving).mapped},
	{on: "file", name: "punch a hole", do: func(m *moving) { m.fallocate(unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE) }},
	{on: "file", name: "zero a range", do: func(m *moving) { m.fallocate(unix.FALLOC_FL_ZERO_RANGE) }},
	{on: "file", name: "make all a hole", do: func(m *moving) {
		m.ok(os.Truncate(m.p("a/f"), 0))
		m.ok(os.Truncate(m.p("a/f"), int64(m.size)))
	}},
	{on: "file", name: "touch", do: func(m *moving) { m.ok(os.Chtimes(m.p("a/f"), time.Now(), time.Now())) }},
	{on: "file", swap: true, name: "replace", do: func(m *moving) { m.over(m.file(m.fresh(m.size))) }},
	{on: "file", swap: true, name: "replace, mtime put back", do: func(m *moving) { m.still(func() { m.over(m.file(m.fresh(m.size))) }) }},
	{on: "file", swap: true, name: "replace by a longer one", do: func(m *moving) { m.over(m.file(m.fresh(m.size * 2))) }},
	{on: "file", swap: true, name: "replace by a large one", do: func(m *moving) { m.over(m.file(m.fresh(movingLarge * 2))) }},
	{on: "file", swap: true, name: "replace by an empty one", do: func(m *moving) { m.over(m.file("")) }},
	{on: "file", swap: true, name: "exchange with another file", do: func(m *moving) { m.exchange("a/f", "b/other") }},
	{on: "file", swap: true, name: "rename", do: func(m *moving) { m.rename("a/f", "a/g") }},
	{on: "file", swap: true, name: "rename, and another takes its name", do: func(m *moving) {
		m.rename("a/f", "a/g")
		m.put("a/f", "another", 0)
	}},
	{on: "file", name: "move to a folder behind", do: func(m *moving) { m.rename("a/f", "z/f") }},
	{on: "file", swap: true, name: "move out of the source", do: func(m *moving) { m.ok(os.Rename(m.p("a/f"), filepath.Join(m.away, "f"))) }},
	{on: "file", swap: true, name: "remove", do: func(m *moving) { m.ok(os.Remove(m.p("a/f"))) }},
	{on: "file", name: "remove and make anew", do: func(m *moving) { m.instead("a/f", m.file(m.fresh(m.size))) }},
	{on: "file", name: "remove and make anew, mtime put back", do: func(m *moving) { m.still(func() { m.instead("a/f", m.file(m.fresh(m.size))) }) }},
	{on: "file", swap: true, name: "a FIFO in its place", do: func(m *moving) { m.instead("a/f", m.node(unix.S_IFIFO, 0)) }},
	{on: "file", swap: true, name: "a socket in its place", do: func(m *moving) { m.instead("a/f", m.node(unix.S_IFSOCK, 0)) }},
	{on: "file", swap: true, name: "an endless device in its place", root: true, do: func(m *moving) { m.instead("a/f", m.node(unix.S_IFCHR, unix.Mkdev(1, 5))) }},
	{on: "file", swap: true, name: "a disk in its place", root: true, do: func(m *moving) { m.instead("a/f", m.node(unix.S_IFBLK, unix.Mkdev(240, 77))) }},
	{on: "file", swap: true, name: "a link to a secret in its place", do: func(m *moving) { m.instead("a/f", m.link(filepath.Join(m.outside, "secret"))) }},
	{on: "file", swap: true, name: "a link to a secret renamed over it", do: func(m *moving) { m.over(m.link(filepath.Join(m.outside, "secret"))) }},
	{on: "file", swap: true, name: "a link to itself in its place", do: func(m *moving) { m.instead("a/f", m.link("f")) }},
	{on: "file", swap: true, name: "a folder in its place", do: func(m *moving) { m.instead("a/f", m.folder) }},
	{on: "file", swap: true, name: "a filled folder in its place", do: func(m *moving) { m.instead("a/f", m.filled) }},
	{on: "file", name: "one more name", do: func(m *moving) { m.ok(os.Link(m.p("a/f"), m.p("z/f"))) }},
	{on: "file", name: "another name instead", do: func(m *moving) {
		m.ok(os.Link(m.p("a/f"), m.p("z/f")))
		m.ok(os.Remove(m.p("a/f")))
	}},
	{on: "file", name: "change by another name", do: func(m *moving) {
		m.ok(os.Link(m.p("a/f"), m.p("z/f")))
		m.put("z/f", "other", 0)
	}},
	{on: "file", name: "another name gone", do: func(m *moving) {
		m.ok(os.Link(m.p("a/f"), m.p("z/f")))
		m.ok(os.Remove(m.p("z/f")))
	}},
	{on: "file", name: "mode", do: func(m *moving) { m.ok(os.Chmod(m.p("a/f"), 0o400)) }},
	{on: "file", name: "owner", root: true, do: func(m *moving) { m.ok(os.Chown(m.p("a/f"), 1234, 5678)) }},
	{on: "file", name: "an attribute", do: func(m *moving) { m.attr("a/f", strings.Repeat("new", 200)) }},
	{on: "file", name: "no attribute", do: func(m *moving) { unix.Removexattr(m.p("a/f"), "user.was") }},
	{on: "file", name: "all at once", do: func(m *moving) {
		m.put("a/f", m.fresh(m.size), 0)
		m.attr("a/f", "new")
		m.ok(os.Chmod(m.p("a/f"), 0o600))
		m.ok(os.Link(m.p("a/f"), m.p("a/g")))
	}},

	{on: "file", again: true, name: "grow without an end", do: func(m *moving) { m.put("a/f", m.fresh(500), os.O_APPEND) }},
	{on: "file", again: true, name: "shrink at each step", do: func(m *moving) {
		fi, err := os.Stat(m.p("a/f"))
		m.ok(err)
		m.ok(os.Truncate(m.p("a/f"), fi.Size()*2/3))
	}},
	{on: "file", again: true, name: "overwrite at each step", do: func(m *moving) { m.put("a/f", m.fresh(m.size), 0) }},
	{on: "file", again: true, name: "overwrite at each step, mtime put back", do: func(m *moving) { m.still(func() { m.put("a/f", m.fresh(m.size), 0) }) }},
	{on: "file", swap: true, again: true, name: "replace at each step", do: func(m *moving) { m.over(m.file(m.fresh(m.size))) }},
	{on: "file", again: true, name: "mode at each step", do: func(m *moving) { m.ok(os.Chmod(m.p("a/f"), 0o600)) }},
	{on: "file", again: true, name: "empty and full at each step", do: func(m *moving) {
		if len(m.states)%2 == 1 {
			m.ok(os.Truncate(m.p("a/f"), 0))
		} else {
			m.put("a/f", m.fresh(m.size), 0)
		}
	}},

	{on: "folder", swap: true, name: "rename", do: func(m *moving) { m.rename("a", "a2") }},
	{on: "folder", swap: true, name: "move behind", do: func(m *moving) { m.rename("a", "z/a") }},
	{on: "folder", swap: true, name: "move out of the source", do: func(m *moving) { m.ok(os.Rename(m.p("a"), filepath.Join(m.away, "a"))) }},
	{on: "folder", swap: true, name: "remove", do: func(m *moving) { m.ok(os.RemoveAll(m.p("a"))) }},
	{on: "folder", swap: true, name: "empty", do: func(m *moving) { m.instead("a", m.folder) }},
	{on: "folder", swap: true, name: "another folder in its place", do: func(m *moving) { m.instead("a", m.filled) }},
	{on: "folder", name: "another folder, while it moves behind", do: func(m *moving) {
		m.rename("a", "z/a")
		m.filled(m.p("a"))
	}},
	{on: "folder", swap: true, name: "exchange with another", do: func(m *moving) { m.exchange("a", "b") }},
	{on: "folder", swap: true, name: "exchange with its own folder", do: func(m *moving) {
		m.rename("a/sub", "sub")
		m.exchange("a", "sub")
		m.rename("sub", "a/sub")
	}},
	{on: "folder", swap: true, name: "a link to a secret folder in its place", do: func(m *moving) {
		m.rename("a", "z/a")
		m.link(m.outside)(m.p("a"))
	}},
	{on: "folder", swap: true, name: "exchange with a link to a secret folder", do: func(m *moving) {
		m.link(m.outside)(m.p("y"))
		m.exchange("a", "y")
	}},
	{on: "folder", swap: true, again: true, name: "exchange with a link to a secret folder at each step", do: func(m *moving) {
		if _, err := os.Lstat(m.p("y")); err != nil {
			m.link(m.outside)(m.p("y"))
		}
		m.exchange("a", "y")
	}},
	{on: "folder", swap: true, name: "a link to another folder in its place", do: func(m *moving) { m.instead("a", m.link("b")) }},
	{on: "folder", swap: true, name: "a link to itself in its place", do: func(m *moving) { m.instead("a", m.link(".")) }},
	{on: "folder", swap: true, name: "a file in its place", do: func(m *moving) { m.instead("a", m.file("a file")) }},
	{on: "folder", swap: true, name: "a FIFO in its place", do: func(m *moving) { m.instead("a", m.node(unix.S_IFIFO, 0)) }},
	{on: "folder", name: "files added", do: func(m *moving) {
		for _, f := range []string{"A", "c", "g", "sub/y", "zz"} {
			m.put("a/"+f, "added", 0)
		}
	}},
	{on: "folder", name: "all its files renamed", do: func(m *moving) {
		for _, f := range []string{"before", "f", "sub", "link"} {
			m.rename("a/"+f, "a/new "+f)
		}
	}},
	{on: "folder", name: "a folder within moved up", do: func(m *moving) { m.rename("a/sub", "sub") }},
	{on: "folder", name: "mode", do: func(m *moving) { m.ok(os.Chmod(m.p("a"), 0o700)) }},
	{on: "folder", name: "owner", root: true, do: func(m *moving) { m.ok(os.Chown(m.p("a"), 1234, 5678)) }},
	{on: "folder", name: "an attribute", do: func(m *moving) { m.attr("a", "new") }},

	{on: "link", swap: true, name: "another target", do: func(m *moving) { m.instead("a/link", m.link("elsewhere")) }},
	{on: "link", swap: true, name: "a secret target", do: func(m *moving) { m.instead("a/link", m.link(filepath.Join(m.outside, "secret"))) }},
	{on: "link", swap: true, name: "rename", do: func(m *moving) { m.rename("a/link", "a/other link") }},
	{on: "link", swap: true, name: "remove", do: func(m *moving) { m.ok(os.Remove(m.p("a/link"))) }},
	{on: "link", swap: true, name: "a file in its place", do: func(m *moving) { m.instead("a/link", m.file("a file")) }},
	{on: "link", swap: true, name: "a folder in its place", do: func(m *moving) { m.instead("a/link", m.filled) }},
	{on: "link", swap: true, name: "owner", root: true, do: func(m *moving) { m.ok(os.Lchown(m.p("a/link"), 1234, 5678)) }},
	{on: "link", swap: true, again: true, name: "another target at each step", do: func(m *moving) {
		m.instead("a/link", m.link(strings.Repeat("x", len(m.states))))
	}},

	{on: "root", name: "rename", do: (*moving).leave, heal: (*moving).home},
	{on: "root", name: "remove", do: func(m *moving) { m.ok(os.RemoveAll(m.src)) }, heal: (*moving).home},
	{on: "root", name: "another folder in its place", do: func(m *moving) { m.leave(); m.filled(m.src) }, heal: (*moving).home},
	{on: "root", name: "a link to a secret folder in its place", do: func(m *moving) { m.leave(); m.link(m.outside)(m.src) }, heal: (*moving).home},
	{on: "root", name: "a link to itself moved away", do: func(m *moving) { m.leave(); m.link(filepath.Join(m.away, "src"))(m.src) }, heal: (*moving).home},
	{on: "root", name: "a file in its place", do: func(m *moving) { m.leave(); m.file("a file")(m.src) }, heal: (*moving).home},
	{on: "root", name: "rename and back", do: func(m *moving) { m.leave(); m.home() }},
	{on: "root", name: "mode", do: func(m *moving) { m.ok(os.Chmod(m.src, 0o700)) }},
	{on: "root", name: "an attribute", do: func(m *moving) { m.attr(".", "new") }},
}

// attr sets an attribute, where the file system has any.
func (m *moving) attr(name, value string) {
	if err := unix.Setxattr(m.p(name), "user.new", []byte(value), 0); err != nil && err != syscall.ENOTSUP {
		m.ok(err)
	}
}
