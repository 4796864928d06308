//go:build !unix

package home

import "io/fs"

// checkPrivate does nothing: files have no mode here, and what the folder of the
// home lets others do is the system's to say.
func checkPrivate(string, fs.FileInfo, fs.FileMode) error { return nil }
