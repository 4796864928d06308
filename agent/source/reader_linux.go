package source

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// cacheTag is the file that marks a folder of things that can be made
	// again, by its first bytes; see https://bford.info/cachedir/.
	cacheTag       = "CACHEDIR.TAG"
	cacheSignature = "Signature: 8a477f597d28d172789f06886806bc55"
	// maxIgnoreFile bounds an ignore file; a bigger one is not one.
	maxIgnoreFile = 256 << 10
	// maxPatterns bounds the patterns of the ignore files that apply to one
	// folder, since each name is matched with all of them.
	maxPatterns = 1 << 14
	// maxTarget is longer than any symlink's target.
	maxTarget = 4096
	// maxTargets bounds the bytes of the targets read ahead with one batch;
	// Next reads the others.
	maxTargets = 256 << 10
)

// folder is a folder on the way through the walk.
type folder struct {
	dir *Dir
	// rules of its parents, and once listed is set, with those of its own.
	rules  ruleBook
	listed bool
	cache  bool // marked by a tag: nothing else in it is stored
	mount  bool // the root of a file system
	closed bool // not to be entered
	first  batch
	// pass is held by one pass over the names at a time, since passes share the
	// descriptor's position.
	pass sync.Mutex
}

// batch is a run of one folder's names in order, the unit of reading ahead.
// The first of a pass lists the folder and makes the others of that pass.
type batch struct {
	f       *folder
	lists   bool
	after   string // where a pass starts
	names   string // of the pass
	refs    []ref  // to stat
	recs    []record
	kids    []*folder // by record; nil once Next has taken it
	targets []string
	next    *batch // what follows in the same folder
	err     error  // of the listing
	extra   int    // what reading it adds to cost

	// Guarded by ahead.mu.
	state        batchState
	dropped      bool
	cost         int    // what is counted for it in ahead.held
	before, then *batch // the queue
}

// reader lists and stats folders. It belongs to one goroutine.
type reader struct {
	tree   *Tree
	lister lister
	st     unix.Stat_t
	order  []inoOrder
	target [maxTarget]byte
	path   []string
	never  []string
}

type inoOrder struct {
	ino uint64
	i   uint32
}

// run does the work of a batch.
func (r *reader) run(b *batch) {
	fd, err := b.f.dir.use()
	if err != nil {
		b.err = err
		return
	}
	defer b.f.dir.done()
	if b.lists {
		if b.err = r.list(fd, b); b.err != nil {
			return
		}
		b.f.dir.step(OpListed, "")
	}
	r.stat(fd, b)
}

// list lists the folder from b.after on and deals the names out to b and to the
// batches after it.
func (r *reader) list(fd int, b *batch) error {
	f := b.f
	f.pass.Lock()
	defer f.pass.Unlock()
	l, err := r.lister.list(fd, b.after)
	if err != nil {
		return err
	}
	if !f.listed {
		f.listed = true
		r.readRules(fd, f, l)
	}
	if f.cache {
		l.arena = append(l.arena[:0], cacheTag...)
		l.refs, l.more = append(l.refs[:0], ref{n: uint16(len(cacheTag)), typ: unix.DT_REG}), false
		if b.after >= cacheTag {
			l.refs = l.refs[:0]
		}
	}
	b.deal(l, r.tree.limit.batch)
	return nil
}

// deal hands the names of a pass to b, which lists it, and to batches after it.
func (b *batch) deal(l *listing, size int) {
	b.names, b.refs = string(l.arena), l.refs
	share := func(refs []ref) int {
		return len(refs)*refCost + len(b.names)/max(len(l.refs), 1)*len(refs)
	}
	if len(l.refs) > size {
		// The lister's refs are used up before it lists again, but only by b.
		b.refs = slices.Clone(l.refs)
	}
	refs := b.refs
	b.refs = refs[:min(size, len(refs))]
	b.extra = share(b.refs)
	last := b
	for refs = refs[len(b.refs):]; len(refs) > 0; refs = refs[len(last.refs):] {
		last.next = &batch{f: b.f, names: b.names, refs: refs[:min(size, len(refs))]}
		last = last.next
		last.cost = share(last.refs)
	}
	if l.more {
		end := l.refs[len(l.refs)-1]
		after := strings.Clone(b.names[end.off:][:end.n])
		last.next = &batch{f: b.f, lists: true, after: after}
	}
}

// readRules reads the files that say what of the folder to leave out.
func (r *reader) readRules(fd int, f *folder, l *listing) {
	t := r.tree
	if l.tag && isCache(fd) {
		f.cache = true
		return
	}
	if !l.ignore {
		return
	}
	name := r.lister.ignore
	text, err := readSmall(fd, name, maxIgnoreFile)
	if err != nil {
		t.log.Warn("ignore file not heeded", "path", t.Path(f.dir.key()), "name", name, "error", err)
		return
	}
	rs := &rules{patterns: parsePatterns(text), depth: f.dir.depth, up: f.rules.files}
	rs.count = len(rs.patterns)
	if rs.up != nil {
		rs.count += rs.up.count
	}
	if rs.count > maxPatterns {
		t.log.Warn("ignore file not heeded: too many patterns", "path", t.Path(f.dir.key()), "name", name)
		return
	}
	if len(rs.patterns) > 0 {
		f.rules.files = rs
	}
}

// isCache tells whether the folder's tag is a real one.
func isCache(dirfd int) bool {
	head, err := readHead(dirfd, cacheTag, len(cacheSignature))
	return err == nil && head == cacheSignature
}

var errTooBig = errors.New("too big")

// readSmall reads a regular file of at most limit bytes.
func readSmall(dirfd int, name string, limit int) (string, error) {
	text, err := readHead(dirfd, name, limit+1)
	if err == nil && len(text) > limit {
		err = errTooBig
	}
	return text, err
}

// readHead reads the first n bytes of a regular file.
func readHead(dirfd int, name string, n int) (string, error) {
	fd, err := openNoAtime(dirfd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC)
	if err != nil {
		return "", err
	}
	f := File{fd: fd}
	defer f.Close()
	if err := unix.Fstat(fd, &f.st); err != nil {
		return "", err
	}
	if f.st.Mode&unix.S_IFMT != unix.S_IFREG {
		return "", errors.New("not a regular file")
	}
	buf := make([]byte, min(int64(n), f.st.Size))
	n, err = f.ReadAt(buf, 0)
	if n == len(buf) {
		err = nil
	}
	return string(buf[:n]), err
}

// stat stats the names of the batch by inode number, in which order most file
// systems keep inodes on their disk.
func (r *reader) stat(fd int, b *batch) {
	b.recs = make([]record, len(b.refs))
	r.order = r.order[:0]
	r.never = r.tree.never.namesIn(b.f.dir, r.never)
	if !b.f.rules.empty() {
		r.path = b.f.dir.components(r.path)
	}
	for i, ref := range b.refs {
		rec := &b.recs[i]
		rec.off, rec.n = ref.off, ref.n
		name := b.name(rec)
		// An excluded folder isn't touched: it may be a dead mount.
		if ref.typ != unix.DT_UNKNOWN && r.excluded(b.f, name, ref.typ == unix.DT_DIR) ||
			slices.Contains(r.never, name) {
			rec.state = excluded
			continue
		}
		r.order = append(r.order, inoOrder{ref.ino, uint32(i)})
	}
	slices.SortFunc(r.order, func(a, b inoOrder) int { return cmp.Compare(a.ino, b.ino) })
	targets := 0
	for _, o := range r.order {
		rec := &b.recs[o.i]
		err := r.statOne(fd, b, rec, b.refs[o.i].typ)
		b.f.dir.step(OpStatted, b.name(rec))
		if err == nil && rec.state == found && rec.typ() == unix.S_IFLNK && targets < maxTargets {
			var target string
			if target, err = readLink(fd, b.name(rec), r.target[:]); err == nil {
				b.targets = append(b.targets, target)
				rec.aux = uint32(len(b.targets))
				targets += len(target)
			}
		}
		rec.fail(err)
	}
	b.refs = nil
	b.sortKids()
	b.extra += len(b.recs)*recordCost + targets + len(b.targets)*targetCost + len(b.kids)*folderCost
}

func (b *batch) name(rec *record) string { return b.names[rec.off:][:rec.n] }

func (r *reader) excluded(f *folder, name string, dir bool) bool {
	if f.rules.empty() {
		return false
	}
	r.path = append(r.path[:f.dir.depth], name)
	return f.rules.excluded(r.path, dir)
}

// fail notes that a name could not be read.
func (rec *record) fail(err error) {
	if err == nil {
		return
	}
	rec.state, rec.errno = unknown, uint16(unix.EIO)
	var errno unix.Errno
	if errors.As(err, &errno) {
		rec.errno = uint16(errno)
	}
	if errno == unix.ENOENT {
		rec.state = vanished
	}
}

func fstatat(dirfd int, name string, st *unix.Stat_t) error {
	for {
		err := unix.Fstatat(dirfd, name, st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT)
		if err != unix.EINTR {
			return err
		}
	}
}

// statOne stats a name that was listed as typ.
func (r *reader) statOne(fd int, b *batch, rec *record, typ uint8) error {
	st, t, name := &r.st, r.tree, b.name(rec)
	if err := fstatat(fd, name, st); err != nil {
		return err
	}
	dir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	// A pattern may be for folders only: ask again where it is no longer what it was.
	other := typ == unix.DT_UNKNOWN || dir != (typ == unix.DT_DIR)
	if t.never.has(st) || other && r.excluded(b.f, name, dir) {
		rec.state = excluded
		return nil
	}
	if dir {
		return r.enter(fd, b, rec)
	}
	fs, err := t.systemAt(b.f.dir.fs, fd, name, st)
	if err != nil {
		return err
	}
	rec.meta = metaOf(st, fs)
	switch {
	case fs.pseudo != "":
		rec.state = onPseudo
	case rec.typ() == unix.S_IFSOCK:
		rec.state = isSocket
	}
	return nil
}

// enter makes the folder that a record, whose stat is r.st, stands for.
func (r *reader) enter(fd int, b *batch, rec *record) error {
	t, st, parent := r.tree, &r.st, b.f.dir
	d := &Dir{
		tree: t, parent: parent, name: strings.Clone(b.name(rec)), fs: parent.fs,
		depth: parent.depth + 1, fd: -1,
	}
	k := &folder{dir: d, rules: b.f.rules}
	if st.Dev != parent.fs.dev {
		now, fs, err := probe(fd, d.name, d.key())
		if err != nil {
			return err
		}
		if now.Mode&unix.S_IFMT != unix.S_IFDIR {
			return unix.ENOTDIR
		}
		*st, d.fs, k.mount = now, fs, now.Dev != parent.fs.dev
		k.closed = k.mount && (fs.pseudo != "" || !t.cross)
	} else {
		k.closed = isAutomount(d.fs, fd, d.name)
	}
	d.dev, d.ino = st.Dev, st.Ino
	k.start()
	rec.meta = metaOf(st, d.fs)
	rec.aux = uint32(len(b.kids))
	b.kids = append(b.kids, k)
	return nil
}

// start readies the folder's first batch.
func (k *folder) start() {
	k.first = batch{f: k, lists: true}
	if k.closed {
		k.first.state = done
	}
}

// sortKids puts the folders, which were met by inode number, into order.
func (b *batch) sortKids() {
	if len(b.kids) < 2 {
		return
	}
	kids := make([]*folder, 0, len(b.kids))
	for i := range b.recs {
		if rec := &b.recs[i]; rec.state == found && rec.typ() == unix.S_IFDIR {
			kids = append(kids, b.kids[rec.aux])
			rec.aux = uint32(len(kids) - 1)
		}
	}
	b.kids = kids
}

// readLink reads a symlink's target by way of buf.
func readLink(dirfd int, name string, buf []byte) (string, error) {
	for {
		n, err := unix.Readlinkat(dirfd, name, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return "", err
		}
		return string(buf[:n]), nil
	}
}
