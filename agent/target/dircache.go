package target

import "sync"

// Descriptors of folders are a scarce thing: a process may have 1024, most of
// them for sockets and files. The bound is the sum of the cache, the top, one
// new folder in each operation, two on the way down in reopen and one in the
// slow path of openDir (both one at a time).
const (
	maxDirs    = 48
	cachedDirs = 28
	maxOps     = 16 // operations on names at a time; each pins one folder
)

// dirCache holds the open descriptors of folders other than the top.
type dirCache struct {
	ops chan struct{} // a token for each operation under way

	mu   sync.Mutex // guards the below, and fd, pins, used, refs, dirty and have of each Dir
	open []*Dir     // at most cachedDirs
	tick uint64
	peak int // highest number of cached descriptors, for tests
}

func (c *dirCache) init() {
	c.ops = make(chan struct{}, maxOps)
	c.open = make([]*Dir, 0, cachedDirs)
}

// acquire returns d's descriptor and keeps it open until release. A goroutine
// holds one at most, so that waiting for a token can't lock up.
func (r *Root) acquire(d *Dir) (int, error) {
	c := &r.cache
	c.ops <- struct{}{}
	c.mu.Lock()
	defer c.mu.Unlock()
	if d.fd < 0 {
		if err := r.reopen(d); err != nil {
			<-c.ops
			return -1, err
		}
	}
	d.pins++
	c.tick++
	d.used = c.tick
	return d.fd, nil
}

// release ends what acquire began. A folder that is complete is closed.
func (r *Root) release(d *Dir) {
	c := &r.cache
	c.mu.Lock()
	if d.pins--; d.pins == 0 && d.refs == 0 {
		c.drop(d)
	}
	c.mu.Unlock()
	<-c.ops
}

// reopen opens d again, from the closest folder above that is open. Each step
// down must give the folder that it gave before. Called with mu held.
func (r *Root) reopen(d *Dir) error {
	var chain []*Dir
	from := d
	for ; from.fd < 0; from = from.parent {
		if from.parent == nil {
			return errDone // the top is closed: after Finish
		}
		chain = append(chain, from)
	}
	fd, borrowed := from.fd, true
	for i := len(chain) - 1; i >= 0; i-- {
		s := chain[i]
		next, st, loosened, err := r.openDir(fd, s.name)
		if !borrowed {
			closeFd(fd)
		}
		if err != nil {
			return err
		}
		if st.dev != s.dev || st.ino != s.ino {
			if loosened {
				chmodFd(handle{fd: next}, st.mode)
			}
			closeFd(next)
			return errReplaced
		}
		if loosened {
			s.have.mode = st.mode | fillMode
			s.dirty = true
		}
		fd, borrowed = next, false
	}
	r.cache.insert(d, fd)
	return nil
}

// insert makes fd the descriptor of d. Called with mu held.
func (c *dirCache) insert(d *Dir, fd int) {
	if len(c.open) == cachedDirs {
		var old *Dir
		for _, o := range c.open {
			if o.pins == 0 && (old == nil || o.used < old.used) {
				old = o
			}
		}
		c.drop(old) // there is one: at most maxOps are pinned
	}
	d.fd = fd
	c.tick++
	d.used = c.tick
	c.open = append(c.open, d)
	c.peak = max(c.peak, len(c.open))
}

// drop closes d's descriptor. Called with mu held.
func (c *dirCache) drop(d *Dir) {
	for i, o := range c.open {
		if o == d {
			last := len(c.open) - 1
			c.open[i] = c.open[last]
			c.open[last] = nil
			c.open = c.open[:last]
			closeFd(d.fd)
			d.fd = -1
			return
		}
	}
}

// climb opens d's parent through d, where it isn't open: coming up from the
// depth by reopen would cost all steps from the top for each folder. Only what
// is the same folder as before is taken.
func (r *Root) climb(d *Dir, fd int) {
	c := &r.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	p := d.parent
	if p == nil || p.fd >= 0 {
		return
	}
	up, st, err := openParent(fd)
	if err != nil {
		return // reopen will find the way, or the error
	}
	if st.dev != p.dev || st.ino != p.ino {
		closeFd(up)
		return
	}
	c.insert(p, up)
}

// close closes everything and returns the number of references that are left.
func (c *dirCache) close(top *Dir) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.open) > 0 {
		c.drop(c.open[0])
	}
	if top.fd >= 0 {
		closeFd(top.fd)
		top.fd = -1
	}
	return top.refs
}
