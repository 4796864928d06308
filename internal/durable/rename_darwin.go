package durable

import (
	"os"

	"golang.org/x/sys/unix"
)

// renameNoReplace renames a file to a free name. It is an
// errors.ErrUnsupported (ENOTSUP) where the file system lacks it.
func renameNoReplace(from, to string) error {
	for {
		err := unix.RenamexNp(from, to, unix.RENAME_EXCL)
		if err == nil {
			return nil
		}
		if err != unix.EINTR {
			return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
		}
	}
}
