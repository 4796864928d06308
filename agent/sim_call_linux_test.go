package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/backend/fault"
)

// simFault is what goes wrong with one call. Where it does not fit the call, nothing does.
type simFault string

const (
	simFine       simFault = ""
	simErrBefore  simFault = "err-before"  // an error, and nothing happened
	simErrAfter   simFault = "err-after"   // an error, but it took effect
	simErrLate    simFault = "err-late"    // an error, and it takes effect some time later
	simLate       simFault = "late"        // success is told of a delete that takes place later
	simKillBefore simFault = "kill-before" // the process dies, and nothing happened
	simKillAfter  simFault = "kill-after"  // the process dies, after it took effect
	simStale      simFault = "stale"       // a list as it was some time ago
	simPart       simFault = "part"        // a list with entries missing
)

// simSpoils are the faults that fit a call, but for deaths.
var simSpoils = map[fault.Kind][]simFault{
	fault.Put:    {simErrBefore, simErrAfter, simErrLate},
	fault.Delete: {simErrBefore, simErrAfter, simErrLate, simLate},
	fault.Get:    {simErrBefore},
	fault.List:   {simErrBefore, simErrAfter, simStale, simPart},
}

// simUntil is how far a process runs before it waits again.
type simUntil string

const (
	simRound simUntil = "round" // to its next calls, if these may wait
	simWrite simUntil = "write" // to its next put, delete, or list of all packs or runs
	simLog   simUntil = "log"   // to the next entry that it would append, or delete
	simEnd   simUntil = "end"   // to its end
)

// simCall is a call of the backend that waits to be let on.
type simCall struct {
	kind fault.Kind
	name string
	size int64
	n    int // in the order of arrival
	on   chan simFault
}

// simClass orders calls that wait together. Names of packs and runs are random,
// so they come in the order of their sizes.
func simClass(name string) string {
	if strings.HasPrefix(name, "packs/") || strings.HasPrefix(name, "probe/") {
		return name[:5]
	}
	return name
}

func (c *simCall) compare(d *simCall) int {
	return cmp.Or(cmp.Compare(c.kind, d.kind), cmp.Compare(simClass(c.name), simClass(d.name)),
		cmp.Compare(c.size, d.size), cmp.Compare(c.n, d.n))
}

func (c *simCall) writes() bool { return c.kind == fault.Put || c.kind == fault.Delete }

// waits tells whether a call stops a process that runs until some point. Reads of
// index runs and, but for restores, of packs never do: the engine makes them with a
// lock held on which its other goroutines would wait, and the scheduler would not
// see that all stands still. The same goes for the log once something was missed.
func (p *simProc) waits(c *simCall) bool {
	appends := c.kind == fault.Put && strings.HasPrefix(c.name, "log/")
	switch p.until {
	case simEnd:
		return false
	case simLog:
		return appends || c.kind == fault.Delete && !strings.HasPrefix(c.name, "probe/")
	case simWrite:
		return c.writes() || c.kind == fault.List && (c.name == "packs/" || c.name == "index/")
	}
	switch {
	case c.writes():
		return true
	case p.missed || strings.HasPrefix(c.name, "index/") && len(c.name) > len("index/"):
		return false
	case strings.HasPrefix(c.name, "packs/") && c.kind == fault.Get:
		return p.what == "restore"
	}
	return true
}

// simProc is one command of a machine: a process that lives until it is done or is
// killed. It is the backend of its session.
type simProc struct {
	w      *simWorld
	m      *simMachine
	what   string
	n      int
	home   string
	files  map[string]string // of the source, when the process began
	ctx    context.Context
	cancel context.CancelFunc

	ticks atomic.Int64 // its clock moves each time it is read

	mu      sync.Mutex // guards the rest
	until   simUntil
	waiting []*simCall
	calls   int
	dead    bool
	missed  bool       // it did not find an object
	spoilt  bool       // a call of it was spoilt
	packs   []chunk.ID // that it stored
	done    bool
	err     error
	entry   bool // an entry of it is in the log
}

// call makes a call wait for its turn, and tells what is to go wrong with it.
func (p *simProc) call(kind fault.Kind, name string, size int64) (simFault, error) {
	p.mu.Lock()
	if p.dead {
		p.mu.Unlock()
		return "", fmt.Errorf("%s %s: %w", kind, name, fault.ErrKilled)
	}
	p.calls++
	c := &simCall{kind: kind, name: name, size: size, n: p.calls}
	if !p.waits(c) {
		p.mu.Unlock()
		return "", nil
	}
	c.on = make(chan simFault, 1)
	p.waiting = append(p.waiting, c)
	p.mu.Unlock()
	f := <-c.on
	if f == simKillBefore {
		return f, fmt.Errorf("%s %s: %w", kind, name, fault.ErrKilled)
	}
	if f == simErrBefore {
		return f, fmt.Errorf("%s %s: %w", kind, name, fault.ErrInjected)
	}
	return f, nil
}

// end is what a call returns that took effect with err.
func (p *simProc) end(f simFault, kind fault.Kind, name string, err error) error {
	switch f {
	case simKillAfter:
		return fmt.Errorf("%s %s: %w", kind, name, fault.ErrKilled)
	case simErrAfter:
		return fmt.Errorf("%s %s: %w", kind, name, fault.ErrInjected)
	}
	if errors.Is(err, backend.ErrNotFound) && !strings.HasPrefix(name, "log/") && !strings.HasPrefix(name, "bundle/") {
		p.mu.Lock()
		p.missed = true
		p.mu.Unlock()
	}
	return err
}

// Put implements [backend.Backend].
func (p *simProc) Put(ctx context.Context, name string, body io.ReaderAt, size int64) error {
	f, err := p.call(fault.Put, name, size)
	if err != nil {
		return err
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(io.NewSectionReader(body, 0, size), data); err != nil {
		return err
	}
	if f == simErrLate {
		p.w.late = append(p.w.late, func() { p.w.put(p, name, data) })
		return fmt.Errorf("put %s: %w", name, fault.ErrInjected)
	}
	return p.end(f, fault.Put, name, p.w.put(p, name, data))
}

// Delete implements [backend.Backend].
func (p *simProc) Delete(ctx context.Context, name string) error {
	f, err := p.call(fault.Delete, name, 0)
	if err != nil {
		return err
	}
	if f == simErrLate || f == simLate {
		p.w.oracle.mayDelete(p, name)
		p.w.late = append(p.w.late, func() { p.w.delete(p, name) })
		if f == simLate {
			return nil
		}
		return fmt.Errorf("delete %s: %w", name, fault.ErrInjected)
	}
	p.w.oracle.mayDelete(p, name)
	return p.end(f, fault.Delete, name, p.w.delete(p, name))
}

// Get implements [backend.Backend].
func (p *simProc) Get(ctx context.Context, name string, off, length int64) (io.ReadCloser, error) {
	f, err := p.call(fault.Get, name, length)
	if err != nil {
		return nil, err
	}
	r, err := p.w.vault.Get(ctx, name, off, length)
	if err := p.end(f, fault.Get, name, err); err != nil {
		return nil, err
	}
	return r, nil
}

// List implements [backend.Backend].
func (p *simProc) List(ctx context.Context, prefix string) iter.Seq2[backend.Info, error] {
	return func(yield func(backend.Info, error) bool) {
		f, err := p.call(fault.List, prefix, 0)
		if err != nil {
			yield(backend.Info{}, err)
			return
		}
		n := 0
		for _, info := range p.w.list(prefix, f == simStale) {
			n++
			if f == simPart && n%3 == 0 {
				continue
			}
			if !yield(info, nil) {
				return
			}
		}
		if err := p.end(f, fault.List, prefix, nil); err != nil {
			yield(backend.Info{}, err)
		}
	}
}

// Close implements [backend.Backend].
func (p *simProc) Close() error { return nil }

// next takes the calls that are let on next: one write, or all reads that wait, so
// that all of those see the same vault.
func (p *simProc) next() []*simCall {
	p.mu.Lock()
	defer p.mu.Unlock()
	slices.SortFunc(p.waiting, (*simCall).compare)
	n := len(p.waiting)
	if i := slices.IndexFunc(p.waiting, (*simCall).writes); i >= 0 {
		// Writes go first: whoever reads beside them must bear with either.
		c := p.waiting[i]
		p.waiting = slices.Delete(p.waiting, i, i+1)
		return []*simCall{c}
	}
	all := slices.Clone(p.waiting[:n])
	p.waiting = nil
	return all
}

// upNext is the kind of call that is let on next.
func (p *simProc) upNext() fault.Kind {
	p.mu.Lock()
	defer p.mu.Unlock()
	slices.SortFunc(p.waiting, (*simCall).compare)
	for _, c := range p.waiting {
		if c.writes() {
			return c.kind
		}
	}
	if len(p.waiting) == 0 {
		return ""
	}
	return p.waiting[0].kind
}

// idle tells whether a process has ended, and how many of its calls wait.
func (p *simProc) idle() (done bool, waiting int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.done, len(p.waiting)
}

// stands tells whether the process waits where it is told to run to: none of its
// calls is to be let on.
func (p *simProc) stands() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !slices.ContainsFunc(p.waiting, func(c *simCall) bool { return !p.waits(c) })
}
