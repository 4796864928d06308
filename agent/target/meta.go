package target

import (
	"bytes"
	"errors"
	"math"
	"strings"

	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// Names of attributes that need care.
const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
	attrCap    = "security.capability"
)

// handle is an open descriptor; path tells that it is one that can't be read or
// written through (O_PATH).
type handle struct {
	fd   int
	path bool
}

// identity is who we are, read once.
type identity struct {
	uid, gid uint32
	umask    uint32
	root     bool // permission bits don't hold us up
}

// stat is what the system says of a file.
type stat struct {
	kind         manifest.Kind
	mode         uint32 // permission bits, setuid, setgid, sticky
	uid, gid     uint32
	dev, ino     uint64
	nlink        uint64
	size         int64
	mtime        manifest.Time
	major, minor uint32
}

// job sets the metadata of one thing.
type job struct {
	r      *Root
	d      *Dir
	name   string // in d, or "" for d itself
	h      handle
	have   stat // follows what is set
	want   meta
	xattrs []manifest.Xattr
	exact  bool // it was there before: attributes that the entry lacks go
}

// apply sets everything in the only order that works: a change of owner clears
// setuid, setgid and capabilities, so it is first; user attributes need the
// permission to write that the mode may take away; with an ACL the mode's group
// bits are its mask, and without would open the file to the group, so the ACL is
// there before the mode; all of it may change times, so they are last.
func (j *job) apply() error {
	uidOK, gidOK, err := j.owner()
	if err != nil {
		return err
	}
	var set attrSet
	if j.exact {
		set = readAttrs(j.h)
	}
	if err := j.attrs(passUser, &set, uidOK); err != nil {
		return err
	}
	if err := j.surplus(&set); err != nil {
		return err
	}
	if err := j.attrs(passACL, &set, uidOK); err != nil {
		return err
	}
	if err := j.mode(uidOK, gidOK); err != nil {
		return err
	}
	if err := j.attrs(passRest, &set, uidOK); err != nil {
		return err
	}
	return j.times()
}

// Attributes are set in three passes.
const (
	passUser = iota
	passACL
	passRest
)

func passOf(attr string) int {
	switch {
	case strings.HasPrefix(attr, "user."):
		return passUser
	case attr == aclAccess:
		return passACL
	}
	return passRest
}

// attrs sets the attributes of one pass.
func (j *job) attrs(pass int, set *attrSet, uidOK bool) error {
	for i := range j.xattrs {
		if x := &j.xattrs[i]; passOf(x.Name) == pass {
			if err := j.setAttr(x, set, uidOK); err != nil {
				return err
			}
		}
	}
	return nil
}

// owner sets user and group, and tells whether they are right now.
func (j *job) owner() (uidOK, gidOK bool, err error) {
	uidOK, gidOK = j.have.uid == j.want.uid, j.have.gid == j.want.gid
	if j.r.o.NoOwner || uidOK && gidOK {
		return uidOK, gidOK, nil
	}
	const none = math.MaxUint32 // means "leave it" to the system
	if j.want.uid == none || j.want.gid == none {
		j.note(noteOwner, errID)
		return uidOK, gidOK, nil
	}
	if uidOK || !j.r.noChown.Load() {
		err := chownFd(j.h, j.want.uid, j.want.gid)
		if err == nil {
			j.have.uid, j.have.gid = j.want.uid, j.want.gid
			if j.have.kind != manifest.KindDir {
				j.have.mode &^= 0o6000
			}
			return true, true, nil
		}
		if !refused(err) {
			return false, false, err
		}
		if uidOK {
			j.note(noteGroup, err)
			return uidOK, gidOK, nil
		}
		if !j.r.me.root {
			j.r.noChown.Store(true) // won't change: spare each further file the attempt
		}
	}
	j.note(noteOwner, errOwner)
	if gidOK {
		return uidOK, gidOK, nil
	}
	switch err := chownFd(j.h, none, j.want.gid); {
	case err == nil:
		j.have.gid, gidOK = j.want.gid, true
		if j.have.kind != manifest.KindDir {
			j.have.mode &^= 0o6000
		}
	case refused(err):
		j.note(noteGroup, err)
	default:
		return false, false, err
	}
	return uidOK, gidOK, nil
}

// mode sets the mode, without the bits that speak for an owner who isn't there.
func (j *job) mode(uidOK, gidOK bool) error {
	if j.have.kind == manifest.KindSymlink {
		return nil
	}
	mode := j.want.mode
	if !uidOK {
		mode &^= 0o4000
	}
	if !gidOK {
		mode &^= 0o2000
	}
	if mode != j.want.mode {
		j.note(noteSetID, errOwner)
	}
	if mode == j.have.mode {
		return nil
	}
	err := chmodFd(j.h, mode)
	if err != nil && refused(err) {
		j.note(noteMode, err)
		return nil
	}
	j.have.mode = mode
	return err
}

func (j *job) times() error {
	t := j.want.mtime
	if t.Nsec > 999_999_999 { // larger numbers have meanings of their own
		t.Nsec = 999_999_999
	}
	err := setTime(j.h, t)
	if err != nil && refused(err) {
		j.note(noteTime, err)
		return nil
	}
	return err
}

// setAttr sets one attribute, unless set has it already.
func (j *job) setAttr(x *manifest.Xattr, set *attrSet, uidOK bool) error {
	if old, ok := set.get(x.Name); ok && bytes.Equal(old, x.Value) {
		return nil
	}
	if x.Name == attrCap && !uidOK {
		j.note(noteCap, errOwner)
		return nil
	}
	err := setXattr(j.h, x.Name, x.Value)
	if err != nil && refusedAttr(err) && j.unlock() {
		err = setXattr(j.h, x.Name, x.Value)
	}
	if err != nil && refusedAttr(err) {
		j.note(attrNote(x.Name), err)
		return nil
	}
	if x.Name == aclAccess {
		j.have.mode = noMode // the ACL brought its own
	}
	return err
}

// surplus removes the attributes that the entry doesn't have. Labels of security
// modules belong to this machine and stay.
func (j *job) surplus(set *attrSet) error {
	for name := range set.values {
		if j.wants(name) || strings.HasPrefix(name, "security.") && name != attrCap {
			continue
		}
		err := removeXattr(j.h, name)
		if err != nil && refusedAttr(err) && j.unlock() {
			err = removeXattr(j.h, name)
		}
		if err != nil && !errors.Is(err, errNoAttr) {
			if !refusedAttr(err) {
				return err
			}
			j.note(attrNote(name), err)
		}
		if name == aclAccess {
			j.have.mode = noMode // has become the mask: set it whatever it was
		}
	}
	return nil
}

// noMode is no mode: it makes mode set one.
const noMode = math.MaxUint32

func (j *job) wants(name string) bool {
	for i := range j.xattrs {
		if j.xattrs[i].Name == name {
			return true
		}
	}
	return false
}

// unlock makes a thing of ours writable, for attributes; mode, which comes
// later, puts it right. It tells whether it changed something.
func (j *job) unlock() bool {
	if j.r.me.root || j.have.kind != manifest.KindFile || j.have.mode == noMode || j.have.mode&0o200 != 0 {
		return false
	}
	if chmodFd(j.h, j.have.mode|0o200) != nil {
		return false
	}
	j.have.mode |= 0o200
	return true
}

func (j *job) note(what string, err error) { j.r.note(what, j.d, j.name, err) }

// attrSet is what attributes a thing has.
type attrSet struct{ values map[string][]byte }

func (s *attrSet) get(name string) ([]byte, bool) {
	v, ok := s.values[name]
	return v, ok
}

// readAttrs reads what can be read: what can't is set again, which tells.
func readAttrs(h handle) attrSet {
	names, err := listXattrs(h)
	if err != nil || len(names) == 0 {
		return attrSet{}
	}
	s := attrSet{values: make(map[string][]byte, len(names))}
	for _, name := range names {
		if v, err := getXattr(h, name); err == nil {
			s.values[name] = v
		}
	}
	return s
}
