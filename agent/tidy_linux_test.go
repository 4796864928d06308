package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestCacheStaysSmall backs up with a change each time and counts the manifest
// packs in the cache: only those that the newest manifest needs may stay.
func TestCacheStaysSmall(t *testing.T) {
	r := newRig(t)
	jobs := maxKeptPacks + 6
	for i := range jobs {
		noErr(t, os.WriteFile(filepath.Join(r.src, "file"), fmt.Appendf(nil, "content %d", i), 0o600))
		r.clean()
	}
	noErr(t, r.session(t.Context(), func(s *Session) error {
		n, err := s.objects.Count("packs/")
		if n > maxKeptPacks/2 {
			t.Errorf("the cache keeps %d manifest packs after %d jobs", n, jobs)
		}
		return err
	}))
}
