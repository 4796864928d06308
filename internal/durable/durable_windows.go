package durable

import (
	"os"

	"golang.org/x/sys/windows"

	"github.com/tharsis-backup/tharsis/internal/disk"
)

// syncDir does nothing: Windows can't flush a folder's handle without the
// rights of an administrator. NTFS keeps names in a journal of its own, and
// renames here are written through, so the name of a file that was given one
// is on the disk.
func syncDir(string) error { return nil }

// renameNoReplace renames a file to a free name. MoveFileEx without
// MOVEFILE_REPLACE_EXISTING fails with ERROR_ALREADY_EXISTS on a taken one.
func renameNoReplace(from, to string) error {
	return moveFile(from, to, windows.MOVEFILE_WRITE_THROUGH)
}

func rename(from, to string) error {
	if err := disk.Check(disk.OpRename, to); err != nil {
		return err
	}
	return moveFile(from, to, windows.MOVEFILE_WRITE_THROUGH|windows.MOVEFILE_REPLACE_EXISTING)
}

func moveFile(from, to string, flags uint32) error {
	err := func() error {
		f, err := windows.UTF16PtrFromString(from)
		if err != nil {
			return err
		}
		t, err := windows.UTF16PtrFromString(to)
		if err != nil {
			return err
		}
		return windows.MoveFileEx(f, t, flags)
	}()
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}
