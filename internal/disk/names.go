package disk

import (
	"io/fs"
	"os"
	"path/filepath"
)

// Mkdir makes a folder.
func Mkdir(path string, perm fs.FileMode) error {
	if err := Check(OpMkdir, path); err != nil {
		return err
	}
	return os.Mkdir(path, perm)
}

// MkdirAll makes a folder and those above it that are missing.
func MkdirAll(path string, perm fs.FileMode) error {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil
	}
	if err := Check(OpMkdir, path); err != nil {
		return err
	}
	return os.MkdirAll(path, perm)
}

// Rename gives a file another name, in place of a file that had it.
func Rename(from, to string) error {
	if err := Check(OpRename, to); err != nil {
		return err
	}
	return os.Rename(from, to)
}

// Link gives a file a further name.
func Link(from, to string) error {
	if err := Check(OpLink, to); err != nil {
		return err
	}
	return os.Link(from, to)
}

// Remove removes a file or an empty folder.
func Remove(path string) error {
	if err := Check(OpRemove, path); err != nil {
		return err
	}
	return os.Remove(path)
}

// RemoveAll removes a file or a folder with all that is in it.
func RemoveAll(path string) error {
	if err := Check(OpRemove, path); err != nil {
		return err
	}
	return os.RemoveAll(path)
}

// Truncate sets the length of the file at path.
func Truncate(path string, size int64) error {
	if err := Check(OpTruncate, filepath.Clean(path)); err != nil {
		return err
	}
	return os.Truncate(path, size)
}

// Chmod sets the permissions of the file or folder at path.
func Chmod(path string, mode fs.FileMode) error {
	if err := Check(OpMeta, path); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}
