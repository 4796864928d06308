package target

import (
	"io"
	"io/fs"

	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// Existing is something in the target that was there before. It is looked at
// without following symlinks, and stays the same thing whatever happens to its
// name. It is valid until its folder is left, and not for use by several
// goroutines at once. Close it.
type Existing struct {
	// Kind is 0 for what a point never holds, such as a socket.
	Kind  manifest.Kind
	Size  int64
	MTime manifest.Time

	d    *Dir
	name string
	st   stat
	fd   int  // -1 while not open
	path bool // fd can't be read through
}

// Existing looks at what has the name; fs.ErrNotExist where nothing has. In a
// folder that the restore itself made that costs no system call.
func (d *Dir) Existing(name string) (*Existing, error) {
	const op = "look at"
	if err := checkName(name); err != nil {
		return nil, d.err(op, name, err)
	}
	if d.fresh {
		return nil, fs.ErrNotExist
	}
	fd, err := d.r.acquire(d)
	if err != nil {
		return nil, d.err(op, name, err)
	}
	defer d.r.release(d)
	st, err := statAt(fd, name)
	if err != nil {
		return nil, d.err(op, name, err)
	}
	return &Existing{Kind: st.kind, Size: st.size, MTime: st.mtime, d: d, name: name, st: st, fd: -1}, nil
}

// Like tells whether it is as the entry says in kind, size, mtime, target and
// device number; what is left to compare is a file's content. A file system that
// keeps coarser times than the entry's is allowed for.
func (x *Existing) Like(e *manifest.Entry) bool {
	if x.Kind != e.Kind || !sameTime(x.MTime, e.MTime) {
		return false
	}
	switch e.Kind {
	case manifest.KindFile:
		return uint64(x.Size) == e.Size
	case manifest.KindSymlink:
		to, err := x.target()
		return err == nil && to == e.Target
	case manifest.KindBlock, manifest.KindChar:
		return x.st.major == e.Major && x.st.minor == e.Minor
	}
	return e.Kind == manifest.KindFIFO
}

// sameTime tells whether have is want as some file system would keep it: cut to
// 100 ns, 1 us, 1 s.
func sameTime(have, want manifest.Time) bool {
	if have.Sec != want.Sec {
		return false
	}
	for _, unit := range []uint32{1, 100, 1000, 1e9} {
		if have.Nsec == want.Nsec-want.Nsec%unit {
			return true
		}
	}
	return false
}

func (x *Existing) target() (string, error) {
	fd, err := x.d.r.acquire(x.d)
	if err != nil {
		return "", err
	}
	defer x.d.r.release(x.d)
	return readlinkAt(fd, x.name)
}

// ReadAt reads a file's content, with io.EOF at its end.
func (x *Existing) ReadAt(p []byte, off int64) (int, error) {
	if err := x.openContent(); err != nil {
		return 0, x.d.err("read", x.name, err)
	}
	n, err := pread(x.fd, p, off)
	if err != nil {
		return n, x.d.err("read", x.name, err)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// NextData is where a file's next data begins, at off or behind it, or io.EOF
// where there is but a hole until its end.
func (x *Existing) NextData(off int64) (int64, error) {
	if err := x.openContent(); err != nil {
		return 0, x.d.err("read", x.name, err)
	}
	at, err := seekData(x.fd, off)
	if err != nil && err != io.EOF {
		err = x.d.err("seek data", x.name, err)
	}
	return at, err
}

func (x *Existing) openContent() error {
	if x.Kind != manifest.KindFile {
		return errKind
	}
	if x.path { // opened for metadata before
		x.Close()
		x.path = false
	}
	return x.open(openReadAt)
}

// SetMeta sets the metadata again, as for what is restored, and lets
// [Dir.Link] take it for the entry that it stands for. A file that has other
// names and another owner than the entry is left alone, and noted: one of these
// names may be anywhere, and the link a trap.
func (x *Existing) SetMeta(e *manifest.Entry, xattrs []manifest.Xattr) error {
	const op = "set metadata"
	if x.Kind != e.Kind || e.Kind == manifest.KindDir {
		return x.d.err(op, x.name, errKind)
	}
	path := x.fd < 0
	if err := x.open(openPathAt); err != nil {
		return x.d.err(op, x.name, err)
	}
	x.path = x.path || path
	st, err := statFd(x.fd)
	if err != nil {
		return x.d.err(op, x.name, err)
	}
	want := x.d.r.metaOf(e)
	if st.nlink > 1 && e.Kind != manifest.KindSymlink && (st.uid != want.uid || st.gid != want.gid) {
		x.d.r.note(noteForeign, x.d, x.name, errForeign)
		return nil
	}
	h := handle{fd: x.fd, path: x.path}
	j := job{r: x.d.r, d: x.d, name: x.name, h: h, have: st, want: want, xattrs: xattrs, exact: true}
	if err := j.apply(); err != nil {
		return x.d.err(op, x.name, err)
	}
	if e.LinkKey != 0 {
		x.d.r.links.add(e, x.d, x.name, x.fd)
	}
	return nil
}

// open opens it by its name, unless it is open, and checks that it is the one.
func (x *Existing) open(how func(int, string) (int, error)) error {
	if x.fd >= 0 {
		return nil
	}
	dir, err := x.d.r.acquire(x.d)
	if err != nil {
		return err
	}
	defer x.d.r.release(x.d)
	fd, err := how(dir, x.name)
	if err != nil {
		return err
	}
	st, err := statFd(fd)
	if err == nil && (st.dev != x.st.dev || st.ino != x.st.ino || st.kind != x.st.kind || st.mtime != x.st.mtime) {
		err = errReplaced
	}
	if err != nil {
		closeFd(fd)
		return err
	}
	x.fd = fd
	return nil
}

// Close releases it.
func (x *Existing) Close() {
	if x.fd >= 0 {
		closeFd(x.fd)
		x.fd = -1
	}
}
