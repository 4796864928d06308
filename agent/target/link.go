package target

import (
	"encoding/binary"
	"errors"
	"hash/maphash"
	"io/fs"
	"strings"
	"sync"

	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// Bounds of what a hostile or very large point makes us remember. Beyond them
// further names are restored as files of their own, and noted.
const (
	maxGroups  = 1 << 19 // hard linked files of a source, some 150 bytes each
	maxWaiting = 1 << 16 // links that wait for their file to be complete
)

// links knows what was restored under which link key.
type links struct {
	mu       sync.Mutex
	groups   map[uint64]*group
	waiting  int
	linkable map[uint64]bool // by device: whether it has hard links
}

// group is a file with several names. It holds no folder open and keeps none
// from being done.
type group struct {
	key     uint64
	content uint64 // see contentOf
	dir     *Dir
	placed  bool
	name    string // these once it is placed
	dev     uint64
	ino     uint64
	kind    manifest.Kind
	mtime   manifest.Time // inode numbers are used again at once
	waiters []waiter
}

type waiter struct {
	d     *Dir
	name  string
	mtime manifest.Time
	done  func(Outcome, error)
}

// contentSeed is for contentOf, whose results live no longer than the process.
var contentSeed = maphash.MakeSeed()

// contentOf sums up the content that an entry names. A point may have a file's
// names in different states: it changed while it was backed up, or one of them could
// not be read and stands for an earlier time. Then they are different files.
func contentOf(e *manifest.Entry) uint64 {
	var h maphash.Hash
	h.SetSeed(contentSeed)
	b := make([]byte, 0, 64)
	b = append(b, byte(e.Kind))
	b = binary.LittleEndian.AppendUint64(b, e.Size)
	h.Write(append(b, e.Table[:]...))
	for _, x := range e.Extents {
		h.Write(binary.LittleEndian.AppendUint64(b[:0], x.Length))
		h.Write(x.ID[:])
	}
	h.WriteString(e.Target)
	return h.Sum64()
}

// Link makes name a further name of what was restored for the first entry with
// e's link key, by Create, Make or Existing.SetMeta. It returns false where there
// is no such thing with e's content, or where the file system can't link it: the
// entry is then to be restored as if it were the first. Otherwise done is called once, now or, if
// the first is not complete yet, within its Commit or Abort, by that goroutine.
// e is not used after Link returns.
//
// For each linked file some 150 bytes are kept until [Root.NextSource]. Beyond
// 524,288 files Link returns false.
func (d *Dir) Link(name string, e *manifest.Entry, done func(Outcome, error)) bool {
	if e.LinkKey == 0 {
		return false
	}
	if err := checkName(name); err != nil {
		done(0, d.err("link", name, err))
		return true
	}
	l := &d.r.links
	l.mu.Lock()
	g := l.groups[e.LinkKey]
	if g == nil || g.content != contentOf(e) {
		l.mu.Unlock()
		return false
	}
	if g.placed {
		l.mu.Unlock()
		return d.linkNow(g, name, e.MTime, done)
	}
	l.mu.Unlock()
	if !d.canLink(g) {
		d.r.note(noteLink, d, name, fs.ErrInvalid)
		return false
	}
	l.mu.Lock()
	if !g.placed && l.groups[g.key] == g && l.waiting < maxWaiting {
		l.waiting++
		d.hold()
		g.waiters = append(g.waiters, waiter{d, strings.Clone(name), e.MTime, done})
		l.mu.Unlock()
		return true
	}
	placed := g.placed
	l.mu.Unlock()
	if placed {
		return d.linkNow(g, name, e.MTime, done)
	}
	d.r.note(noteLink, d, name, errAborted)
	return false
}

// Linked tells whether name is already a name of what was restored for the first
// entry with e's link key and content, so that nothing is to be done.
func (d *Dir) Linked(name string, e *manifest.Entry) bool {
	l := &d.r.links
	l.mu.Lock()
	g := l.groups[e.LinkKey]
	placed := g != nil && g.placed && g.content == contentOf(e)
	l.mu.Unlock()
	if !placed || d.fresh || checkName(name) != nil {
		return false
	}
	fd, err := d.r.acquire(d)
	if err != nil {
		return false
	}
	defer d.r.release(d)
	st, err := statAt(fd, name)
	return err == nil && st.dev == g.dev && st.ino == g.ino && st.kind == g.kind && st.mtime == g.mtime
}

func (d *Dir) linkNow(g *group, name string, mtime manifest.Time, done func(Outcome, error)) bool {
	out, err := d.linkTo(g, name, mtime)
	if errors.Is(err, errNoLink) {
		d.r.note(noteLink, d, name, err)
		return false
	}
	if err != nil {
		err = d.err("link", name, err)
	}
	done(out, err)
	return true
}

// linkTo links g's file as name in d.
func (d *Dir) linkTo(g *group, name string, mtime manifest.Time) (Outcome, error) {
	node, err := g.open()
	if err != nil {
		return 0, err
	}
	defer closeFd(node)
	fd, err := d.r.acquire(d)
	if err != nil {
		return 0, err
	}
	defer d.r.release(d)
	_, out, err := d.place(fd, name, mtime, &linkPlacer{d: d, g: g, node: node})
	return out, err
}

// open opens g's file by its remembered name and checks that it is the one.
func (g *group) open() (int, error) {
	d := g.dir
	d.hold()
	defer d.r.settle(d)
	fd, err := d.r.acquire(d)
	if err != nil {
		return -1, err
	}
	defer d.r.release(d)
	node, err := openPathAt(fd, g.name)
	if errors.Is(err, fs.ErrPermission) && d.loosen(fd) {
		node, err = openPathAt(fd, g.name)
	}
	if err != nil {
		return -1, err
	}
	st, err := statFd(node)
	if err == nil && (st.dev != g.dev || st.ino != g.ino || st.kind != g.kind || st.mtime != g.mtime) {
		err = errReplaced
	}
	if err != nil {
		closeFd(node)
		return -1, err
	}
	return node, nil
}

// loosen opens d to us where its final mode, already set, does not.
func (d *Dir) loosen(fd int) bool {
	d.r.cache.mu.Lock()
	defer d.r.cache.mu.Unlock()
	if d.have.uid != d.r.me.uid || d.parent == nil {
		return false
	}
	if chmodFd(handle{fd: fd}, d.have.mode|fillMode) != nil {
		return false
	}
	d.have.mode |= fillMode
	d.dirty = true
	return true
}

// linkPlacer places a further link to what the descriptor node has open.
type linkPlacer struct {
	d    *Dir
	g    *group
	node int
}

func (p *linkPlacer) put(fd int, to string) error { return linkFd(p.node, fd, to) }

func (p *linkPlacer) over(fd int, to string) error {
	// Renaming a link over another to the same file does nothing at all.
	if st, err := statAt(fd, to); err == nil && st.dev == p.g.dev && st.ino == p.g.ino {
		return errSame
	}
	temp := p.d.r.tempName()
	if err := linkFd(p.node, fd, temp); err != nil {
		return err
	}
	err := renameOver(fd, temp, to)
	if err != nil {
		p.d.unlinkTemp(fd, temp)
	}
	return err
}

// canLink tells whether what will become of g, which is in the making, can be
// linked into d, since once a link waits there is no way back.
func (d *Dir) canLink(g *group) bool {
	l := &d.r.links
	l.mu.Lock()
	first := g.dir
	ok, known := l.linkable[d.dev]
	l.mu.Unlock()
	if first != nil && first.dev != d.dev {
		return false
	}
	if known {
		return ok
	}
	ok, sure := d.tryLink()
	if !sure {
		return ok
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.linkable == nil {
		l.linkable = make(map[uint64]bool)
	}
	l.linkable[d.dev] = ok
	return ok
}

// tryLink links a file of its own making in d. After an error that is about
// something else than links, it is not sure: the link itself will then fail, and
// say so, where a second file would be made in silence.
func (d *Dir) tryLink() (ok, sure bool) {
	fd, err := d.r.acquire(d)
	if err != nil {
		return true, false
	}
	defer d.r.release(d)
	a, b := d.r.tempName(), d.r.tempName()
	file, err := createAt(fd, a, 0o600)
	if err != nil {
		return true, false
	}
	defer d.unlinkTemp(fd, a)
	defer closeFd(file)
	if err := linkFd(file, fd, b); err != nil {
		return !errors.Is(err, errNoLink), errors.Is(err, errNoLink)
	}
	d.unlinkTemp(fd, b)
	return true, true
}

// begin makes the group of e's link key, for a file in d that is being restored. It
// returns nil where another file is the first.
func (l *links) begin(e *manifest.Entry, d *Dir) *group {
	key := e.LinkKey
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.groups[key] != nil || len(l.groups) >= maxGroups {
		return nil
	}
	if l.groups == nil {
		l.groups = make(map[uint64]*group)
	}
	g := &group{key: key, content: contentOf(e), dir: d}
	l.groups[key] = g
	return g
}

// add notes what was restored at once for e, if it is the first with its link key.
// fd has it open.
func (l *links) add(e *manifest.Entry, d *Dir, name string, fd int) {
	st, err := statFd(fd)
	if err != nil {
		return // its other names become files of their own
	}
	if g := l.begin(e, d); g != nil {
		l.place(g, name, st)
	}
}

// place notes where g's file is.
func (l *links) place(g *group, name string, st stat) {
	l.mu.Lock()
	defer l.mu.Unlock()
	g.placed, g.name = true, strings.Clone(name)
	g.dev, g.ino, g.kind, g.mtime = st.dev, st.ino, st.kind, st.mtime
}

// end is called when g's first file is done: it makes the links that waited, or
// fails them, and forgets the group where the file isn't there.
func (l *links) end(g *group, err error) {
	l.mu.Lock()
	waiters := g.waiters
	g.waiters = nil
	l.waiting -= len(waiters)
	if !g.placed && l.groups[g.key] == g {
		delete(l.groups, g.key)
	}
	l.mu.Unlock()
	for _, w := range waiters {
		out, werr := Outcome(0), err
		switch {
		case g.placed:
			out, werr = w.d.linkTo(g, w.name, w.mtime)
		case err == nil:
			werr = errFirstKept
		}
		if werr != nil {
			out, werr = 0, w.d.err("link", w.name, werr)
		}
		w.done(out, werr)
		w.d.r.settle(w.d)
	}
}

// reset forgets all groups. Those with links that wait live on in their files.
func (l *links) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.groups = nil
}
