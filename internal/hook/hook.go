// Package hook is a place in a process where a test can be told of what happens, and can
// change it: each seam of the product for tests is one.
//
// An unset point costs one atomic load. All of it may be used by several goroutines.
package hook

import "sync/atomic"

// Point holds at most one hook of the type H, a function. The zero value holds none.
type Point[H any] struct{ set atomic.Pointer[H] }

// Set sets the hook, or takes it away where there is none, and returns what puts the
// former one back.
func (p *Point[H]) Set(h H, is bool) (restore func()) {
	var next *H
	if is {
		next = &h
	}
	former := p.set.Swap(next)
	return func() { p.set.Store(former) }
}

// Load is the hook, or nil.
func (p *Point[H]) Load() *H { return p.set.Load() }
