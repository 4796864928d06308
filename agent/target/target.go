// Package target is the writing side of a restore: it puts the entries of a
// point under a folder, the target.
//
// The entries come from a vault, which is hostile input, and the target may be
// writable by others while it is filled. So nothing outside of the target is
// ever touched: every name is a checked single component, every folder is held
// by a descriptor and opened with O_NOFOLLOW|O_DIRECTORY, a folder that has to
// be opened again is compared by device and inode, and metadata is set by
// descriptor. A symlink below the target is never followed, not even one that
// somebody swaps in meanwhile; symlinks on the way to the target are.
//
// # Use
//
// The caller walks entries so that a folder comes before what is in it:
// [Open], then from [Root.Top] downwards [Dir.Enter] for folders,
// [Dir.WriteFile] for files that are at hand whole, [Dir.Create] for those
// whose content comes in pieces, [Dir.Make] for symlinks, devices and FIFOs,
// [Dir.Link] for further names of a file, [Dir.Existing] to look at what is
// there already, [Dir.Leave] when the walk leaves a folder, [Root.Finish] at
// the end. A folder is open to its owner while it is filled; its own metadata
// is set once the walk has left it and all its files and folders are done, so
// that its times and modes are exact and no list of folders is kept.
//
// Files, symlinks and devices are made under a temporary name
// (".tharsis-<random>.tmp") and renamed when complete, metadata included. A
// killed restore leaves such names behind and no other trace; they never
// disturb a later one.
//
// # Cost
//
// A small file costs five system calls: openat, pwrite, utimensat, close,
// renameat2. An fchown comes on top where the owner isn't ours, and an fchmod
// where the mode can't be given to openat (setuid, setgid, sticky, not writable
// by its owner, cut by the umask, or for a group that isn't ours yet). The first
// file of a folder that was there before costs an fstat and an fgetxattr more,
// to learn what that folder does to new files; where it does something (default
// ACL, setgid, squashed owners) each file costs an fstat. A folder costs
// mkdirat, openat, fstat, fchmod, utimensat, close, and two fgetxattr where the
// folder above was there before. Nothing is synced to disk: what the system has
// not written yet when the power goes is lost, without an error.
//
// At most [maxDirs] descriptors of folders are open at any time, and one for
// each [File] from its first byte to its end. Memory grows with the depth of the
// walk and with the number of hard linked files (see [Dir.Link]), not with the
// number of files or folders.
//
// # Errors
//
// An error that concerns an entry is an [*Error] with its path. What the system
// refuses to an ordinary user (owners, trusted attributes, devices) is no error:
// it is counted by kind, see [Root.Notes]. A setuid or setgid bit and
// security.capability are only set where the owner that they speak for was.
//
// A Root and all that comes from it may be used from several goroutines. Only
// Linux is supported so far; elsewhere Open returns an error that wraps
// [errors.ErrUnsupported].
package target

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// Conflict says what happens where a name is taken already. A folder where a
// folder belongs is never a conflict: it is filled.
type Conflict uint8

// The rules for conflicts.
const (
	Copy      Conflict = iota // what is restored gets a name of its own
	Overwrite                 // what is there goes; a folder only if it is empty
	Skip                      // what is there stays
	Newer                     // Overwrite where the entry's mtime is later, else Skip
)

// Outcome says what became of an entry.
type Outcome uint8

// The outcomes. Zero stands beside an error.
const (
	Restored Outcome = iota + 1 // under its own name
	Copied                      // beside what had its name
	Replaced                    // what had its name is gone
	Kept                        // not restored: what was there stays
	Refused                     // the system does not let this user make it; noted
)

// Options for Open. The zero value copies on conflicts and restores owners as
// far as the system allows.
type Options struct {
	Conflict Conflict
	// Suffix goes between stem and extension of copies, such as
	// " (restored 2026-11-23 14-05)". Empty means " (restored)".
	Suffix string
	// NoOwner leaves everything to the user that restores.
	NoOwner bool
	// MapNames takes the number that this machine has for an owner's or group's
	// name, where it has one, instead of the stored number.
	MapNames bool
	// Failed, if set, is called with each failure that no call returns: metadata
	// of a folder that could not be set when it was complete. It must not call
	// back into the Root.
	Failed func(error)
	// Log gets debug records of copies and replacements; nil discards them.
	Log *slog.Logger
}

// maxSuffix bounds Options.Suffix, so that a copy's name keeps some of the
// original's 255 bytes.
const maxSuffix = 100

// Root is an open target.
type Root struct {
	dir  string // for messages
	o    Options
	me   identity
	top  *Dir
	temp string // start of temporary names, random
	seq  atomic.Uint64

	cache   dirCache
	links   links
	notes   notes
	names   names
	noChown atomic.Bool   // the system refused to change a user once
	plain   atomic.Uint64 // device where new folders of ours are plain, plus 1

	failMu   sync.Mutex
	failed   int
	failedAs error // the first
}

// Open opens the folder dir as a target, and makes it and its parents where they
// are missing. Symlinks in dir itself are followed. A folder that Open made is
// open only to its owner until Finish, and then as the umask says.
func Open(dir string, o Options) (*Root, error) {
	if o.Suffix == "" {
		o.Suffix = " (restored)"
	}
	if err := checkSuffix(o.Suffix); err != nil {
		return nil, fmt.Errorf("open target %q: %w", dir, err)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	r := &Root{dir: filepath.Clean(dir), o: o, me: whoAmI()}
	r.cache.init()
	var random [8]byte
	rand.Read(random[:])
	r.temp = tempPrefix + hex.EncodeToString(random[:]) + "-"
	top, err := r.openTop(dir)
	if err != nil {
		return nil, fmt.Errorf("open target %q: %w", dir, err)
	}
	r.top = top
	return r, nil
}

func (r *Root) openTop(dir string) (*Dir, error) {
	fresh, err := makeAll(dir)
	if err != nil {
		return nil, err
	}
	fd, st, err := openTopDir(dir)
	if err != nil {
		return nil, err
	}
	d := &Dir{r: r, fd: fd, dev: st.dev, ino: st.ino, have: st, back: st.mode, refs: 1, fresh: fresh, existing: !fresh}
	if fresh && st.mode != fillMode {
		if err := chmodFd(handle{fd: fd}, fillMode); err == nil {
			d.have.mode = fillMode
			d.dirty = true
		}
	}
	return d, nil
}

// Top returns the target's own folder. Its metadata stays as it is unless
// [Dir.Describe] is called on it. Leave does nothing on it.
func (r *Root) Top() *Dir { return r.top }

// NextSource forgets which files were restored under which link key: keys are
// unique within one source only. Links that wait for their file are not
// affected.
func (r *Root) NextSource() { r.links.reset() }

// Finish sets the metadata of the target's own folder, closes what is open and
// returns an error for the first failure that no call has returned, with their
// number. Every Dir must have been left and every File committed or aborted;
// where that isn't so, Finish says so, and the folders concerned stay as they
// are. The Root can't be used afterwards.
func (r *Root) Finish() error {
	r.settle(r.top)
	if n := r.cache.close(r.top); n > 0 {
		r.fail(fmt.Errorf("finish target %q: %d users of its folders are not done", r.dir, n))
	}
	r.failMu.Lock()
	defer r.failMu.Unlock()
	switch r.failed {
	case 0:
		return nil
	case 1:
		return r.failedAs
	}
	return fmt.Errorf("%w (and %d more failures)", r.failedAs, r.failed-1)
}

// fail records a failure that can't be returned to whom it concerns.
func (r *Root) fail(err error) {
	r.failMu.Lock()
	if r.failed++; r.failed == 1 {
		r.failedAs = err
	}
	r.failMu.Unlock()
	if r.o.Failed != nil {
		r.o.Failed(err)
	}
}

// Error is what went wrong with one entry. The path is quoted in its text, so
// that no name can forge a message or steer a terminal.
type Error struct {
	Op   string // such as "write"
	Path string // raw, under the target
	Err  error
}

// Error says op, path and cause.
func (e *Error) Error() string { return fmt.Sprintf("%s %q: %v", e.Op, e.Path, e.Err) }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// ErrFolder is the cause where a folder that isn't empty is in the way of
// something else that should overwrite it.
var ErrFolder = errors.New("a folder that is not empty is in its place")

var (
	errNotDir   = errors.New("not a folder")
	errReplaced = errors.New("somebody replaced it meanwhile")
	errKind     = errors.New("entry is of another kind")
	errSize     = errors.New("content does not fit the entry's size")
	errDone     = errors.New("already committed or aborted")
	errRaced    = errors.New("it keeps changing")
	errTooBig   = errors.New("size is larger than a file can have")
	errAborted  = errors.New("given up")
	errID       = errors.New("number is not one of an owner")
	errOwner    = errors.New("owner not restored")

	errFirstKept = errors.New("the first of its names was not restored: something else has that name")
	errSame      = errors.New("same file already")
	errForeign   = errors.New("left alone")
)

// meta is what of an entry is set at the end.
type meta struct {
	mode     uint32
	uid, gid uint32
	mtime    manifest.Time
}

func (r *Root) metaOf(e *manifest.Entry) meta {
	m := meta{mode: e.Mode & 0o7777, uid: e.UID, gid: e.GID, mtime: e.MTime}
	if r.o.MapNames {
		m.uid = r.names.uid(e.User, e.UID)
		m.gid = r.names.gid(e.Group, e.GID)
	}
	return m
}
