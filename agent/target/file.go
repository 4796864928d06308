package target

import (
	"errors"
	"io/fs"
	"math"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// File is a file being restored. Nothing is on disk before the first WriteAt or
// Commit, so any number may be planned. Each must be committed or aborted.
type File struct {
	d     *Dir
	name  string
	want  meta
	size  int64
	group *group // where this file is the first of its link key

	private bool // it may get an ACL: until then the mode means something else

	fd   atomic.Int64 // -1 while not open
	high atomic.Int64 // end of the furthest write

	mu   sync.Mutex // guards opening and the end
	done bool
	temp string
	have stat
}

// Create begins a file. By Skip or Newer there may be no File: the outcome is
// then Kept; otherwise it comes with Commit. e is not used after Create returns.
// A size that no file can have is an error.
func (d *Dir) Create(name string, e *manifest.Entry) (*File, Outcome, error) {
	return d.create(strings.Clone(name), e)
}

// create is Create for a name that stays valid as long as the file is worked on.
func (d *Dir) create(name string, e *manifest.Entry) (*File, Outcome, error) {
	const op = "restore file"
	if err := checkName(name); err != nil {
		return nil, 0, d.err(op, name, err)
	}
	if e.Kind != manifest.KindFile {
		return nil, 0, d.err(op, name, errKind)
	}
	if e.Size > math.MaxInt64 {
		return nil, 0, d.err(op, name, errTooBig)
	}
	kept, err := d.taken(name, e.MTime)
	if err != nil {
		return nil, 0, d.err(op, name, err)
	}
	if kept {
		return nil, Kept, nil
	}
	f := &File{d: d, name: name, want: d.r.metaOf(e), size: int64(e.Size)}
	f.fd.Store(-1)
	f.private = len(e.Xattrs) > 0 || e.XattrRef.Length > 0
	if e.LinkKey != 0 {
		f.group = d.r.links.begin(e, d)
	}
	d.hold()
	return f, 0, nil
}

// WriteFile restores a file whose whole content is p.
func (d *Dir) WriteFile(name string, e *manifest.Entry, p []byte, xattrs []manifest.Xattr) (Outcome, error) {
	if uint64(len(p)) != e.Size {
		return 0, d.err("restore file", name, errSize)
	}
	f, out, err := d.create(name, e)
	if f == nil {
		return out, err
	}
	if _, err := f.WriteAt(p, 0); err != nil {
		f.Abort()
		return 0, err
	}
	return f.Commit(xattrs)
}

// WriteAt writes a piece of the content. Pieces may come in any order and from
// several goroutines; what is never written is a hole.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off > f.size || int64(len(p)) > f.size-off {
		return 0, f.err("write", errSize)
	}
	if len(p) == 0 {
		return 0, nil
	}
	fd := int(f.fd.Load())
	if fd < 0 {
		var err error
		if fd, err = f.open(); err != nil {
			return 0, f.err("create", err)
		}
	}
	n, err := pwrite(fd, p, off)
	if err != nil {
		return n, f.err("write", err)
	}
	for end := off + int64(n); ; {
		old := f.high.Load()
		if old >= end || f.high.CompareAndSwap(old, end) {
			return n, nil
		}
	}
}

// open makes the file under its temporary name.
func (f *File) open() (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.done {
		return -1, errDone
	}
	if fd := f.fd.Load(); fd >= 0 {
		return int(fd), nil
	}
	dirFD, err := f.d.r.acquire(f.d)
	if err != nil {
		return -1, err
	}
	defer f.d.r.release(f.d)
	for range maxTries {
		temp, mode := f.d.r.tempName(), f.createMode()
		fd, err := createAt(dirFD, temp, mode)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return -1, err
		}
		f.temp = temp
		if err := f.look(fd, mode); err != nil {
			closeFd(fd)
			unlinkAt(dirFD, temp)
			return -1, err
		}
		f.fd.Store(int64(fd))
		return fd, nil
	}
	return -1, fs.ErrExist
}

// createMode returns the mode to create the file with: the final one where that
// opens it to nobody who has no right to it later, since that saves an fchmod.
// While it has our group instead of its own, the group gets what all get.
func (f *File) createMode() uint32 {
	const private = 0o600
	if f.private || f.d.habit.Load() != habitPlain {
		return private
	}
	mode := f.want.mode & 0o777
	if f.want.gid != f.d.r.me.gid && mode>>3&7&^mode != 0 {
		return private
	}
	return mode | private
}

// look finds out what the new file is like. In a plain folder that is known.
func (f *File) look(fd int, mode uint32) error {
	me := &f.d.r.me
	asked := stat{kind: manifest.KindFile, mode: mode &^ me.umask, uid: me.uid, gid: me.gid}
	habit := f.d.habit.Load()
	if habit == habitPlain {
		f.have = asked
		return nil
	}
	h := handle{fd: fd}
	acl := habit != habitOdd && hasXattr(h, aclAccess)
	if acl {
		if err := removeXattr(h, aclAccess); err != nil && !refusedAttr(err) {
			return err
		}
	}
	st, err := statFd(fd)
	if err != nil {
		return err
	}
	f.have = st
	if habit == habitUnknown {
		odd := st.mode != asked.mode || st.uid != asked.uid || st.gid != asked.gid
		f.d.learn(acl, odd)
	}
	return nil
}

// Commit completes the file: size, metadata, name. It must not be called before
// all calls of WriteAt have returned. On an error the file is gone, as after
// Abort. Links that waited for the file are made, or failed, before Commit
// returns.
func (f *File) Commit(xattrs []manifest.Xattr) (Outcome, error) {
	if f.fd.Load() < 0 {
		if _, err := f.open(); err != nil {
			err = f.err("create", err)
			f.end(err)
			return 0, err
		}
	}
	out, err := f.commit(xattrs)
	if err != nil {
		err = f.err("restore file", err)
	}
	f.end(err)
	return out, err
}

func (f *File) commit(xattrs []manifest.Xattr) (Outcome, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.done {
		return 0, errDone
	}
	if err := f.seal(xattrs); err != nil {
		return 0, err
	}
	r, d := f.d.r, f.d
	fd, err := r.acquire(d)
	if err != nil {
		return 0, err
	}
	defer r.release(d)
	name, out, err := d.place(fd, f.name, f.want.mtime, (*filePlacer)(f))
	if err != nil {
		return 0, err
	}
	if out == Kept {
		return Kept, nil // end removes the temporary name
	}
	f.temp = ""
	if f.group != nil {
		r.links.place(f.group, name, f.have)
	}
	return out, nil
}

// filePlacer places a file; as a pointer it costs no memory.
type filePlacer File

func (f *filePlacer) put(fd int, to string) error  { return renameNew(fd, f.temp, to) }
func (f *filePlacer) over(fd int, to string) error { return renameOver(fd, f.temp, to) }

// seal sets size and metadata and closes the descriptor, so that all errors
// about the content come before the name.
func (f *File) seal(xattrs []manifest.Xattr) error {
	fd := int(f.fd.Load())
	if f.high.Load() != f.size {
		if err := truncate(fd, f.size); err != nil {
			return err
		}
	}
	j := job{r: f.d.r, d: f.d, name: f.name, h: handle{fd: fd}, have: f.have, want: f.want, xattrs: xattrs}
	if err := j.apply(); err != nil {
		return err
	}
	if f.group != nil {
		st, err := statFd(fd)
		if err != nil {
			return err
		}
		f.have = st
	}
	f.fd.Store(-1)
	return closeWritten(fd)
}

// Abort gives the file up and removes what was written. It must not be called
// before all calls of WriteAt have returned; after Commit it does nothing. Links
// that waited for the file fail.
func (f *File) Abort() { f.end(f.err("restore file", errAborted)) }

// end releases what the file holds. It does its work once.
func (f *File) end(err error) {
	f.mu.Lock()
	if f.done {
		f.mu.Unlock()
		return
	}
	f.done = true
	if fd := f.fd.Swap(-1); fd >= 0 {
		closeFd(int(fd))
	}
	if f.temp != "" {
		f.d.remove(f.temp)
	}
	f.mu.Unlock()
	if f.group != nil {
		f.d.r.links.end(f.group, err)
	}
	f.d.r.settle(f.d)
}

// remove removes a temporary name of ours.
func (d *Dir) remove(temp string) {
	fd, err := d.r.acquire(d)
	if err != nil {
		return // the folder was replaced: nothing of ours is there
	}
	d.unlinkTemp(fd, temp)
	d.r.release(d)
}

// unlinkTemp removes a temporary name of ours from the folder that fd has open,
// and reports where it stays.
func (d *Dir) unlinkTemp(fd int, temp string) {
	if err := unlinkAt(fd, temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.r.fail(d.err("remove", temp, err))
	}
}

func (f *File) err(op string, err error) error { return f.d.err(op, f.name, err) }
