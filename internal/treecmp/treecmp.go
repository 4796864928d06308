// Package treecmp compares two directory trees, entry by entry, in everything
// that a restore has to bring back: names as raw bytes, types, content, sizes,
// modes, owners, modification times in nanoseconds, symlink targets, device
// numbers, which names are links of one file, extended attributes (and with
// them ACLs and capabilities), holes, and the times of folders.
//
// It is the judge of tests and benchmarks, so it shares no code with what it
// judges: it has its own walk, its own reading of metadata, and depends on
// nothing but the kernel's calls.
//
// Entries are reached from folder descriptors, never by full path, so that
// paths beyond PATH_MAX and any depth work, and no symlink is followed. Holes
// are skipped where both files have one: a sparse file of 1 TiB costs nothing.
//
// What it can't compare is a difference too ([Unreadable]): a nil result means
// that everything was looked at. An error is returned only where the
// comparison as a whole could not go on.
//
// Memory: the names of one folder of each tree at a time, the subfolders' names
// of its ancestors, fixed buffers, and some 200 bytes for each hard-linked file
// of which not all links were met yet.
//
// The trees must not change meanwhile. It doesn't compare access, change and
// birth times, inode numbers or inode flags, and it works on Linux only.
package treecmp

import (
	"fmt"
	"strings"
)

// Aspect is one thing in which two entries may differ, or a set of them.
type Aspect uint32

// The aspects, in the order in which they are looked at.
const (
	Unreadable Aspect = 1 << iota // the entry, or something of it, could not be read
	Missing                       // in a only; what is below it isn't listed
	Extra                         // in b only; what is below it isn't listed
	Sockets                       // a socket that is missing in b, reported in place of Missing
	Type                          // the file type; nothing else of the entry is compared
	Modes                         // permission bits, setuid, setgid and sticky
	Owners                        // numeric user and group
	Times                         // modification time of anything but a folder
	DirTimes                      // modification time of a folder
	Sizes                         // length of a file
	Content                       // bytes of a file
	Sparse                        // a has holes and b takes far more room
	Targets                       // what a symlink says
	Devices                       // major and minor number
	Links                         // which names are links of one file
	Xattrs                        // extended attributes, ACLs and capabilities included
)

var aspectNames = [...]string{
	"unreadable", "missing", "extra", "sockets", "type", "modes", "owners", "times",
	"dirtimes", "sizes", "content", "sparse", "targets", "devices", "links", "xattrs",
}

// String gives the names of the aspects in the set, joined by commas.
func (a Aspect) String() string {
	var names []string
	for i, name := range aspectNames {
		if a&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ",")
}

// ParseAspects reads what [Aspect.String] writes.
func ParseAspects(s string) (Aspect, error) {
	var set Aspect
next:
	for word := range strings.SplitSeq(s, ",") {
		if word == "" {
			continue
		}
		for i, name := range aspectNames {
			if word == name {
				set |= 1 << i
				continue next
			}
		}
		return 0, fmt.Errorf("parse aspects: %q is none of %s", word, strings.Join(aspectNames[:], ", "))
	}
	return set, nil
}

// Options says what to compare; the zero value compares everything.
type Options struct {
	// Ignore is the set of aspects that are not compared. A socket of a that
	// is missing in b is ignored with Sockets, whatever else is.
	Ignore Aspect
	// Skip leaves an entry, and all below it, out of the comparison. The path
	// is relative to the roots, in raw bytes; the roots are never asked for.
	Skip func(path string) bool
	// Max is the number of differences after which the comparison ends;
	// 0 means 1000.
	Max int
	// Stats, where not nil, receives what was compared, so that a caller can
	// tell an equal result from an empty one.
	Stats *Stats
}

// defaultMax bounds the result where a caller has no wish: more differences
// than that are never read by a person.
const defaultMax = 1000

// Stats counts what was found in both trees and compared.
type Stats struct {
	Entries int64 // names, the roots included
	Files   int64 // regular files
	Bytes   int64 // sum of the regular files' sizes, in a
}

// Diff is one difference between two entries of the same path.
type Diff struct {
	Path   string // relative to the roots, raw bytes; "." is the roots themselves
	Aspect Aspect // one aspect
	A, B   string // what each tree has, for a person to read
}

// String is one line: the path quoted, the aspect and both sides.
func (d Diff) String() string {
	return fmt.Sprintf("%q: %v: %s | %s", d.Path, d.Aspect, d.A, d.B)
}

// Compare compares the trees at a and b and returns their differences: sorted
// by folder, a folder's own entries before those of its subfolders. Each root
// may also be a file, which then is compared alone. Concurrent calls are safe.
func Compare(a, b string, o Options) ([]Diff, error) {
	if o.Max <= 0 {
		o.Max = defaultMax
	}
	return compare(a, b, o)
}
