package treecmp

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// entryIn compares an entry of f that both trees have, and tells whether it is
// a folder in both.
func (c *comparer) entryIn(f *folder, name string) bool {
	return c.entry(place{f.a, name}, place{f.b, name}, f.join(name))
}

// entry compares one entry, without what lies below it, and tells whether it
// is a folder in both trees.
func (c *comparer) entry(a, b place, path string) bool {
	var sa, sb unix.Stat_t
	if err := unix.Fstatat(a.dir, a.name, &sa, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		c.report(path, Unreadable, "stat: "+err.Error(), "")
		return false
	}
	if err := unix.Fstatat(b.dir, b.name, &sb, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		c.report(path, Unreadable, "", "stat: "+err.Error())
		return false
	}
	c.stats.Entries++
	kind := sa.Mode & unix.S_IFMT
	if kind != sb.Mode&unix.S_IFMT {
		c.report(path, Type, kindName(sa.Mode), kindName(sb.Mode))
		return false
	}
	c.metadata(path, &sa, &sb)
	if c.o.Ignore&Xattrs == 0 {
		c.compareXattrs(a, b, path)
	}
	switch kind {
	case unix.S_IFDIR:
		return true
	case unix.S_IFREG:
		c.file(a, b, path, &sa, &sb)
	case unix.S_IFLNK:
		c.target(a, b, path)
	case unix.S_IFCHR, unix.S_IFBLK:
		if sa.Rdev != sb.Rdev {
			c.report(path, Devices, deviceText(sa.Rdev), deviceText(sb.Rdev))
		}
	}
	if kind != unix.S_IFREG {
		c.sameLinks(path, &sa, &sb)
	}
	return false
}

// metadata compares what stat tells of entries of any kind.
func (c *comparer) metadata(path string, sa, sb *unix.Stat_t) {
	kind := sa.Mode & unix.S_IFMT
	// The kernel gives every symlink the mode 0777 and no way to change it.
	if ma, mb := sa.Mode&0o7777, sb.Mode&0o7777; ma != mb && kind != unix.S_IFLNK {
		c.report(path, Modes, fmt.Sprintf("%04o", ma), fmt.Sprintf("%04o", mb))
	}
	if sa.Uid != sb.Uid || sa.Gid != sb.Gid {
		c.report(path, Owners, fmt.Sprintf("%d:%d", sa.Uid, sa.Gid), fmt.Sprintf("%d:%d", sb.Uid, sb.Gid))
	}
	if sa.Mtim != sb.Mtim {
		aspect := Times
		if kind == unix.S_IFDIR {
			aspect = DirTimes
		}
		c.report(path, aspect, timeText(sa.Mtim), timeText(sb.Mtim))
	}
}

// file compares size, holes and bytes of two regular files. Of a file with
// several links the bytes are read once.
func (c *comparer) file(a, b place, path string, sa, sb *unix.Stat_t) {
	c.stats.Files++
	c.stats.Bytes += sa.Size
	readBefore := c.sameLinks(path, sa, sb)
	if sa.Size != sb.Size {
		c.report(path, Sizes, fmt.Sprint(sa.Size), fmt.Sprint(sb.Size))
		return
	}
	if bloated(sa, sb) {
		c.report(path, Sparse, fmt.Sprintf("%d bytes on disk", sa.Blocks*512), fmt.Sprintf("%d bytes on disk", sb.Blocks*512))
	}
	if readBefore || sa.Size == 0 || c.o.Ignore&Content != 0 {
		return
	}
	at, err := c.compareContent(a, b, sa.Size)
	switch {
	case err != nil:
		c.report(path, Unreadable, err.Error(), "")
	case at >= 0:
		c.report(path, Content, fmt.Sprintf("of %d bytes", sa.Size), fmt.Sprintf("first difference in the block at %d", at))
	}
}

// bloated tells whether a has holes and b takes over 25 % more room on disk.
// The slack is for blocks and hole borders of another size.
func bloated(sa, sb *unix.Stat_t) bool {
	const slack = 64 << 10
	roomA, roomB := sa.Blocks*512, sb.Blocks*512
	return roomA < sa.Size && roomB > roomA+roomA/4+slack
}

// target compares what two symlinks say.
func (c *comparer) target(a, b place, path string) {
	na, errA := unix.Readlinkat(a.dir, a.name, c.bufA)
	nb, errB := unix.Readlinkat(b.dir, b.name, c.bufB)
	if errA != nil || errB != nil {
		c.report(path, Unreadable, fmt.Sprint("readlink: ", errA), fmt.Sprint("readlink: ", errB))
		return
	}
	if ta, tb := string(c.bufA[:na]), string(c.bufB[:nb]); ta != tb {
		c.report(path, Targets, fmt.Sprintf("%q", ta), fmt.Sprintf("%q", tb))
	}
}

func timeText(ts unix.Timespec) string {
	sec, nsec := ts.Unix()
	return time.Unix(sec, nsec).UTC().Format("2006-01-02T15:04:05.000000000Z")
}

func deviceText(rdev uint64) string {
	return fmt.Sprintf("%d,%d", unix.Major(rdev), unix.Minor(rdev))
}

// describe names the kind of an entry that only one tree has.
func describe(p place) string {
	var st unix.Stat_t
	if err := unix.Fstatat(p.dir, p.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return "stat: " + err.Error()
	}
	return kindName(st.Mode)
}

func kindName(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return "file"
	case unix.S_IFDIR:
		return "folder"
	case unix.S_IFLNK:
		return "symlink"
	case unix.S_IFIFO:
		return "fifo"
	case unix.S_IFSOCK:
		return "socket"
	case unix.S_IFCHR:
		return "character device"
	case unix.S_IFBLK:
		return "block device"
	}
	return fmt.Sprintf("type %o", mode&unix.S_IFMT)
}
