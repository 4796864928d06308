package backend_test

import (
	"path"
	"regexp"
	"strings"
	"testing"

	"github.com/tharsis-backup/tharsis/vault/backend"
)

var (
	rightName   = regexp.MustCompile(`^[a-z0-9]+(/[a-z0-9]+)*$`)
	rightPrefix = regexp.MustCompile(`^([a-z0-9]+/)*[a-z0-9]*$`)
)

var nameSeeds = []string{
	"", "a", "/", "a/", "/a", "a/b", "a//b", "packs/3f/3fa2", "..", "a/../b", "A", "a\x00", "ä", "a\n", "a b", "con",
	strings.Repeat("a", backend.MaxNameBytes), strings.Repeat("a", backend.MaxNameBytes+1), strings.Repeat("a/", 64),
}

// checkNames compares the checks with what their docs say.
func checkNames(t *testing.T, s string) {
	fits := len(s) <= backend.MaxNameBytes
	if got, want := backend.CheckName(s) == nil, fits && rightName.MatchString(s); got != want {
		t.Errorf("CheckName(%q): right %v, want %v", s, got, want)
	}
	if got, want := backend.CheckPrefix(s) == nil, fits && rightPrefix.MatchString(s); got != want {
		t.Errorf("CheckPrefix(%q): right %v, want %v", s, got, want)
	}
	if err := backend.CheckName(s); err != nil {
		if len(err.Error()) > 5*backend.MaxNameBytes {
			t.Errorf("CheckName(%q...): an error of %d bytes", s[:10], len(err.Error()))
		}
		return
	}
	if path.Clean("/x/"+s) != "/x/"+s {
		t.Errorf("%q is no clean path below a folder", s)
	}
	for i := range len(s) + 1 {
		if err := backend.CheckPrefix(s[:i]); err != nil {
			t.Errorf("a start of the right name %q: %v", s, err)
		}
	}
}

func TestNames(t *testing.T) {
	for _, s := range nameSeeds {
		checkNames(t, s)
	}
	for c := range 256 {
		checkNames(t, string([]byte{byte(c)}))
		checkNames(t, string([]byte{'a', byte(c), 'b'}))
	}
}

func FuzzCheckName(f *testing.F) {
	for _, s := range nameSeeds {
		f.Add(s)
	}
	f.Fuzz(checkNames)
}
