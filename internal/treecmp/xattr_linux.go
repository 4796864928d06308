package treecmp

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// xattrMax is the kernel's limit (XATTR_SIZE_MAX, XATTR_LIST_MAX) for one
// value and for the list of names.
const xattrMax = 64 << 10

// xattrReader holds the buffers for the attributes of two entries.
type xattrReader struct {
	list           []byte
	valueA, valueB []byte
}

func newXattrReader() xattrReader {
	return xattrReader{
		list:   make([]byte, xattrMax),
		valueA: make([]byte, xattrMax),
		valueB: make([]byte, xattrMax),
	}
}

// attrPath is a path that leads to p itself however deep p lies and whatever
// it is: the calls for attributes take no folder descriptor.
func (p place) attrPath() string {
	if p.dir == unix.AT_FDCWD {
		return p.name
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", p.dir, p.name)
}

// compareXattrs compares all attributes of two entries, ACLs included: those
// the kernel lists as system.posix_acl_access and system.posix_acl_default.
func (c *comparer) compareXattrs(a, b place, path string) {
	pa, pb := a.attrPath(), b.attrPath()
	namesA, errA := c.xattrs.names(pa)
	namesB, errB := c.xattrs.names(pb)
	if err := errors.Join(errA, errB); err != nil {
		c.report(path, Unreadable, err.Error(), "")
		return
	}
	for len(namesA) > 0 || len(namesB) > 0 {
		switch order := headOrder(namesA, namesB); {
		case order < 0:
			c.report(path, Xattrs, namesA[0], "absent")
			namesA = namesA[1:]
		case order > 0:
			c.report(path, Xattrs, "absent", namesB[0])
			namesB = namesB[1:]
		default:
			c.xattrValue(pa, pb, path, namesA[0])
			namesA, namesB = namesA[1:], namesB[1:]
		}
	}
}

// xattrValue compares one attribute that both entries have.
func (c *comparer) xattrValue(pa, pb, path, name string) {
	na, errA := unix.Lgetxattr(pa, name, c.xattrs.valueA)
	nb, errB := unix.Lgetxattr(pb, name, c.xattrs.valueB)
	if err := errors.Join(errA, errB); err != nil {
		c.report(path, Unreadable, fmt.Sprintf("attribute %s: %v", name, err), "")
		return
	}
	if va, vb := c.xattrs.valueA[:na], c.xattrs.valueB[:nb]; !bytes.Equal(va, vb) {
		c.report(path, Xattrs, fmt.Sprintf("%s=%.64x", name, va), fmt.Sprintf("%s=%.64x", name, vb))
	}
}

// names lists the attributes of an entry, sorted; none where the file system
// knows no attributes.
func (x *xattrReader) names(path string) ([]string, error) {
	n, err := unix.Llistxattr(path, x.list)
	if errors.Is(err, unix.EOPNOTSUPP) || (err == nil && n == 0) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list attributes: %w", err)
	}
	names := strings.Split(strings.TrimSuffix(string(x.list[:n]), "\x00"), "\x00")
	slices.Sort(names)
	return names, nil
}
