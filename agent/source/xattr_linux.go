package source

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// maxXattr is what the kernel allows for the list of names and for each value.
const maxXattr = 64 << 10

var xattrBuffers = sync.Pool{New: func() any { return new([maxXattr]byte) }}

// xattrReader reads the attributes of one file.
type xattrReader interface {
	list(buf []byte) (int, error)
	get(name string, buf []byte) (int, error)
}

type fdXattrs int

func (fd fdXattrs) list(buf []byte) (int, error) { return unix.Flistxattr(int(fd), buf) }
func (fd fdXattrs) get(name string, buf []byte) (int, error) {
	return unix.Fgetxattr(int(fd), name, buf)
}

type pathXattrs string

func (p pathXattrs) list(buf []byte) (int, error) { return unix.Llistxattr(string(p), buf) }
func (p pathXattrs) get(name string, buf []byte) (int, error) {
	return unix.Lgetxattr(string(p), name, buf)
}

// Xattrs returns the extended attributes of an entry of the folder by name,
// those of a symlink and not of its target. kind is what it was listed as.
// Where some can't be read, it returns the others with an error that names the
// first. A file system without attributes has none.
func (d *Dir) Xattrs(name string, kind manifest.Kind) ([]manifest.Xattr, error) {
	dirfd, err := d.use()
	if err != nil {
		return nil, fmt.Errorf("open folder: %w", err)
	}
	defer d.done()
	d.step(OpAttrs, name)
	// There is no llistxattrat before Linux 6.13; /proc does the same, and
	// opens nothing, so that devices and files without read permission work.
	path := "/proc/self/fd/" + strconv.Itoa(dirfd) + "/" + name
	xs, err := readXattrs(pathXattrs(path))
	if err == nil || !noProc() {
		return xs, err
	}
	if kind != manifest.KindFile && kind != manifest.KindDir {
		return nil, fmt.Errorf("list attributes without /proc: %w", unix.ENOTSUP)
	}
	fd, err := openNoAtime(dirfd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("list attributes: %w", err)
	}
	defer unix.Close(fd)
	return readXattrs(fdXattrs(fd))
}

func noProc() bool {
	return unix.Access("/proc/self/fd", unix.F_OK) != nil
}

// readXattrs reads all attributes, sorted by name.
func readXattrs[R xattrReader](r R) ([]manifest.Xattr, error) {
	buf := xattrBuffers.Get().(*[maxXattr]byte)
	defer xattrBuffers.Put(buf)
	n, err := r.list(buf[:])
	if n == 0 && err == nil || err == unix.EOPNOTSUPP || err == unix.ENOSYS {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list attributes: %w", err)
	}
	names := string(buf[:n])
	var xs []manifest.Xattr
	var first error
	for name := range strings.SplitSeq(strings.TrimSuffix(names, "\x00"), "\x00") {
		n, err := r.get(name, buf[:])
		switch {
		case err == unix.ENODATA: // removed since
		case err != nil && first == nil:
			first = fmt.Errorf("read attribute %q: %w", name, err)
		case err == nil:
			xs = append(xs, manifest.Xattr{Name: name, Value: bytes.Clone(buf[:n])})
		}
	}
	slices.SortFunc(xs, func(a, b manifest.Xattr) int { return cmp.Compare(a.Name, b.Name) })
	return xs, first
}
