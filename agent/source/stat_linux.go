package source

import (
	"golang.org/x/sys/unix"

	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// record is what a reader learned of one name. It has no pointers, so that a
// million of them cost the garbage collector nothing.
type record struct {
	meta
	off   uint32 // of the name in the batch's names
	n     uint16
	errno uint16 // with unknown
	state recordState
	aux   uint32 // a folder: its place in kids; a symlink: 1 + its place in targets, 0 if unread
}

// recordState is the State of a record, or that it is not to be yielded.
type recordState uint8

const (
	found recordState = iota
	unknown
	isSocket
	onPseudo
	vanished
	excluded
)

// meta is a stat as the manifest keeps it.
type meta struct {
	mtime, ctime manifest.Time
	size         int64
	rdev         uint64
	inode        uint64
	link         uint64
	mode         uint32 // with the type bits
	uid, gid     uint32
}

func metaOf(st *unix.Stat_t, fs *fileSystem) meta {
	m := meta{
		mtime: manifest.Time{Sec: int64(st.Mtim.Sec), Nsec: uint32(st.Mtim.Nsec)},
		ctime: manifest.Time{Sec: int64(st.Ctim.Sec), Nsec: uint32(st.Ctim.Nsec)},
		size:  st.Size,
		rdev:  st.Rdev,
		mode:  st.Mode,
		uid:   st.Uid,
		gid:   st.Gid,
	}
	if fs.stable {
		m.inode = st.Ino
	}
	if st.Nlink > 1 && m.typ() != unix.S_IFDIR {
		m.link = fs.linkKey(st)
	}
	return m
}

func (m *meta) typ() uint32 { return m.mode & unix.S_IFMT }

// kind returns 0 for what is not stored.
func (m *meta) kind() manifest.Kind {
	switch m.typ() {
	case unix.S_IFDIR:
		return manifest.KindDir
	case unix.S_IFREG:
		return manifest.KindFile
	case unix.S_IFLNK:
		return manifest.KindSymlink
	case unix.S_IFBLK:
		return manifest.KindBlock
	case unix.S_IFCHR:
		return manifest.KindChar
	case unix.S_IFIFO:
		return manifest.KindFIFO
	}
	return 0
}

// fillMeta sets an empty entry from a stat.
func (t *Tree) fillMeta(e *manifest.Entry, m *meta) {
	e.Kind = m.kind()
	e.Mode = m.mode & 0o7777
	e.UID, e.GID = m.uid, m.gid
	e.User, e.Group = t.users.name(m.uid), t.groups.name(m.gid)
	e.MTime, e.CTime = m.mtime, m.ctime
	e.Inode, e.LinkKey = m.inode, m.link
	switch e.Kind {
	case manifest.KindFile:
		e.Size = uint64(m.size)
	case manifest.KindBlock, manifest.KindChar:
		e.Major, e.Minor = unix.Major(m.rdev), unix.Minor(m.rdev)
	}
}
