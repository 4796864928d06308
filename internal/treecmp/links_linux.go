package treecmp

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// inode identifies a file of one tree.
type inode struct{ dev, ino uint64 }

// link is what is known of a file of one tree: its partner in the other tree
// and how many of its names were not met yet.
type link struct {
	partner inode
	path    string // where the pair was met first
	left    uint64
}

// linkTable remembers which file of a is which file of b. The names of both
// trees are grouped alike exactly where that relation is one to one. A file
// is forgotten once all its links were met.
type linkTable struct{ a, b map[inode]*link }

func newLinkTable() linkTable {
	return linkTable{a: map[inode]*link{}, b: map[inode]*link{}}
}

// sameLinks reports where a name belongs to different groups in the two
// trees. It tells whether this very pair of files was met before.
func (c *comparer) sameLinks(path string, sa, sb *unix.Stat_t) bool {
	if sa.Nlink <= 1 && sb.Nlink <= 1 {
		return false
	}
	ia := inode{uint64(sa.Dev), sa.Ino}
	ib := inode{uint64(sb.Dev), sb.Ino}
	la, lb := c.links.a[ia], c.links.b[ib]
	known := la != nil && lb != nil && la.partner == ib && lb.partner == ia
	if !known && (la != nil || lb != nil) {
		c.report(path, Links, la.text(), lb.text())
	}
	meet(c.links.a, ia, la, ib, path, uint64(sa.Nlink))
	meet(c.links.b, ib, lb, ia, path, uint64(sb.Nlink))
	return known
}

// meet counts one more name of a file, and forgets the file after the last.
func meet(table map[inode]*link, id inode, l *link, partner inode, path string, names uint64) {
	if l == nil {
		l = &link{partner: partner, path: path, left: names}
		table[id] = l
	}
	l.left--
	if l.left == 0 {
		delete(table, id)
	}
}

func (l *link) text() string {
	if l == nil {
		return "a file not met before"
	}
	return fmt.Sprintf("link of %q", l.path)
}
