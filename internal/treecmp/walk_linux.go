package treecmp

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// contentBuf is how much of each file is compared at once.
	contentBuf = 256 << 10
	// direntBuf holds what one getdents call returns; as large as glibc's.
	direntBuf = 64 << 10
	// keepOpen is the depth to which folders stay open during the descent:
	// two descriptors a level. Deeper ones are opened again through "..", so
	// that the depth isn't limited by the number of open files.
	keepOpen = 64
)

// errFull ends the walk once Options.Max differences are found.
var errFull = errors.New("enough differences")

// comparer is the state of one comparison.
type comparer struct {
	o          Options
	diffs      []Diff
	stats      Stats
	links      linkTable
	bufA, bufB []byte
	xattrs     xattrReader
	dirents    []byte
}

// place is an entry of one tree: a name in an open folder. Of the roots it is
// the path that the caller gave, in the working folder.
type place struct {
	dir  int
	name string
}

// folder is a folder that both trees have, open in both. Its descriptors are
// -1 while they are closed during the descent below keepOpen.
type folder struct {
	a, b  int
	depth int
	path  string // relative to the roots, "" for them
}

func compare(a, b string, o Options) ([]Diff, error) {
	c := &comparer{
		o:       o,
		links:   newLinkTable(),
		bufA:    make([]byte, contentBuf),
		bufB:    make([]byte, contentBuf),
		xattrs:  newXattrReader(),
		dirents: make([]byte, direntBuf),
	}
	err := c.roots(place{unix.AT_FDCWD, a}, place{unix.AT_FDCWD, b})
	if o.Stats != nil {
		*o.Stats = c.stats
	}
	if err != nil && !errors.Is(err, errFull) {
		return c.diffs, fmt.Errorf("compare %q with %q: %w", a, b, err)
	}
	return c.diffs, nil
}

// roots compares the two given paths and, where both are folders, all below.
func (c *comparer) roots(a, b place) error {
	var st unix.Stat_t
	for _, p := range []place{a, b} {
		if err := unix.Fstatat(p.dir, p.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("stat %q: %w", p.name, err)
		}
	}
	if !c.entry(a, b, ".") {
		return c.full()
	}
	f, err := openBoth(a, b)
	if err != nil {
		return err
	}
	defer f.close()
	return c.below(f)
}

// below compares the entries of f, then those of its subfolders.
func (c *comparer) below(f *folder) error {
	subs, err := c.entries(f)
	if err != nil {
		return err
	}
	for _, name := range subs {
		sub, err := openBoth(place{f.a, name}, place{f.b, name})
		path := f.join(name)
		if err != nil {
			c.report(path, Unreadable, err.Error(), "")
			continue
		}
		sub.depth, sub.path = f.depth+1, path
		if err := c.descend(f, sub); err != nil {
			return err
		}
	}
	return c.full()
}

// descend compares all below sub, with f closed meanwhile where it is deep.
func (c *comparer) descend(f, sub *folder) error {
	defer sub.close()
	if f.depth < keepOpen {
		return c.below(sub)
	}
	var was [2]unix.Stat_t
	if err := errors.Join(unix.Fstat(f.a, &was[0]), unix.Fstat(f.b, &was[1])); err != nil {
		return fmt.Errorf("stat folder %q: %w", f.path, err)
	}
	f.close()
	if err := c.below(sub); err != nil {
		return err
	}
	return f.reopen(sub, was)
}

// entries compares what lies directly in f and returns, sorted, the names of
// the subfolders that both trees have.
func (c *comparer) entries(f *folder) (subs []string, err error) {
	namesA, errA := c.names(f.a)
	namesB, errB := c.names(f.b)
	if err := errors.Join(errA, errB); err != nil {
		c.report(f.display(), Unreadable, err.Error(), "")
		return nil, c.full()
	}
	for len(namesA) > 0 || len(namesB) > 0 {
		order := headOrder(namesA, namesB)
		var name string
		if order <= 0 {
			name, namesA = namesA[0], namesA[1:]
		}
		if order >= 0 {
			name, namesB = namesB[0], namesB[1:]
		}
		if c.o.Skip != nil && c.o.Skip(f.join(name)) {
			continue
		}
		switch {
		case order < 0:
			c.missing(place{f.a, name}, f.join(name))
		case order > 0:
			c.report(f.join(name), Extra, "absent", describe(place{f.b, name}))
		case c.entryIn(f, name):
			subs = append(subs, name)
		}
		if err := c.full(); err != nil {
			return nil, err
		}
	}
	return subs, nil
}

// headOrder tells which of two sorted lists has the smaller first name: below
// 0 the first, above 0 the second, 0 both. An empty list comes last.
func headOrder(a, b []string) int {
	switch {
	case len(a) == 0:
		return 1
	case len(b) == 0:
		return -1
	}
	return strings.Compare(a[0], b[0])
}

// names lists an open folder, sorted as bytes.
func (c *comparer) names(dir int) ([]string, error) {
	var names []string
	for {
		n, err := ignoringEINTR(func() (int, error) { return unix.ReadDirent(dir, c.dirents) })
		if err != nil {
			return nil, fmt.Errorf("list folder: %w", err)
		}
		if n <= 0 {
			break
		}
		_, _, names = unix.ParseDirent(c.dirents[:n], -1, names)
	}
	slices.Sort(names)
	return names, nil
}

// missing reports an entry that b lacks.
func (c *comparer) missing(p place, path string) {
	aspect := Missing
	var st unix.Stat_t
	if unix.Fstatat(p.dir, p.name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFSOCK {
		aspect = Sockets
	}
	c.report(path, aspect, describe(p), "absent")
}

// report notes a difference, unless its aspect is ignored.
func (c *comparer) report(path string, aspect Aspect, a, b string) {
	if c.o.Ignore&aspect == 0 {
		c.diffs = append(c.diffs, Diff{Path: path, Aspect: aspect, A: a, B: b})
	}
}

// full is errFull once there are enough differences.
func (c *comparer) full() error {
	if len(c.diffs) >= c.o.Max {
		c.diffs = c.diffs[:c.o.Max]
		return errFull
	}
	return nil
}

// openFolder are the flags for reading a folder without following a link.
const openFolder = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

// openBoth opens the same folder in both trees.
func openBoth(a, b place) (*folder, error) {
	fa, err := openat(a, openFolder)
	if err != nil {
		return nil, fmt.Errorf("open folder in a: %w", err)
	}
	fb, err := openat(b, openFolder)
	if err != nil {
		_ = unix.Close(fa)
		return nil, fmt.Errorf("open folder in b: %w", err)
	}
	return &folder{a: fa, b: fb}, nil
}

func openat(p place, flags int) (int, error) {
	return ignoringEINTR(func() (int, error) { return unix.Openat(p.dir, p.name, flags, 0) })
}

// reopen opens f again from its open subfolder and makes sure that it is the
// folder it was.
func (f *folder) reopen(sub *folder, was [2]unix.Stat_t) error {
	parent, err := openBoth(place{sub.a, ".."}, place{sub.b, ".."})
	if err != nil {
		return fmt.Errorf("go back to folder %q: %w", f.path, err)
	}
	f.a, f.b = parent.a, parent.b
	for i, fd := range []int{f.a, f.b} {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return fmt.Errorf("go back to folder %q: %w", f.path, err)
		}
		if st.Dev != was[i].Dev || st.Ino != was[i].Ino {
			return fmt.Errorf("go back to folder %q: it was moved meanwhile", f.path)
		}
	}
	return nil
}

// close closes what is open of f; a second call does nothing.
func (f *folder) close() {
	for _, fd := range []*int{&f.a, &f.b} {
		if *fd >= 0 {
			_ = unix.Close(*fd)
			*fd = -1
		}
	}
}

func (f *folder) join(name string) string {
	if f.path == "" {
		return name
	}
	return f.path + "/" + name
}

func (f *folder) display() string {
	if f.path == "" {
		return "."
	}
	return f.path
}

// ignoringEINTR repeats a call that a signal interrupted.
func ignoringEINTR(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
