package source

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// maxOpenDirs is how many folders a tree holds open: enough for the readers
	// and the folders that files are being read in, far below any limit on
	// descriptors.
	maxOpenDirs = 32
	// maxCached are those that the cache may hold. Each reader may have one
	// more open for a moment, to probe a mount point.
	maxCached = maxOpenDirs - readers
	// maxUses is how many goroutines use a folder at one time. Each needs two
	// descriptors at most while it reopens a path, besides the anchor.
	maxUses = (maxCached - 2) / 2
)

// Dir is a folder of a Tree: the path to it, with a descriptor only while it
// was used lately. It can be used by many goroutines at once until the Tree is
// closed, and costs a name and a pointer to its parent.
type Dir struct {
	tree   *Tree
	parent *Dir // nil for the anchor, the folder that holds the root
	name   string
	dev    uint64
	ino    uint64
	fs     *fileSystem
	depth  int // components below the root; -1 for the anchor

	// Guarded by tree.fds.mu.
	fd         int // -1 where it isn't open
	pins       int
	prev, next *Dir // among the open folders without pins
}

// descriptors is the bounded cache of a tree's open folders.
type descriptors struct {
	mu     sync.Mutex
	free   sync.Cond // a use ended
	uses   int
	open   int
	idle   Dir // ring of open folders without pins, the latest used first
	closed bool
}

func (c *descriptors) init() {
	c.free.L = &c.mu
	c.idle.prev, c.idle.next = &c.idle, &c.idle
}

// close closes all folders that nobody uses; the others are closed by the end
// of their use.
func (c *descriptors) close(anchor *Dir) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.closed = true
	c.free.Broadcast()
	for c.idle.next != &c.idle {
		c.evict()
	}
	anchor.unpin()
}

// evict closes the folder that was unused for longest.
func (c *descriptors) evict() {
	d := c.idle.prev
	d.unlink()
	unix.Close(d.fd)
	d.fd = -1
	c.open--
}

// makeRoom counts one more descriptor, which is about to be opened.
func (c *descriptors) makeRoom() {
	if c.open >= maxCached && c.idle.prev != &c.idle {
		c.evict()
	}
	c.open++
}

func (d *Dir) unlink() {
	d.prev.next, d.next.prev = d.next, d.prev
	d.prev, d.next = nil, nil
}

func (d *Dir) pin() {
	if d.pins++; d.pins == 1 && d.next != nil {
		d.unlink()
	}
}

func (d *Dir) unpin() {
	c := &d.tree.fds
	if d.pins--; d.pins > 0 {
		return
	}
	if c.closed {
		unix.Close(d.fd)
		d.fd = -1
		c.open--
		return
	}
	d.prev, d.next = &c.idle, c.idle.next
	d.prev.next, d.next.prev = d, d
}

// use returns a descriptor of the folder that stays open until done is called.
// A goroutine must not use two folders at once.
func (d *Dir) use() (int, error) {
	c := &d.tree.fds
	c.mu.Lock()
	for c.uses == maxUses && !c.closed {
		c.free.Wait()
	}
	if c.closed {
		c.mu.Unlock()
		return -1, os.ErrClosed
	}
	c.uses++
	if d.fd >= 0 {
		d.pin()
		c.mu.Unlock()
		return d.fd, nil
	}
	near := d.parent
	for near.fd < 0 {
		near = near.parent
	}
	near.pin()
	c.mu.Unlock()

	fd, err := d.reopen(near)

	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.endUse()
		return -1, err
	}
	if d.fd >= 0 { // someone else was faster
		unix.Close(fd)
		c.open--
	} else {
		d.fd = fd
	}
	d.pin()
	return d.fd, nil
}

// done ends a use.
func (d *Dir) done() {
	c := &d.tree.fds
	c.mu.Lock()
	d.unpin()
	c.endUse()
	c.mu.Unlock()
}

func (c *descriptors) endUse() {
	c.uses--
	c.free.Signal()
}

// reopen opens the folder by way of near, an open and pinned ancestor whose pin
// it ends, checking each folder on the way.
func (d *Dir) reopen(near *Dir) (int, error) {
	c := &d.tree.fds
	var path []*Dir
	for p := d; p != near; p = p.parent {
		path = append(path, p)
	}
	at := near.fd
	leave := func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if near != nil {
			near.unpin()
			near = nil
			return
		}
		unix.Close(at)
		c.open--
	}
	for _, p := range slices.Backward(path) {
		c.mu.Lock()
		c.makeRoom()
		c.mu.Unlock()
		fd, err := p.openIn(at)
		leave()
		if err != nil {
			c.mu.Lock()
			c.open--
			c.mu.Unlock()
			return -1, err
		}
		at = fd
	}
	return at, nil
}

// openIn opens the folder in its parent's descriptor and checks that it is the
// one that was listed.
func (d *Dir) openIn(parent int) (int, error) {
	fd, err := openNoAtime(parent, d.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC)
	if err == unix.ENOTDIR || err == unix.ELOOP {
		return -1, ErrReplaced
	}
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return -1, err
	}
	if st.Dev != d.dev || d.fs.stable && st.Ino != d.ino {
		unix.Close(fd)
		return -1, ErrReplaced
	}
	return fd, nil
}

// components returns the names from the root down to the folder, in buf.
func (d *Dir) components(buf []string) []string {
	buf = slices.Grow(buf[:0], d.depth+1)[:d.depth]
	for p := d; p.depth > 0; p = p.parent {
		buf[p.depth-1] = p.name
	}
	return buf
}

// key returns the folder's key.
func (d *Dir) key() []byte {
	return []byte(strings.Join(d.components(nil), "\x00"))
}

// openat is unix.Openat, again where a signal interrupts it.
func openat(dirfd int, name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(dirfd, name, flags, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// openNoAtime opens without leaving a trace in the access time, which the
// kernel grants to a file's owner and to root.
func openNoAtime(dirfd int, name string, flags int) (int, error) {
	fd, err := openat(dirfd, name, flags|unix.O_NOATIME)
	if err == unix.EPERM {
		return openat(dirfd, name, flags)
	}
	return fd, err
}

// Open opens a regular file of the folder for reading, without following a
// symlink, waiting for anything or setting its access time. An error wraps
// [ErrReplaced] where the name is something else by now and fs.ErrNotExist where it is
// gone; that the file is the one that was listed is for the caller to check by
// [File.Opened].
func (d *Dir) Open(name string) (*File, error) {
	dirfd, err := d.use()
	if err != nil {
		return nil, fmt.Errorf("open folder: %w", err)
	}
	f := &File{tree: d.tree}
	if f.hooked() {
		f.path = d.path(name)
	}
	f.fd, err = openNoAtime(dirfd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC)
	d.done()
	switch err {
	case nil:
	case unix.ELOOP, unix.ENXIO: // a symlink; a socket
		return nil, fmt.Errorf("open: %w", ErrReplaced)
	default:
		return nil, fmt.Errorf("open: %w", err)
	}
	if err := unix.Fstat(f.fd, &f.st); err != nil {
		unix.Close(f.fd)
		return nil, fmt.Errorf("stat: %w", err)
	}
	if f.st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(f.fd)
		return nil, fmt.Errorf("open: %w", ErrReplaced)
	}
	f.fs = d.tree.systemOf(d.fs, f.fd, &f.st)
	f.step(OpOpened)
	return f, nil
}
