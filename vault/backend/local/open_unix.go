//go:build unix

package local

import (
	"os"
	"syscall"
)

// openObject opens a file for reading. It follows no symbolic link in the last
// component, and does not wait for a FIFO's writer.
func openObject(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
}
