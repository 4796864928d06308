package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"strings"
)

// An entry's key is its path below the source's root: the components' raw bytes
// joined by 0x00, and nothing for the root itself (docs/FORMAT.md §8.1). Keys
// are compared as bytes, which puts a folder before what it holds, and all that
// before its next sibling.
const (
	// MaxKeyBytes bounds a key; it is more than any system hands out as a path.
	MaxKeyBytes = 65535
	// MaxNameBytes bounds one component: 255 UTF-16 units are at most 765 bytes
	// of WTF-8, 255 bytes the usual limit elsewhere.
	MaxNameBytes = 1024

	separator = 0x00
)

var errKey = errors.New("bad key")

// AppendChild appends to dst the key of the entry name in folder, and nothing else.
func AppendChild[T ~string | ~[]byte](dst, folder []byte, name T) []byte {
	dst = append(dst, folder...)
	if len(folder) > 0 {
		dst = append(dst, separator)
	}
	return append(dst, name...)
}

// Parent is the key of the folder that holds key; ok is false for the root. The
// result aliases key.
func Parent(key []byte) (folder []byte, ok bool) {
	if len(key) == 0 {
		return nil, false
	}
	return key[:max(bytes.LastIndexByte(key, separator), 0)], true
}

// Name is the last component of key, empty for the root. It aliases key.
func Name(key []byte) []byte { return key[bytes.LastIndexByte(key, separator)+1:] }

// Below tells whether key lies in folder or in a folder below it. A folder is
// not below itself.
func Below(key, folder []byte) bool {
	if len(folder) == 0 {
		return len(key) > 0
	}
	return len(key) > len(folder) && key[len(folder)] == separator && bytes.HasPrefix(key, folder)
}

// appendAfter appends the lowest key that is behind folder and all below it, to
// look things up by; it need not be a valid key. The root has none.
func appendAfter(dst, folder []byte) []byte {
	return append(append(dst, folder...), separator+1)
}

// Components gives the components of key, from the top. They alias key.
func Components(key []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for rest := key; len(rest) > 0; {
			name, tail, _ := bytes.Cut(rest, []byte{separator})
			if !yield(name) {
				return
			}
			rest = tail
		}
	}
}

// KeyOf is the key of a path below the source's root, its components separated
// by slashes; "" is the root. It rejects a path that is not in this form.
func KeyOf(path string) ([]byte, error) {
	if strings.IndexByte(path, separator) >= 0 {
		return nil, fmt.Errorf("%w: %q has a zero byte", errKey, path)
	}
	key := []byte(path)
	for i, c := range key {
		if c == '/' {
			key[i] = separator
		}
	}
	return key, ValidateKey(key)
}

// PathOf is the path of a key below the source's root, with slashes.
func PathOf(key []byte) string {
	return string(bytes.ReplaceAll(key, []byte{separator}, []byte{'/'}))
}

// ValidateKey tells what is wrong with a key.
func ValidateKey(key []byte) error {
	if len(key) > MaxKeyBytes {
		return fmt.Errorf("%w: %d bytes, at most %d", errKey, len(key), MaxKeyBytes)
	}
	if len(key) == 0 {
		return nil
	}
	return validateNames(key)
}

// ValidateName tells what is wrong with one component of a key.
func ValidateName(name []byte) error {
	if bytes.IndexByte(name, separator) >= 0 {
		return fmt.Errorf("%w: %q has a zero byte", errKey, name)
	}
	return validateNames(name)
}

// validateNames checks one or more components, joined.
func validateNames(names []byte) error {
	for {
		n := bytes.IndexByte(names, separator)
		name := names
		if n >= 0 {
			name = names[:n]
		}
		switch {
		case len(name) == 0:
			return fmt.Errorf("%w: empty component", errKey)
		case len(name) > MaxNameBytes:
			return fmt.Errorf("%w: component of %d bytes, at most %d", errKey, len(name), MaxNameBytes)
		case name[0] == '.' && (len(name) == 1 || len(name) == 2 && name[1] == '.'):
			return fmt.Errorf("%w: component %q", errKey, name)
		case bytes.IndexByte(name, '/') >= 0:
			return fmt.Errorf("%w: component %q has a slash", errKey, name)
		}
		if n < 0 {
			return nil
		}
		names = names[n+1:]
	}
}
