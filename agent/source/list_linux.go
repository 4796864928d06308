package source

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"

	"golang.org/x/sys/unix"
)

const (
	// dentsSize is the buffer of one getdents: some 2000 names.
	dentsSize = 64 << 10
	// keepScratch is how much of a buffer that one big folder made grow is kept
	// for the next.
	keepScratch = 1 << 20
)

// ref is a name as listed. Its bytes are in an arena.
type ref struct {
	ino uint64
	off uint32
	n   uint16
	typ uint8
}

// listing is one pass over a folder's names: in order, each once, and all of
// them up to the last one.
type listing struct {
	arena []byte
	refs  []ref
	more  bool // there are names above the last one
	// What the folder holds at any place of the order.
	tag    bool // CACHEDIR.TAG
	ignore bool // an ignore file
}

var errSlash = errors.New("the file system lists a name that is empty or has a slash in it")

// lister lists folders one after the other. Its result is valid until the next.
//
// A folder may have more names than may be held. Each pass keeps the lowest
// ones above where the last pass ended: whenever too many are held, they are
// sorted and the upper half is forgotten. It takes no temporary file, and what
// changes between passes does no harm.
type lister struct {
	limit  limits
	dents  [dentsSize]byte
	out    listing
	spare  []byte
	ignore string
}

func (l *lister) name(r ref) []byte { return l.out.arena[r.off:][:r.n] }

// list reads the names above after of the folder open as fd.
func (l *lister) list(fd int, after string) (*listing, error) {
	if cap(l.out.arena) > keepScratch {
		l.out.arena, l.out.refs, l.spare = nil, nil, nil
	}
	l.out = listing{arena: l.out.arena[:0], refs: l.out.refs[:0]}
	if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil {
		return nil, err
	}
	var bound []byte // names from here on are left to the next pass
	for {
		n, err := unix.Getdents(fd, l.dents[:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n == 0 {
			l.sort()
			return &l.out, nil
		}
		if bound, err = l.take(l.dents[:n], after, bound); err != nil {
			return nil, err
		}
	}
}

// take adds the names of one getdents.
func (l *lister) take(dents []byte, after string, bound []byte) ([]byte, error) {
	const head = 19 // ino 8, offset 8, record length 2, type 1; then the name
	out := &l.out
	for len(dents) >= head {
		size := int(binary.NativeEndian.Uint16(dents[16:]))
		if size < head || size > len(dents) {
			return nil, unix.EIO
		}
		name, _, _ := bytes.Cut(dents[head:size], []byte{0})
		r := ref{ino: binary.NativeEndian.Uint64(dents), typ: dents[18]}
		dents = dents[size:]
		switch string(name) {
		case ".", "..":
			continue
		case cacheTag:
			out.tag = true
		case l.ignore:
			out.ignore = true
		}
		if len(name) == 0 || bytes.IndexByte(name, '/') >= 0 {
			return nil, errSlash
		}
		if string(name) <= after && after != "" {
			continue
		}
		if bound != nil && bytes.Compare(name, bound) >= 0 {
			out.more = true
			continue
		}
		r.off, r.n = uint32(len(out.arena)), uint16(len(name))
		out.arena = append(out.arena, name...)
		out.refs = append(out.refs, r)
		if len(out.refs) > l.limit.names || len(out.arena) > l.limit.nameBytes {
			bound = l.halve(bound)
		}
	}
	return bound, nil
}

// halve forgets the upper half of the names and returns the lowest that was
// forgotten, at which later names are to be left out.
func (l *lister) halve(bound []byte) []byte {
	out := &l.out
	l.sort()
	keep := (len(out.refs) + 1) / 2
	if keep == len(out.refs) { // a single name, listed twice
		return bound
	}
	bound = bytes.Clone(l.name(out.refs[keep]))
	out.refs, out.more = out.refs[:keep], true
	l.spare = l.spare[:0]
	for i, r := range out.refs {
		name := l.name(r)
		out.refs[i].off = uint32(len(l.spare))
		l.spare = append(l.spare, name...)
	}
	out.arena, l.spare = l.spare, out.arena
	return bound
}

// sort puts the names into order and drops repeats, which a folder that is
// changing may give.
func (l *lister) sort() {
	cmp := func(a, b ref) int { return bytes.Compare(l.name(a), l.name(b)) }
	slices.SortFunc(l.out.refs, cmp)
	l.out.refs = slices.CompactFunc(l.out.refs, func(a, b ref) bool { return cmp(a, b) == 0 })
}
