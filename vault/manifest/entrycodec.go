package manifest

import (
	"errors"
	"fmt"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/wire"
)

// The flags of an encoded entry (docs/FORMAT.md §8.4). The first two are
// [Flags], the others tell which fields follow.
const (
	bitLinkKey    = 1 << 2
	bitFSID       = 1 << 3
	bitXattrs     = 1 << 4
	bitXattrChunk = 1 << 5
	bitTable      = 1 << 6
	maxFlags      = 1<<7 - 1
	ownFlags      = FlagStale | FlagUnstable
)

const (
	maxMode   = 0o7777
	maxOwner  = 256 // bytes of a user's or a group's name, or of a file system's ID
	maxTarget = 65535
	maxNsec   = 1e9 - 1
	maxU32    = 1<<32 - 1
)

var errEntry = errors.New("bad entry")

// AppendEntry appends the encoding of an entry that [Entry.Check] accepts.
func AppendEntry(b []byte, e *Entry) []byte {
	flags := e.wireFlags()
	b = append(b, byte(e.Kind))
	b = wire.AppendUvarint(b, flags)
	b = wire.AppendUvarint(b, uint64(e.Mode))
	b = wire.AppendUvarint(b, uint64(e.UID))
	b = wire.AppendUvarint(b, uint64(e.GID))
	b = wire.AppendBlob(b, e.User)
	b = wire.AppendBlob(b, e.Group)
	b = appendTime(b, e.MTime)
	b = appendTime(b, e.CTime)
	b = wire.AppendUvarint(b, e.Inode)
	if flags&bitLinkKey != 0 {
		b = wire.AppendU64(b, e.LinkKey)
	}
	if flags&bitFSID != 0 {
		b = wire.AppendBlob(b, e.FSID)
	}
	if flags&bitXattrs != 0 {
		b = wire.AppendBlob(b, e.Xattrs)
	}
	if flags&bitXattrChunk != 0 {
		b = wire.AppendUvarint(b, e.XattrRef.Length)
		b = append(b, e.XattrRef.ID[:]...)
	}
	return appendKind(b, e)
}

func appendKind(b []byte, e *Entry) []byte {
	switch e.Kind {
	case KindFile:
		b = wire.AppendUvarint(b, e.Size)
		if !e.Table.IsZero() {
			return append(b, e.Table[:]...)
		}
		b = wire.AppendUvarint(b, uint64(len(e.Extents)))
		for i := range e.Extents {
			b = appendExtent(b, e.Extents[i])
		}
	case KindSymlink:
		b = wire.AppendBlob(b, e.Target)
	case KindBlock, KindChar:
		b = wire.AppendUvarint(b, uint64(e.Major))
		b = wire.AppendUvarint(b, uint64(e.Minor))
	}
	return b
}

func (e *Entry) wireFlags() uint64 {
	flags := uint64(e.Flags)
	if e.LinkKey != 0 {
		flags |= bitLinkKey
	}
	if e.FSID != "" {
		flags |= bitFSID
	}
	if len(e.Xattrs) > 0 {
		flags |= bitXattrs
	}
	if e.XattrRef.Length > 0 {
		flags |= bitXattrChunk
	}
	if !e.Table.IsZero() {
		flags |= bitTable
	}
	return flags
}

func appendTime(b []byte, t Time) []byte {
	return wire.AppendUvarint(wire.AppendVarint(b, t.Sec), uint64(t.Nsec))
}

func appendExtent(b []byte, x Extent) []byte {
	if x.Hole() {
		return wire.AppendUvarint(b, x.Length<<1|1)
	}
	return append(wire.AppendUvarint(b, x.Length<<1), x.ID[:]...)
}

// DecodeEntry reads an entry into e, all of it overwritten. To decode without
// allocating, use one Entry for many: its strings are kept where the next entry
// has the same, and Extents is reused, so it is valid until the next call (see
// [Entry.Clone]). Xattrs aliases the input. After an error e is undefined.
func DecodeEntry(d *wire.Decoder, e *Entry) error {
	e.Kind = Kind(d.U8())
	if e.Kind < KindDir || e.Kind > KindFIFO {
		d.Fail("unknown kind %d", e.Kind)
	}
	flags := d.Uvarint(maxFlags)
	e.Flags = Flags(flags) & ownFlags
	e.Mode = uint32(d.Uvarint(maxMode))
	e.UID = uint32(d.Uvarint(maxU32))
	e.GID = uint32(d.Uvarint(maxU32))
	decodeString(d, &e.User, maxOwner)
	decodeString(d, &e.Group, maxOwner)
	e.MTime = decodeTime(d)
	e.CTime = decodeTime(d)
	e.Inode = d.Uvarint(1<<64 - 1)
	decodeOptional(d, e, flags)
	decodeKind(d, e, flags)
	return d.Err()
}

func decodeOptional(d *wire.Decoder, e *Entry, flags uint64) {
	e.LinkKey, e.FSID, e.Xattrs, e.XattrRef = 0, "", nil, Extent{}
	if flags&bitLinkKey != 0 {
		if e.LinkKey = d.U64(); e.LinkKey == 0 {
			d.Fail("link key is 0")
		}
	}
	if flags&bitFSID != 0 {
		if decodeString(d, &e.FSID, maxOwner); e.FSID == "" || e.Kind != KindDir {
			d.Fail("file system ID is empty or not of a folder")
		}
	}
	switch flags & (bitXattrs | bitXattrChunk) {
	case bitXattrs:
		e.Xattrs = d.Blob(MaxInlineXattrs)
		if len(e.Xattrs) == 0 {
			d.Fail("no attributes")
		} else if err := eachXattr(e.Xattrs, func(_, _ []byte) {}); err != nil {
			d.Fail("attributes: %v", err)
		}
	case bitXattrChunk:
		e.XattrRef.Length = d.Uvarint(maxXattrsSetBytes)
		if e.XattrRef.Length <= MaxInlineXattrs {
			d.Fail("chunk for %d bytes of attributes", e.XattrRef.Length)
		}
		e.XattrRef.ID = decodeID(d)
	case bitXattrs | bitXattrChunk:
		d.Fail("attributes twice")
	}
}

func decodeKind(d *wire.Decoder, e *Entry, flags uint64) {
	e.Size, e.Major, e.Minor = 0, 0, 0
	e.Extents, e.Table = e.Extents[:0], chunk.ID{}
	if e.Kind != KindFile && flags&bitTable != 0 {
		d.Fail("block table without a file")
	}
	switch e.Kind {
	case KindFile:
		e.Size = d.Uvarint(MaxFileBytes)
		if flags&bitTable != 0 {
			e.Table = decodeID(d)
		} else {
			decodeExtents(d, e)
		}
	case KindBlock, KindChar:
		e.Major = uint32(d.Uvarint(maxU32))
		e.Minor = uint32(d.Uvarint(maxU32))
	case KindSymlink:
		if decodeString(d, &e.Target, maxTarget); e.Target == "" {
			d.Fail("symlink without a target")
		}
		return
	}
	e.Target = ""
}

func decodeExtents(d *wire.Decoder, e *Entry) {
	var sum extentSum
	for range d.Count(MaxInlineExtents, 1) {
		x := decodeExtent(d)
		if err := sum.add(x); err != nil {
			d.Fail("%v", err)
		}
		if d.Err() != nil {
			return
		}
		e.Extents = append(e.Extents, x)
	}
	if sum.bytes != e.Size {
		d.Fail("extents of %d bytes in a file of %d", sum.bytes, e.Size)
	}
}

// decodeString keeps *s where the input has the same, which saves the copy:
// neighbours mostly have one owner.
func decodeString(d *wire.Decoder, s *string, limit int) {
	if b := d.Blob(limit); string(b) != *s {
		*s = string(b)
	}
}

func decodeTime(d *wire.Decoder) Time {
	sec := d.Varint()
	return Time{Sec: sec, Nsec: uint32(d.Uvarint(maxNsec))}
}

// decodeID reads an ID. No page and no chunk has the zero one.
func decodeID(d *wire.Decoder) (id chunk.ID) {
	d.Fixed(id[:])
	if id.IsZero() {
		d.Fail("ID is zero")
	}
	return id
}

func decodeExtent(d *wire.Decoder) (x Extent) {
	v := d.Uvarint(1<<64 - 1)
	x.Length = v >> 1
	if v&1 == 0 {
		x.ID = decodeID(d)
	}
	return x
}

// Check tells why an entry cannot be stored: a value out of the format's limits,
// or extents that don't add up.
func (e *Entry) Check() error {
	switch {
	case e.Kind < KindDir || e.Kind > KindFIFO:
		return fmt.Errorf("%w: kind %d", errEntry, e.Kind)
	case e.Flags&^ownFlags != 0:
		return fmt.Errorf("%w: flags %#x", errEntry, e.Flags)
	case e.Mode > maxMode:
		return fmt.Errorf("%w: mode %#o", errEntry, e.Mode)
	case len(e.User) > maxOwner || len(e.Group) > maxOwner:
		return fmt.Errorf("%w: owner's name of more than %d bytes", errEntry, maxOwner)
	case e.MTime.Nsec > maxNsec || e.CTime.Nsec > maxNsec:
		return fmt.Errorf("%w: nanoseconds above a second", errEntry)
	case len(e.FSID) > maxOwner || e.FSID != "" && e.Kind != KindDir:
		return fmt.Errorf("%w: file system ID", errEntry)
	case (e.Target != "") != (e.Kind == KindSymlink) || len(e.Target) > maxTarget:
		return fmt.Errorf("%w: target of %d bytes", errEntry, len(e.Target))
	case e.Kind != KindBlock && e.Kind != KindChar && (e.Major != 0 || e.Minor != 0):
		return fmt.Errorf("%w: device number", errEntry)
	}
	if err := e.checkXattrs(); err != nil {
		return err
	}
	return e.checkContent()
}

func (e *Entry) checkXattrs() error {
	if len(e.Xattrs) == 0 && e.XattrRef == (Extent{}) {
		return nil
	}
	if len(e.Xattrs) > 0 && e.XattrRef == (Extent{}) && len(e.Xattrs) <= MaxInlineXattrs {
		if err := eachXattr(e.Xattrs, func(_, _ []byte) {}); err != nil {
			return fmt.Errorf("%w: attributes: %w", errEntry, err)
		}
		return nil
	}
	n := e.XattrRef.Length
	if len(e.Xattrs) > 0 || n <= MaxInlineXattrs || n > maxXattrsSetBytes || e.XattrRef.Hole() {
		return fmt.Errorf("%w: attributes of %d bytes, %d in a chunk", errEntry, len(e.Xattrs), n)
	}
	return nil
}

func (e *Entry) checkContent() error {
	switch {
	case e.Kind != KindFile && (e.Size != 0 || len(e.Extents) > 0 || !e.Table.IsZero()):
		return fmt.Errorf("%w: content without a file", errEntry)
	case len(e.Extents) > MaxInlineExtents || len(e.Extents) > 0 && !e.Table.IsZero():
		return fmt.Errorf("%w: %d extents inline", errEntry, len(e.Extents))
	case e.Size > MaxFileBytes:
		return fmt.Errorf("%w: size %d", errEntry, e.Size)
	case !e.Table.IsZero():
		return nil
	}
	var sum extentSum
	for _, x := range e.Extents {
		if err := sum.add(x); err != nil {
			return fmt.Errorf("%w: %w", errEntry, err)
		}
	}
	if sum.bytes != e.Size {
		return fmt.Errorf("%w: extents of %d bytes in a file of %d", errEntry, sum.bytes, e.Size)
	}
	return nil
}
