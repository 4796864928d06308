package target

import (
	"errors"

	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// Make restores a symlink, device or FIFO. Where this user may not make devices
// the outcome is Refused, and noted.
func (d *Dir) Make(name string, e *manifest.Entry, xattrs []manifest.Xattr) (Outcome, error) {
	out, err := d.makeNamed(name, e, xattrs)
	if err != nil {
		return 0, d.err("restore "+kindName(e.Kind), name, err)
	}
	return out, nil
}

func kindName(k manifest.Kind) string {
	switch k {
	case manifest.KindSymlink:
		return "symlink"
	case manifest.KindFIFO:
		return "FIFO"
	case manifest.KindBlock, manifest.KindChar:
		return "device"
	}
	return "entry"
}

func (d *Dir) makeNamed(name string, e *manifest.Entry, xattrs []manifest.Xattr) (Outcome, error) {
	if err := checkName(name); err != nil {
		return 0, err
	}
	if kept, err := d.taken(name, e.MTime); kept || err != nil {
		return Kept, err
	}
	fd, err := d.r.acquire(d)
	if err != nil {
		return 0, err
	}
	defer d.r.release(d)
	temp := d.r.tempName()
	err = makeAt(fd, temp, e)
	if errors.Is(err, errNoDevice) {
		d.r.note(noteDevice, d, name, err)
		return Refused, nil
	}
	if err != nil {
		return 0, err
	}
	out, err := d.makeTemp(fd, temp, name, e, xattrs)
	if err != nil || out == Kept {
		d.unlinkTemp(fd, temp)
	}
	return out, err
}

// makeTemp gives temp, which was just made, its metadata and its name.
func (d *Dir) makeTemp(fd int, temp, name string, e *manifest.Entry, xattrs []manifest.Xattr) (Outcome, error) {
	node, err := openPathAt(fd, temp)
	if err != nil {
		return 0, err
	}
	defer closeFd(node)
	h := handle{fd: node, path: true}
	if e.Kind != manifest.KindSymlink && d.habit.Load() != habitPlain {
		removeXattr(h, aclAccess) // inherited; it may not be there
	}
	st, err := statFd(node)
	if err != nil {
		return 0, err
	}
	// What we made has one name. Something else under that name was put there by
	// somebody who wants our rights for it.
	if st.kind != e.Kind || st.nlink != 1 {
		return 0, errReplaced
	}
	j := job{r: d.r, d: d, name: name, h: h, have: st, want: d.r.metaOf(e), xattrs: xattrs}
	if err := j.apply(); err != nil {
		return 0, err
	}
	placed, out, err := d.place(fd, name, e.MTime, tempPlacer(temp))
	if err == nil && out != Kept && e.LinkKey != 0 {
		d.r.links.add(e, d, placed, node)
	}
	return out, err
}
