package durable

import (
	"fmt"

	"github.com/tharsis-backup/tharsis/internal/hook"
)

// Op is a kind of step, named after what it does to the disk.
type Op string

// The steps. Path is the temporary file's where there is one; for OpPublish and
// OpReplace the final one; for the others the file or folder itself.
const (
	OpCreate  Op = "create"  // a temporary file is made
	OpWrite   Op = "write"   // its first bytes are written; later writes are no steps
	OpSync    Op = "sync"    // a file is synced
	OpPublish Op = "publish" // a temporary file gets its final name, which must be free
	OpReplace Op = "replace" // a temporary file gets its final name, in place of an older file
	OpRemove  Op = "remove"  // a file is removed, also a temporary one after an error
	OpMkdir   Op = "mkdir"   // a folder is made
	OpSyncDir Op = "syncdir" // a folder is synced
)

// Step is a moment right before or right after one change of the disk.
type Step struct {
	Op    Op
	Path  string
	After bool
}

// String gives "sync /path before" or "sync /path after".
func (s Step) String() string {
	when := "before"
	if s.After {
		when = "after"
	}
	return fmt.Sprintf("%s %s %s", s.Op, s.Path, when)
}

// Hook is told of every step of the process, at the same time from several
// goroutines. An error before a step is returned in its place; an error after
// it is returned although it was done. A hook may also end the process, or
// return errors from some step on: as cleaning up consists of steps too, the
// disk is then left as a kill at that step would leave it.
type Hook func(Step) error

var point hook.Point[Hook]

// SetHook sets the hook of this process, for tests, and returns what puts the
// former one back. A nil hook is none.
func SetHook(h Hook) (restore func()) { return point.Set(h, h != nil) }

// step does one change of the disk, between the two calls of the hook.
func step(op Op, path string, do func() error) error {
	h := point.Load()
	if h == nil {
		return do()
	}
	if err := (*h)(Step{Op: op, Path: path}); err != nil {
		return fmt.Errorf("%s %s: %w", op, path, err)
	}
	if err := do(); err != nil {
		return err
	}
	if err := (*h)(Step{Op: op, Path: path, After: true}); err != nil {
		return fmt.Errorf("%s %s: %w", op, path, err)
	}
	return nil
}
