package target

import (
	"errors"
	"io/fs"
	"strings"
	"sync/atomic"

	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// fillMode is a folder's mode while it is filled: its entry may forbid writing.
const fillMode = 0o700

// maxTries bounds the attempts against somebody who changes a name under us.
const maxTries = 32

// maxCopies bounds the names that are tried for a copy.
const maxCopies = 1000

// Dir is a folder under the target. It is valid until it is left.
type Dir struct {
	r        *Root
	parent   *Dir // nil for the top
	name     string
	dev, ino uint64
	fresh    bool // made by us: nothing was in it
	clean    bool // fresh, ours, and without a default ACL
	habit    atomic.Uint32

	// Guarded by r.cache.mu.
	fd    int // -1 while not open
	pins  int // operations that use fd
	used  uint64
	refs  int  // the walk, files and folders in it that aren't done
	dirty bool // metadata is to be set when refs is 0
	have  stat // as it is
	back  uint32

	want      meta // of the entry, if described
	xattrs    []manifest.Xattr
	described bool
	existing  bool // attributes that the entry lacks may be there
}

// What a folder does to new files in it; learnt from the first.
const (
	habitUnknown = iota
	habitPlain   // owner and mode are what we ask for
	habitOdd     // setgid, default ACL, squashed owner: to be looked at each time
	habitACL     // odd, and new files get an ACL
)

// Enter opens the folder name in d, and makes it where it is missing; e and
// xattrs are what its metadata will be, whether or not it was there. Without e
// the folder is only on the way: one that was there stays as it is, a new one is
// as the umask says. What else has its name is a conflict: a copy is another
// folder, Overwrite removes what is there, and where the outcome is Kept there is
// no Dir and the folder's whole content is to be left out.
//
// e is not used after Enter returns; xattrs are, until the folder is done. Leave
// must be called on the Dir.
func (d *Dir) Enter(name string, e *manifest.Entry, xattrs []manifest.Xattr) (*Dir, Outcome, error) {
	const op = "restore folder"
	if err := checkName(name); err != nil {
		return nil, 0, d.err(op, name, err)
	}
	if e != nil && e.Kind != manifest.KindDir {
		return nil, 0, d.err(op, name, errKind)
	}
	fd, err := d.r.acquire(d)
	if err != nil {
		return nil, 0, d.err(op, name, err)
	}
	c, out, err := d.enter(fd, name, e)
	d.r.release(d)
	if err != nil {
		return nil, 0, d.err(op, name, err)
	}
	if c == nil {
		return nil, out, nil
	}
	if e != nil {
		c.Describe(e, xattrs)
	}
	return c, out, nil
}

// Describe sets what d's metadata will be once it is done. Enter does it; it is
// for the top, where the target stands for a folder of the point. xattrs are
// used until then.
func (d *Dir) Describe(e *manifest.Entry, xattrs []manifest.Xattr) {
	d.r.cache.mu.Lock()
	defer d.r.cache.mu.Unlock()
	d.want, d.xattrs = d.r.metaOf(e), xattrs
	d.described, d.dirty = true, true
}

// Leave says that the walk is done with d. Its metadata is set when all its
// files and folders are done.
func (d *Dir) Leave() {
	if d.parent != nil {
		d.r.settle(d)
	}
}

// enter makes or opens a folder by the rules for conflicts. fd is d's.
func (d *Dir) enter(fd int, name string, e *manifest.Entry) (*Dir, Outcome, error) {
	to, out, copies := name, Restored, 0
	for range maxTries + maxCopies {
		c, err := d.enterAt(fd, to, e)
		if err == nil {
			return c, out, nil
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue // gone between two calls
		}
		if !errors.Is(err, errNotDir) {
			return nil, 0, err
		}
		var mtime manifest.Time
		if e != nil {
			mtime = e.MTime
		}
		switch d.r.decide(fd, to, mtime) {
		case Skip:
			return nil, Kept, nil
		case Overwrite:
			if err := unlinkAt(fd, to); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, 0, err
			}
			out = Replaced
		default:
			if copies++; copies > maxCopies {
				return nil, 0, fs.ErrExist
			}
			to, out = copyName(name, d.r.o.Suffix, copies, true), Copied
		}
	}
	return nil, 0, errRaced
}

// enterAt makes or opens one folder; errNotDir where something else is there.
func (d *Dir) enterAt(fd int, name string, e *manifest.Entry) (*Dir, error) {
	mode := uint32(0o777)
	if e != nil {
		mode = fillMode
	}
	err := mkdirAt(fd, name, mode)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		// A read-only file system says so before it says that it is there.
		if _, serr := statAt(fd, name); serr != nil {
			return nil, err
		}
	}
	c := &Dir{r: d.r, parent: d, name: strings.Clone(name), fresh: err == nil, refs: 1}
	cfd, st, loosened, err := d.r.openDir(fd, name)
	if err != nil {
		return nil, err
	}
	c.dev, c.ino, c.have, c.back, c.dirty = st.dev, st.ino, st, st.mode, loosened
	c.existing = !c.fresh
	if loosened {
		c.have.mode |= fillMode
	}
	if c.fresh && e != nil {
		c.tidy(cfd)
	}
	d.r.cache.mu.Lock()
	defer d.r.cache.mu.Unlock()
	d.holdLocked()
	d.r.cache.insert(c, cfd)
	return c, nil
}

// tidy takes from a new folder what it inherited, so that its files don't
// inherit it in turn.
func (d *Dir) tidy(fd int) {
	h := handle{fd: fd}
	acl := false
	if !d.parent.clean {
		for _, name := range []string{aclDefault, aclAccess} {
			if hasXattr(h, name) && removeXattr(h, name) == nil {
				acl = true
			}
		}
	}
	if acl || d.have.mode != fillMode {
		if chmodFd(h, fillMode) != nil {
			return
		}
		d.have.mode = fillMode
	}
	d.clean = d.have.uid == d.r.me.uid && d.have.gid == d.r.me.gid
	if d.clean && d.r.plain.Load() == d.dev+1 {
		d.habit.Store(habitPlain)
	}
}

// learn notes what the first new file in d was like: whether an ACL was on it,
// and whether owner or mode were not as asked for. What holds for one clean
// folder holds for all on its file system.
func (d *Dir) learn(acl, odd bool) {
	switch {
	case acl:
		d.habit.Store(habitACL)
	case odd:
		d.habit.Store(habitOdd)
	default:
		d.habit.Store(habitPlain)
		if d.clean {
			d.r.plain.Store(d.dev + 1)
		}
	}
}

// hold keeps d from being done. A folder that was done is so again after the
// next settle, and so are those above it.
func (d *Dir) hold() {
	d.r.cache.mu.Lock()
	defer d.r.cache.mu.Unlock()
	d.holdLocked()
}

func (d *Dir) holdLocked() {
	for ; d != nil; d = d.parent {
		if d.refs++; d.refs > 1 {
			return
		}
	}
}

// settle gives up one reference to d, and sets its metadata where it was the
// last; then the same for the folder above.
func (r *Root) settle(d *Dir) {
	for ; d != nil; d = d.parent {
		r.cache.mu.Lock()
		d.refs--
		last, dirty := d.refs == 0, d.dirty
		if last && !dirty && d.parent != nil && d.fd >= 0 && d.pins == 0 {
			r.cache.drop(d)
		}
		r.cache.mu.Unlock()
		if !last {
			return
		}
		if dirty {
			if err := d.complete(); err != nil {
				r.fail(d.err("set metadata of folder", "", err))
			}
		}
	}
}

// complete sets d's metadata.
func (d *Dir) complete() error {
	r := d.r
	fd, err := r.acquire(d)
	if err != nil {
		return err
	}
	defer r.release(d)
	r.climb(d, fd)
	r.cache.mu.Lock()
	have, want, xattrs, existing := d.have, d.want, d.xattrs, d.existing
	d.dirty, d.xattrs, d.existing = false, nil, false
	r.cache.mu.Unlock()
	h := handle{fd: fd, path: !r.me.root && isPath(fd)}
	if !d.described {
		return chmodFd(h, d.back)
	}
	j := job{r: r, d: d, h: h, have: have, want: want, xattrs: xattrs, exact: existing}
	err = j.apply()
	r.cache.mu.Lock()
	d.have.uid, d.have.gid, d.have.mode = j.have.uid, j.have.gid, j.have.mode
	r.cache.mu.Unlock()
	return err
}

// path returns the path of name in d, or of d itself for "".
func (d *Dir) path(name string) string {
	var parts []string
	if name != "" {
		parts = append(parts, name)
	}
	for p := d; p.parent != nil; p = p.parent {
		parts = append(parts, p.name)
	}
	var b strings.Builder
	b.WriteString(strings.TrimSuffix(d.r.dir, "/"))
	for i := len(parts) - 1; i >= 0; i-- {
		b.WriteByte('/')
		b.WriteString(parts[i])
	}
	if b.Len() == 0 {
		return "/"
	}
	return b.String()
}

func (d *Dir) err(op, name string, err error) error {
	return &Error{Op: op, Path: d.path(name), Err: err}
}
