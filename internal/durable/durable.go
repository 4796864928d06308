// Package durable changes local files so that each change is whole and on the
// disk when the call returns, or did not happen. It is for the few files whose
// loss or tearing would matter (keys, the last head, objects of a local
// vault), not for bulk data: each call waits for the disk.
//
// A file is written under a temporary name (see [IsTemp]) in the same file
// system, synced, and only then given its name, so that a reader sees all of it
// or nothing. A process that dies leaves at most a temporary file, which
// [Sweep] removes. Each function names the system calls it makes, in order;
// [SetHook] lets a test stand before and after each of them.
//
// Files and folders get the permissions asked for, whatever the umask. On
// Windows permissions come from the parent folder, and folders are not synced
// (see syncDir there).
//
// Errors: an existing name is an fs.ErrExist, a full disk a syscall.ENOSPC, and
// so on, each wrapped with the step and its path. After an error the change
// may still have happened if the error came from the last step, the sync of the
// folder. A sync that failed is never tried again: the kernel may have dropped
// the data and marked it clean, so a second one could succeed without it.
//
// All functions may be called concurrently, also by several processes. Nothing
// here follows a policy about symbolic links: paths are the caller's own.
package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/tharsis-backup/tharsis/internal/disk"
)

// WriteFile makes data the content of the file at path, in place of an older
// one.
//
//	open(temp, O_CREAT|O_EXCL)  write  fsync  close  rename(temp, path)  fsync(folder)
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	t, err := CreateTemp(filepath.Dir(path), perm)
	if err != nil {
		return err
	}
	if _, err := t.Write(data); err != nil {
		t.Abort()
		return err
	}
	return t.Replace(path)
}

// CreateFile makes a file at path of the first size bytes of body. Where the
// name is taken it returns fs.ErrExist and changes nothing; of concurrent
// callers exactly one succeeds. A body that ends early is an
// io.ErrUnexpectedEOF, and nothing is made.
//
//	open(temp, O_CREAT|O_EXCL)  write...  fsync  close
//	renameat2(temp, path, RENAME_NOREPLACE), or link(temp, path) unlink(temp)  fsync(folder)
func CreateFile(path string, body io.ReaderAt, size int64, perm fs.FileMode) error {
	t, err := CreateTemp(filepath.Dir(path), perm)
	if err != nil {
		return err
	}
	if err := t.CopyFrom(body, size); err != nil {
		t.Abort()
		return err
	}
	return t.Publish(path)
}

// Mkdir makes one folder. An existing name is an fs.ErrExist, whose own
// durability is its maker's business (SyncDir the parent to be sure of it).
//
//	mkdir(path)  fsync(parent)
func Mkdir(path string, perm fs.FileMode) error {
	err := step(OpMkdir, path, func() error {
		if err := disk.Mkdir(path, perm.Perm()); err != nil {
			return err
		}
		return restorePerm(path, perm)
	})
	if err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// MkdirAll makes the folder at path and those above it that are missing, the
// highest first, each as Mkdir does. Folders already there stay as they are.
func MkdirAll(path string, perm fs.FileMode) error {
	path = filepath.Clean(path)
	switch info, err := os.Stat(path); {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return &fs.PathError{Op: "mkdir", Path: path, Err: syscall.ENOTDIR}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if parent := filepath.Dir(path); parent != path {
		if err := MkdirAll(parent, perm); err != nil {
			return err
		}
	}
	err := Mkdir(path, perm)
	if errors.Is(err, fs.ErrExist) {
		// Another made it since the Stat, and may not have synced it yet.
		if info, serr := os.Stat(path); serr == nil && info.IsDir() {
			return SyncDir(filepath.Dir(path))
		}
	}
	return err
}

// Remove removes a file or an empty folder. A missing one is an
// fs.ErrNotExist.
//
//	unlink(path)  fsync(folder)
func Remove(path string) error {
	if err := step(OpRemove, path, func() error { return disk.Remove(path) }); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// SyncFile makes what was written to f durable, for a file that grows in place
// such as a journal. After an error f's content is unknown: start a new file.
func SyncFile(f *disk.File) error {
	return step(OpSync, f.Name(), f.Sync)
}

// ErrNames is wrapped by the error of a sync of a folder: a name in it may come
// back, or go away, with the next power cut, whatever a later sync says.
var ErrNames = errors.New("names in it may not be on the disk")

// SyncDir makes the names in the folder at path durable, or returns ErrNames. A
// file system that can't sync folders is taken to keep names without it: there
// is nothing more to be done.
func SyncDir(path string) error {
	if err := step(OpSyncDir, path, func() error { return syncDir(path) }); err != nil {
		return fmt.Errorf("sync folder %s: %w: %w", path, ErrNames, err)
	}
	return nil
}

// restorePerm gives the new folder at path the bits that the umask took. Bits
// beyond perm are not taken away: only file systems without permissions (FAT)
// show any, and they refuse.
func restorePerm(path string, perm fs.FileMode) error {
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Perm()&perm.Perm() == perm.Perm() {
		return err
	}
	return disk.Chmod(path, perm.Perm())
}
