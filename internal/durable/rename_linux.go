package durable

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// renameNoReplace renames a file to a free name. It is an
// errors.ErrUnsupported where the kernel or the file system (NFS, some FUSE)
// lacks it.
func renameNoReplace(from, to string) error {
	for {
		err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
		switch err {
		case nil:
			return nil
		case unix.EINTR:
			continue
		case unix.EINVAL: // what a file system says to a flag that it does not know
			return errors.ErrUnsupported
		}
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
}
