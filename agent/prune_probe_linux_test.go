package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestPruneProbes: a prune deletes the probes that are older than a day, by the store's
// time, and says so before.
func TestPruneProbes(t *testing.T) {
	p := newTimedWorld(t)
	p.backs(t, 0)
	p.wrap = nil // the store's own times
	p.later(-time.Until(p.now))
	dir := filepath.Join(p.vault, "probe")
	noErr(t, os.MkdirAll(dir, 0o700))
	var names []string
	for i, age := range []time.Duration{20 * 24 * time.Hour, 25 * time.Hour, 23 * time.Hour, 0} {
		name := filepath.Join(dir, strings.Repeat(string(rune('a'+i)), 32))
		noErr(t, os.WriteFile(name, []byte("first"), 0o600))
		noErr(t, os.Chtimes(name, p.now.Add(-age), p.now.Add(-age)))
		names = append(names, name)
	}
	for _, dry := range []bool{true, false} {
		if res := p.must(t, PruneOptions{Confirm: true, DryRun: dry}); res.Swept != 2 || res.FreedBytes != 10 {
			t.Errorf("dry run %v: %+v", dry, res)
		}
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) != 2 || left[0] != names[2] || left[1] != names[3] {
		t.Errorf("left: %v, %v", left, err)
	}
	if res := p.must(t, PruneOptions{Confirm: true}); res.Swept != 0 {
		t.Errorf("once more: %+v", res)
	}
}
