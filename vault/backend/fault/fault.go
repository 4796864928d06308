// Package fault decorates a backend for tests: it counts and records the
// operations, and a plan decides before and after each of them what goes wrong.
//
// An operation is one call of Put, Get, List or Delete, whatever comes of it; Close
// is none. A List is one operation each time it is ranged over. With no plan the decorator does nothing but record.
//
// A Backend is safe for concurrent use, and so must be the plan. It is
// deterministic as far as its user is: operations are numbered in the order in
// which they begin, so of a program with one goroutine the same plan always
// hits the same call.
//
// A death is played so: the operation and all later ones give ErrKilled, as a
// process that is dead can do nothing any more. Together with a durable.Hook
// that fails from the same moment on, what is left behind is what a kill would
// leave. Operations that other goroutines are in the middle of take effect or
// not, as they would.
package fault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"

	"github.com/tharsis-backup/tharsis/vault/backend"
)

// Errors of operations that a plan spoilt.
var (
	ErrInjected = errors.New("injected fault")
	ErrKilled   = errors.New("killed here")
)

// Kind is a method of the backend.
type Kind string

// The kinds of operations.
const (
	Put    Kind = "put"
	Get    Kind = "get"
	List   Kind = "list"
	Delete Kind = "delete"
)

// Op is an operation, at the moment before or after it takes effect. After a
// Get means that the stream was opened; after a List that it is at its end.
type Op struct {
	N     int // from 0, in the order in which operations begin
	Kind  Kind
	Name  string // of the object, or the prefix
	After bool
}

// String gives "#7 put log/3 before".
func (o Op) String() string {
	when := "before"
	if o.After {
		when = "after"
	}
	return fmt.Sprintf("#%d %s %s %s", o.N, o.Kind, o.Name, when)
}

// Record is what became of an operation. Its Op is the moment before.
type Record struct {
	Op
	Off    int64 // of a Get
	Size   int64 // bytes: put, deleted (if it took effect), or asked for by a Get
	Err    error // as the caller got it; of a Get that of opening the stream
	Done   bool  // whether it returned
	Effect bool  // whether a Put or Delete took effect, whatever the caller got
}

// Backend is the decorator. Make one with New.
type Backend struct {
	inner backend.Backend

	mu      sync.Mutex
	plan    Plan
	dead    bool
	records []Record
	sizes   map[string]int64 // of objects put here, to tell of them when deleted
}

// New decorates inner. A nil plan lets all pass.
func New(inner backend.Backend, plan Plan) *Backend {
	return &Backend{inner: inner, plan: plan, sizes: map[string]int64{}}
}

// SetPlan replaces the plan, and brings a dead backend back to life, as a new
// process would. Numbers go on.
func (b *Backend) SetPlan(plan Plan) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.plan, b.dead = plan, false
}

// Kill makes all later operations give ErrKilled, until SetPlan.
func (b *Backend) Kill() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dead = true
}

// Count is the number of operations begun.
func (b *Backend) Count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.records)
}

// Ops is what was done, in the order of beginning.
func (b *Backend) Ops() []Record {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.records)
}

// Put creates an object, if the plan lets it.
func (b *Backend) Put(ctx context.Context, name string, body io.ReaderAt, size int64) error {
	op := b.begin(Record{Op: Op{Kind: Put, Name: name}, Size: size})
	a, err := b.ask(op)
	if err != nil {
		return b.end(op, err)
	}
	err = b.inner.Put(ctx, name, body, size)
	if err == nil {
		b.took(op, size)
		if a.kind == duplicatePut {
			err = b.inner.Put(ctx, name, body, size)
		}
	}
	return b.end(op, b.after(op, err))
}

// Delete removes an object, if the plan lets it.
func (b *Backend) Delete(ctx context.Context, name string) error {
	op := b.begin(Record{Op: Op{Kind: Delete, Name: name}})
	if _, err := b.ask(op); err != nil {
		return b.end(op, err)
	}
	size := b.sizeOf(ctx, name)
	err := b.inner.Delete(ctx, name)
	if err == nil {
		b.took(op, size)
	}
	return b.end(op, b.after(op, err))
}

// Get reads of an object, or of another, or less than was asked for.
func (b *Backend) Get(ctx context.Context, name string, off, length int64) (io.ReadCloser, error) {
	op := b.begin(Record{Op: Op{Kind: Get, Name: name}, Off: off, Size: length})
	a, err := b.ask(op)
	if err != nil {
		return nil, b.end(op, err)
	}
	from := name
	if a.kind == wrongObject {
		if from, err = b.other(ctx, name, a.name); err != nil {
			return nil, b.end(op, err)
		}
	}
	r, err := b.inner.Get(ctx, from, off, length)
	if err := b.end(op, b.after(op, err)); err != nil {
		if r != nil {
			r.Close()
		}
		return nil, err
	}
	if a.kind == shortRead {
		r = &shortReader{ReadCloser: r, left: a.n, err: a.err}
	}
	return r, nil
}

// List yields the objects below prefix, or those that the plan lets through.
func (b *Backend) List(ctx context.Context, prefix string) iter.Seq2[backend.Info, error] {
	return func(yield func(backend.Info, error) bool) {
		op := b.begin(Record{Op: Op{Kind: List, Name: prefix}})
		a, err := b.ask(op)
		if err != nil {
			yield(backend.Info{}, b.end(op, err))
			return
		}
		seq := b.inner.List(ctx, prefix)
		if a.kind == cutList || a.kind == staleList {
			seq = b.spoil(seq, prefix, a)
		}
		for info, e := range seq {
			if e != nil {
				err = e
				break
			}
			if !yield(info, nil) {
				// Nobody listens, so an error of the plan is lost; a death is not.
				_ = b.end(op, b.after(op, nil))
				return
			}
		}
		if err := b.end(op, b.after(op, err)); err != nil {
			yield(backend.Info{}, err)
		}
	}
}

// Close closes the backend below.
func (b *Backend) Close() error { return b.inner.Close() }

// begin numbers and records an operation.
func (b *Backend) begin(r Record) Op {
	b.mu.Lock()
	defer b.mu.Unlock()
	r.N = len(b.records)
	b.records = append(b.records, r)
	return r.Op
}

// end records what an operation returns, and returns it.
func (b *Backend) end(op Op, err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.records[op.N].Err, b.records[op.N].Done = err, true
	return err
}

// took records that a Put or Delete of an object of size took effect.
func (b *Backend) took(op Op, size int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.records[op.N].Effect, b.records[op.N].Size = true, size
	if op.Kind == Put {
		b.sizes[op.Name] = size
	}
}

// after asks the plan about an operation that returned err.
func (b *Backend) after(op Op, err error) error {
	op.After = true
	if _, spoilt := b.ask(op); spoilt != nil {
		return spoilt
	}
	return err
}

// ask asks the plan what goes wrong at a moment, and does what concerns all
// kinds of operations.
func (b *Backend) ask(op Op) (Action, error) {
	b.mu.Lock()
	plan, dead := b.plan, b.dead
	b.mu.Unlock()
	if dead {
		return Action{}, fmt.Errorf("%s: %w", op, ErrKilled)
	}
	if plan == nil {
		return Action{}, nil
	}
	a := plan(op)
	switch a.kind {
	case fail:
		return a, fmt.Errorf("%s: %w", op, a.err)
	case kill:
		b.Kill()
		if a.do != nil {
			a.do()
		}
		return a, fmt.Errorf("%s: %w", op, ErrKilled)
	}
	return a, nil
}

// sizeOf is the size of an object, 0 where there is none.
func (b *Backend) sizeOf(ctx context.Context, name string) int64 {
	b.mu.Lock()
	size, ok := b.sizes[name]
	b.mu.Unlock()
	if ok {
		return size
	}
	for info, err := range b.inner.List(ctx, name) {
		if err == nil && info.Name == name {
			return info.Size
		}
	}
	return 0
}
