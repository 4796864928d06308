package target

import (
	"errors"
	"path"
	"strconv"
	"strings"
	"unicode/utf8"
)

// tempPrefix and tempSuffix make the names of unfinished files recognizable.
const (
	tempPrefix = ".tharsis-"
	tempSuffix = ".tmp"
)

// maxName is what Linux file systems allow a name, in bytes.
const maxName = 255

// maxExt is the longest extension that stays behind a copy's suffix; what is
// longer is no extension in anybody's eyes.
const maxExt = 32

var errName = errors.New("name is not allowed")

// checkName refuses what is not one component of a path.
func checkName(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > maxName ||
		strings.IndexByte(name, '/') >= 0 || strings.IndexByte(name, 0) >= 0 {
		return errName
	}
	return nil
}

func checkSuffix(s string) error {
	if len(s) > maxSuffix || strings.ContainsAny(s, "/\x00") {
		return errors.New("suffix of copies is too long or has a separator")
	}
	return nil
}

// tempName returns a name that no other call returns.
func (r *Root) tempName() string {
	var b [64]byte
	s := append(b[:0], r.temp...)
	s = strconv.AppendUint(s, r.seq.Add(1), 16)
	return string(append(s, tempSuffix...))
}

// copyName returns the n-th name (from 1) to try for a copy of name. A folder
// has no extension. The stem is cut where the whole would be too long, and not
// within a UTF-8 sequence.
func copyName(name, suffix string, n int, folder bool) string {
	ext := ""
	if !folder {
		ext = path.Ext(name)
	}
	if len(ext) > maxExt || len(ext) == len(name) || ext == "." {
		ext = ""
	}
	stem := name[:len(name)-len(ext)]
	if n > 1 {
		suffix += " " + strconv.Itoa(n)
	}
	if room := maxName - len(suffix) - len(ext); len(stem) > room {
		cut := room
		for cut > room-utf8.UTFMax && !utf8.RuneStart(stem[cut]) {
			cut--
		}
		stem = stem[:cut]
	}
	return stem + suffix + ext
}
