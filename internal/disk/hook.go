package disk

import (
	"fmt"
	"os"

	"github.com/tharsis-backup/tharsis/internal/hook"
)

// Op is a kind of call.
type Op string

// The calls that can be made to fail.
const (
	OpCreate   Op = "create" // a file is made, emptied, or opened to be changed
	OpWrite    Op = "write"
	OpTruncate Op = "truncate"
	OpSync     Op = "sync" // of a file, or of a folder
	OpClose    Op = "close"
	OpMkdir    Op = "mkdir"
	OpRename   Op = "rename"
	OpLink     Op = "link"   // also a symbolic link, a device, a FIFO
	OpRemove   Op = "remove" // of a file, a folder, or a tree
	OpMeta     Op = "meta"   // owner, mode, times or attributes are set
)

// Call is one call that is about to be made.
type Call struct {
	Op   Op
	Path string   // the file or folder; of a restore's target the last name only; for OpRename and OpLink the new name
	File *os.File // of calls on an open file, else nil
}

// String gives "write /path".
func (c Call) String() string { return fmt.Sprintf("%s %s", c.Op, c.Path) }

// Hook is told of every call of the process before it is made, at the same time
// from several goroutines. Its error takes the place of the call, which is then
// not made, except that OpWrite writes half of what it should, and OpClose closes.
// The hook may itself change the file.
type Hook func(Call) error

var point hook.Point[Hook]

// SetHook sets the hook of this process, for tests, and returns what puts the
// former one back. A nil hook is none.
func SetHook(h Hook) (restore func()) { return point.Set(h, h != nil) }

// Check gives what the hook says to a call that the caller is about to make by
// other means than this package's.
func Check(op Op, path string) error { return check(op, path, nil) }

func check(op Op, path string, f *os.File) error {
	h := point.Load()
	if h == nil {
		return nil
	}
	if err := (*h)(Call{op, path, f}); err != nil {
		return &os.PathError{Op: string(op), Path: path, Err: err}
	}
	return nil
}
