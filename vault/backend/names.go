package backend

import (
	"errors"
	"fmt"
)

var errEmptyComponent = errors.New("empty component")

// CheckName tells what is wrong with name as an object's: it is one or more
// components of [a-z0-9] joined by single slashes, of at most MaxNameBytes in
// all. Such a name is the same on every backend, file system and URL, and
// can't leave the folder it is put below.
func CheckName(name string) error {
	if err := checkPath(name); err != nil {
		return fmt.Errorf("object name %q: %w", clip(name), err)
	}
	if name == "" || name[len(name)-1] == '/' {
		return fmt.Errorf("object name %q: %w", clip(name), errEmptyComponent)
	}
	return nil
}

// CheckPrefix tells what is wrong with prefix as the start of an object's name,
// as List takes it. The empty one is right.
func CheckPrefix(prefix string) error {
	if err := checkPath(prefix); err != nil {
		return fmt.Errorf("object prefix %q: %w", clip(prefix), err)
	}
	return nil
}

// checkPath checks all but the end of a name.
func checkPath(s string) error {
	if len(s) > MaxNameBytes {
		return fmt.Errorf("%d bytes, at most %d are allowed", len(s), MaxNameBytes)
	}
	slash := true // whether a component is yet to begin
	for i := range len(s) {
		switch c := s[i]; {
		case c == '/' && slash:
			return errEmptyComponent
		case c == '/':
			slash = true
		case 'a' <= c && c <= 'z' || '0' <= c && c <= '9':
			slash = false
		default:
			return fmt.Errorf("byte 0x%02x is not of [a-z0-9/]", c)
		}
	}
	return nil
}

// clip shortens a name for an error.
func clip(s string) string {
	if len(s) <= MaxNameBytes {
		return s
	}
	return s[:MaxNameBytes] + "..."
}
