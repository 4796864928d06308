package manifest

import (
	"slices"

	"github.com/tharsis-backup/tharsis/chunk"
)

// Kind is what an entry is on its file system. Zero is never stored.
type Kind uint8

// The kinds of entries. Sockets are never stored.
const (
	KindDir     Kind = 1
	KindFile    Kind = 2
	KindSymlink Kind = 3
	KindBlock   Kind = 4
	KindChar    Kind = 5
	KindFIFO    Kind = 6
)

// Flags say how an entry came about.
type Flags uint8

// The flags of an entry.
const (
	// FlagStale marks an entry kept from the base point because it could not
	// be read this time.
	FlagStale Flags = 1 << 0
	// FlagUnstable marks a file that changed each time while it was read.
	FlagUnstable Flags = 1 << 1
)

// Time is a point in time as file systems keep it: any int64 of seconds since
// 1970 and nanoseconds below 1e9. The zero value is 1970.
type Time struct {
	Sec  int64
	Nsec uint32
}

// Compare orders times: -1, 0 or +1.
func (t Time) Compare(u Time) int {
	switch {
	case t.Sec < u.Sec || t.Sec == u.Sec && t.Nsec < u.Nsec:
		return -1
	case t == u:
		return 0
	}
	return 1
}

// Extent is a run of a file's bytes: a chunk, or a hole (zero ID).
type Extent struct {
	Length uint64 // bytes, at least 1
	ID     chunk.ID
}

// Hole tells whether the extent is a hole, which is stored as nothing.
func (e Extent) Hole() bool { return e.ID.IsZero() }

// Xattr is one extended attribute; POSIX ACLs are the attributes
// system.posix_acl_access and system.posix_acl_default.
type Xattr struct {
	Name  string
	Value []byte
}

// Entry is one file, folder, link or device of a point, without its name,
// which is its key (see [AppendChild]). Times are exact, owners are by number and,
// where the machine knew it, by name.
type Entry struct {
	Kind  Kind
	Flags Flags
	Mode  uint32 // permission bits with setuid, setgid and sticky: 0 to 07777
	UID   uint32
	GID   uint32
	User  string // "" where the machine knew no name
	Group string
	MTime Time
	CTime Time
	Inode uint64 // 0 where the file system's numbers cannot be relied on
	// LinkKey is the same for all names of one file or symlink with several
	// names within a source, and 0 for one with a single name.
	LinkKey uint64
	// FSID names the file system, on a folder that is the root of one (the
	// source's root, a mount point); "" elsewhere.
	FSID string

	Size   uint64 // bytes, of a file; 0 for others
	Target string // of a symlink, raw bytes
	Major  uint32 // of a device
	Minor  uint32

	// Content of a file: Extents in order, their lengths adding up to Size; or,
	// where there are more than MaxInlineExtents, Table, the root page of a
	// block table, and Extents is empty.
	Extents []Extent
	Table   chunk.ID

	// Xattrs are the extended attributes by name: their encoded set (see
	// AppendXattrs) where it is at most MaxInlineXattrs bytes, else XattrRef,
	// the chunk that holds the encoded set.
	Xattrs   []byte
	XattrRef Extent
}

// Clone is a copy of e that shares nothing that decoding another entry into e
// would change.
func (e *Entry) Clone() *Entry {
	c := *e
	c.Extents = slices.Clone(e.Extents)
	c.Xattrs = slices.Clone(e.Xattrs)
	return &c
}
