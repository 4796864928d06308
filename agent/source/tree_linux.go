package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// Tree is the walk of one source. Next is for one goroutine at a time.
type Tree struct {
	root    string
	log     *slog.Logger
	hook    Hook
	cross   bool
	ignore  string
	limit   limits
	never   *never
	users   *owners
	groups  *owners
	foreign foreign
	fds     descriptors
	ahead   ahead

	anchor  *Dir // the folder that holds the root
	name    string
	st      unix.Stat_t
	fs      *fileSystem
	top     *folder // nil for a file
	started bool
	err     error // sticky: io.EOF or worse

	// The way from the root to where Next is.
	stack  []frame
	shed   int     // so many outermost frames were forgotten
	enter  *folder // to be entered by the next Next
	key    []byte
	item   Item
	target [maxTarget]byte
}

// frame is a folder on the way.
type frame struct {
	f     *folder
	b     *batch // being delivered; nil at the end, or where it was forgotten
	ready bool   // b was read
	i     int    // the next record of b
	key   int    // the length of the folder's key
	after string // the last name delivered, of a forgotten frame
	again bool   // forgotten: list it from after
}

// Open starts the walk of root, an absolute clean path. Symlinks in its parents
// are followed; a root that is a symlink is itself the one entry. It is an
// error for the root to be missing, in a pseudo file system, a socket, or within
// what is always excluded. The caller must close the Tree.
func Open(root string, o Options) (*Tree, error) {
	return open(root, o, defaultLimits)
}

func open(root string, o Options, l limits) (*Tree, error) {
	if !filepath.IsAbs(root) || filepath.Clean(root) != root {
		return nil, fmt.Errorf("open source %s: not an absolute clean path", root)
	}
	t := &Tree{
		root: root, log: o.Log, hook: o.Hook, cross: o.CrossMounts, ignore: o.IgnoreFileName, limit: l,
		users: newOwners(userName), groups: newOwners(groupName),
		foreign: foreign{byDev: make(map[uint64]*fileSystem)},
	}
	if t.log == nil {
		t.log = slog.New(slog.DiscardHandler)
	}
	if t.ignore == "" {
		t.ignore = DefaultIgnoreFile
	}
	var err error
	if t.never, err = newNever(root, o.AlwaysExclude); err != nil {
		return nil, fmt.Errorf("open source: %w", err)
	}
	top, err := userRules(root, &o)
	if err != nil {
		return nil, fmt.Errorf("open source %s: %w", root, err)
	}
	if err := t.openRoot(ruleBook{top: top}); err != nil {
		return nil, fmt.Errorf("open source %s: %w", root, err)
	}
	return t, nil
}

// openRoot opens the anchor, finds out what the root is and starts to read it.
func (t *Tree) openRoot(rules ruleBook) error {
	parent := filepath.Dir(t.root)
	t.name = filepath.Base(t.root)
	if t.root == "/" {
		t.name = "."
	}
	t.fds.init()
	t.ahead.init(t.limit)
	// O_PATH, as the folder above need not be readable.
	fd, err := openat(unix.AT_FDCWD, parent, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC)
	if err != nil {
		return err
	}
	t.anchor = &Dir{tree: t, depth: -1, fd: fd, pins: 1}
	t.fds.open = 1
	if t.st, t.fs, err = probe(fd, t.name, nil); err != nil {
		t.Close()
		return err
	}
	m := metaOf(&t.st, t.fs)
	switch {
	case t.fs.pseudo != "":
		err = fmt.Errorf("%s is a pseudo file system, which is never backed up", t.fs.pseudo)
	case m.kind() == 0:
		err = errSocket
	}
	if err != nil {
		t.Close()
		return err
	}
	t.anchor.fs = t.fs
	if m.kind() != manifest.KindDir {
		return nil
	}
	t.top = &folder{rules: rules, mount: true, dir: &Dir{
		tree: t, parent: t.anchor, name: t.name, fs: t.fs,
		dev: t.st.Dev, ino: t.st.Ino, fd: -1,
	}}
	t.top.start()
	t.top.first.insert(&t.ahead.queue)
	t.ahead.start(t)
	return nil
}

// FSID identifies the file system of the root. It stays the same over reboots
// as far as the kernel tells, is never a device number, and tells btrfs
// subvolumes apart. It is printable ASCII.
func (t *Tree) FSID() string { return t.fs.id }

// Root returns the path that was opened.
func (t *Tree) Root() string { return t.root }

// Path returns the absolute path of an entry by its key.
func (t *Tree) Path(key []byte) string {
	if len(key) == 0 {
		return t.root
	}
	return strings.TrimSuffix(t.root, "/") + "/" + strings.ReplaceAll(string(key), "\x00", "/")
}

// Close ends the walk and closes the folders; files stay open. Dirs can't be
// used any more. It waits for the readers, which may be in a system call.
func (t *Tree) Close() error {
	t.ahead.stop()
	t.fds.close(t.anchor)
	if t.err == nil {
		t.err = fmt.Errorf("walk %s: %w", t.root, fs.ErrClosed)
	}
	return nil
}

var (
	errSocket   = errors.New("a socket, which is never backed up")
	errOnPseudo = errors.New("on a pseudo file system, which is never backed up")
	errVanished = fmt.Errorf("vanished: %w", fs.ErrNotExist)
)

// Next returns the next item, or io.EOF at the end. After the context's error
// the walk can go on by another call; other errors are final and wrap
// [ErrRootGone] or fs.ErrClosed.
func (t *Tree) Next(ctx context.Context) (*Item, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if t.err != nil {
		return nil, t.err
	}
	if !t.started {
		return t.first(ctx)
	}
	if t.enter != nil {
		t.push(t.enter)
		t.enter = nil
	}
	for len(t.stack) > 0 {
		top := &t.stack[len(t.stack)-1]
		if top.again {
			t.reread(top)
		}
		if top.b == nil {
			t.pop()
			continue
		}
		if !top.ready {
			if err := t.ahead.await(ctx, top.b); err != nil {
				return nil, err
			}
			top.ready = true
		}
		if top.b.err != nil {
			return t.cut(top)
		}
		if top.i == len(top.b.recs) {
			t.advance(top)
			continue
		}
		item, err := t.deliver(ctx, top)
		if item != nil || err != nil {
			return item, err
		}
	}
	return nil, t.finish()
}

// first delivers the root.
func (t *Tree) first(ctx context.Context) (*Item, error) {
	it := &t.item
	*it = Item{Key: t.key[:0], Dir: t.anchor, Name: t.name}
	m := metaOf(&t.st, t.fs)
	t.fillMeta(&it.Entry, &m)
	if t.top != nil {
		if err := t.ahead.await(ctx, &t.top.first); err != nil {
			return nil, err
		}
		t.descend(it, t.top)
		if it.State == Vanished || it.State == Unknown {
			return nil, t.fail(it.Err)
		}
	} else if m.typ() == unix.S_IFLNK {
		var err error
		if it.Entry.Target, err = readLink(t.anchor.fd, t.name, t.target[:]); err != nil {
			return nil, t.fail(err)
		}
	}
	t.started = true
	return it, nil
}

// fail ends the walk for good.
func (t *Tree) fail(err error) error {
	if !errors.Is(err, fs.ErrClosed) {
		err = fmt.Errorf("%w: %w", ErrRootGone, err)
	}
	t.err = fmt.Errorf("walk %s: %w", t.root, err)
	return t.err
}

// finish checks that the root is still what it was.
func (t *Tree) finish() error {
	var st unix.Stat_t
	err := unix.Lstat(t.root, &st)
	same := st.Dev == t.st.Dev && st.Mode&unix.S_IFMT == t.st.Mode&unix.S_IFMT &&
		(st.Ino == t.st.Ino || !t.fs.stable)
	switch {
	case err != nil:
		return t.fail(err)
	case !same && t.top != nil:
		return t.fail(ErrReplaced)
	}
	t.err = io.EOF
	return t.err
}

// deliver makes the item of the top frame's next record; nil where there is
// none to yield.
func (t *Tree) deliver(ctx context.Context, top *frame) (*Item, error) {
	b := top.b
	rec := &b.recs[top.i]
	if rec.state == excluded {
		top.i++
		return nil, nil
	}
	var kid *folder
	if rec.state == found && rec.typ() == unix.S_IFDIR {
		kid = b.kids[rec.aux]
		if err := t.ahead.await(ctx, &kid.first); err != nil {
			return nil, err
		}
		b.kids[rec.aux] = nil
	}
	top.i++
	it := &t.item
	*it = Item{Dir: top.f.dir, Name: b.name(rec)}
	t.key = t.key[:top.key]
	if top.key > 0 {
		t.key = append(t.key, 0)
	}
	t.key = append(t.key, it.Name...)
	it.Key = t.key
	switch rec.state {
	case found:
		t.fillMeta(&it.Entry, &rec.meta)
		if kid != nil {
			t.descend(it, kid)
		} else if rec.typ() == unix.S_IFLNK {
			t.link(it, b, rec)
		}
	case unknown:
		it.State, it.Err = Unknown, fmt.Errorf("stat: %w", unix.Errno(rec.errno))
	case vanished:
		it.State, it.Err = Vanished, errVanished
	case isSocket:
		it.State, it.Err = Skipped, errSocket
	case onPseudo:
		it.State, it.Err = Skipped, errOnPseudo
	}
	return it, nil
}

// descend completes the item of a folder whose first batch is read.
func (t *Tree) descend(it *Item, k *folder) {
	if k.mount {
		it.Entry.FSID = k.dir.fs.id
	}
	it.NotEntered = k.closed
	err := k.first.err
	switch {
	case err == nil:
		if !k.closed {
			t.enter = k
		}
	case errors.Is(err, fs.ErrNotExist):
		it.State, it.Err, it.Entry = Vanished, errVanished, manifest.Entry{}
	case errors.Is(err, ErrReplaced):
		it.State, it.Err, it.Entry = Unknown, fmt.Errorf("open folder: %w", err), manifest.Entry{}
	default:
		it.State, it.Err = Unlisted, fmt.Errorf("list folder: %w", err)
	}
}

// link sets a symlink's target, which may have been left to be read now.
func (t *Tree) link(it *Item, b *batch, rec *record) {
	if rec.aux > 0 {
		it.Entry.Target = b.targets[rec.aux-1]
		return
	}
	dirfd, err := it.Dir.use()
	if err == nil {
		it.Entry.Target, err = readLink(dirfd, it.Name, t.target[:])
		it.Dir.done()
	}
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrNotExist):
		it.State, it.Err, it.Entry = Vanished, errVanished, manifest.Entry{}
	default:
		it.State, it.Err, it.Entry = Unknown, fmt.Errorf("read link: %w", err), manifest.Entry{}
	}
}
