package home

import (
	"fmt"
	"io/fs"
)

// ExposedError is returned where others than its owner have rights on a key, or on
// a folder that it lies in: the key opens every backup, so it is not used.
type ExposedError struct {
	Path   string
	Folder bool   // Path is a folder
	What   string // "can be read by others (mode 0644)"
	Fix    string // the command that mends it
}

// Error implements error.
func (e *ExposedError) Error() string {
	kind := "key file"
	if e.Folder {
		kind = "folder of keys"
	}
	return fmt.Sprintf("%s %s %s", kind, e.Path, e.What)
}

// Rights that nobody but the owner may have: any on a key and its folder; on the
// home, which may hold things for others to see, those to change names in it.
const (
	othersAny   fs.FileMode = 0o077
	othersWrite fs.FileMode = 0o022
)
