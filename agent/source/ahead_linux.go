package source

import (
	"context"
	"sync"
)

const (
	// readers is how many goroutines read ahead: enough to keep a disk busy and
	// two cores in system calls.
	readers = 4
	// batchNames is how many names are statted at once.
	batchNames = 4096
	// maxNames and maxNameBytes bound one pass over a folder: 131,072 names or
	// 4 MiB of them, whichever is less; more take more passes.
	maxNames     = 1 << 17
	maxNameBytes = 4 << 20
	// maxAhead is how many bytes of entries may wait to be delivered before the
	// readers pause: some 60,000 entries, or the names of the biggest pass and
	// some batches of it.
	maxAhead = 2 << 20
	// maxHeld is how many bytes may be held in all, which deep trees of big
	// folders would exceed: then the outermost folders are forgotten, and listed
	// again when the walk comes back to them.
	maxHeld = 24 << 20
)

// What things are taken to cost of maxAhead and maxHeld, in bytes.
const (
	recordCost  = 96
	refCost     = 16
	targetCost  = 16
	folderCost  = 512
	reserveCost = 16 << 10 // of a batch that is being read
)

// limits are the bounds, which tests make small.
type limits struct {
	batch, names, nameBytes, ahead, held int
}

var defaultLimits = limits{batchNames, maxNames, maxNameBytes, maxAhead, maxHeld}

type batchState uint8

const (
	unread batchState = iota
	reading
	done
)

// ahead is the queue of what is to be read, in the order of the walk: a batch
// that was read is replaced by the folders found in it. The readers take the
// first of them, as long as not too much is held; the one that Next waits for
// is always taken, so they can't wait for each other.
type ahead struct {
	limit  limits
	mu     sync.Mutex
	work   sync.Cond
	wake   chan struct{} // the needed batch is done
	queue  batch         // ring
	held   int
	need   *batch
	closed bool
	wait   sync.WaitGroup
}

func (a *ahead) init(l limits) {
	a.limit = l
	a.work.L = &a.mu
	a.wake = make(chan struct{}, 1)
	a.queue.before, a.queue.then = &a.queue, &a.queue
}

func (b *batch) insert(before *batch) {
	b.before, b.then = before.before, before
	b.before.then, before.before = b, b
}

func (b *batch) remove() {
	b.before.then, b.then.before = b.then, b.before
	b.before, b.then = nil, nil
}

// start starts the readers.
func (a *ahead) start(t *Tree) {
	for range readers {
		a.wait.Go(func() {
			r := &reader{tree: t, lister: lister{limit: a.limit, ignore: t.ignore}}
			for b := a.take(); b != nil; b = a.take() {
				r.run(b)
				a.finish(b)
			}
		})
	}
}

// stop ends the readers and waits for them.
func (a *ahead) stop() {
	a.mu.Lock()
	a.closed = true
	a.work.Broadcast()
	a.mu.Unlock()
	a.wait.Wait()
}

// take waits for a batch to read; nil means the end.
func (a *ahead) take() *batch {
	a.mu.Lock()
	defer a.mu.Unlock()
	for !a.closed {
		if b := a.first(); b != nil {
			b.state = reading
			a.held += reserveCost
			return b
		}
		a.work.Wait()
	}
	return nil
}

// first returns the batch to read next, if any may be read now.
func (a *ahead) first() *batch {
	if a.need != nil && a.need.state == unread {
		return a.need
	}
	if a.held >= a.limit.ahead {
		return nil
	}
	// At most one for each reader is in front of it.
	for b := a.queue.then; b != &a.queue; b = b.then {
		if b.state == unread {
			return b
		}
	}
	return nil
}

// finish takes in a batch that was read.
func (a *ahead) finish(b *batch) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.held -= reserveCost
	if b.dropped {
		return
	}
	b.cost += b.extra
	a.held += b.extra
	more := 0
	for _, k := range b.kids {
		if !k.closed {
			k.first.insert(b)
			more++
		}
	}
	if b.lists {
		for n := b.next; n != nil; n = n.next {
			n.insert(b)
			a.held += n.cost
			more++
		}
	}
	b.remove()
	b.state = done
	if a.need == b {
		a.need = nil
		a.wake <- struct{}{}
	}
	if more > 1 { // this reader takes one
		a.work.Broadcast()
	}
}

// await waits until a batch is read.
func (a *ahead) await(ctx context.Context, b *batch) error {
	a.mu.Lock()
	if b.state == done {
		a.mu.Unlock()
		return nil
	}
	a.need = b
	a.work.Signal()
	a.mu.Unlock()
	select {
	case <-a.wake:
		return nil
	case <-ctx.Done():
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.need == nil { // it was done at the same moment
		<-a.wake
	}
	a.need = nil
	return ctx.Err()
}

// release ends the life of a batch that was delivered.
func (a *ahead) release(b *batch) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.held -= b.cost
	// Not at once when there is room for one: a reader woken for each folder
	// would cost more than the reading.
	if low := a.limit.ahead * 3 / 4; a.held < low && a.held+b.cost >= low {
		a.work.Broadcast()
	}
}

// again queues a batch that Next is about to need, before all others.
func (a *ahead) again(b *batch) {
	a.mu.Lock()
	defer a.mu.Unlock()
	b.insert(a.queue.then)
}

// drop forgets a batch and all that was read ahead below and after it. The
// caller holds mu.
func (a *ahead) drop(b *batch) {
	for ; b != nil; b = b.next {
		a.held -= b.cost
		switch b.state {
		case unread:
			b.remove()
		case reading:
			b.remove()
			b.dropped = true
			if b.lists {
				return // its next is the reader's, and not queued yet
			}
		case done:
			for _, k := range b.kids {
				if k != nil && !k.closed {
					a.drop(&k.first)
				}
			}
		}
	}
}
