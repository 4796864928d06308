package agent

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A run that is damaged in the vault itself is not fetched again and again, also
// where the filter of a time when it was whole is still there.
func TestDamagedRunWithFilter(t *testing.T) {
	r := newRig(t)
	rng := rand.New(rand.NewPCG(51, 52))
	var last string
	for i := range 300 {
		last = noise(rng, 300)
		r.write(fmt.Sprintf("%03d", i), last)
	}
	r.clean()
	r.clean() // makes the filter
	for _, f := range r.cacheFiles() {
		if strings.Contains(f, "/objects/index/") {
			must(t, os.Remove(f))
		}
	}
	runs, err := filepath.Glob(filepath.Join(r.vault, "index", "*"))
	if err != nil || len(runs) != 1 {
		t.Fatal(runs, err)
	}
	r.write("again", last)
	size, err := os.Stat(runs[0])
	must(t, err)
	for at := int64(0); at < size.Size(); at += 1 + size.Size()/12 {
		p := r.fork()
		run := filepath.Join(p.vault, "index", filepath.Base(runs[0]))
		b, err := os.ReadFile(run)
		must(t, err)
		b[at] ^= 1
		must(t, os.WriteFile(run, b, 0o600))
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if _, err := p.try(ctx, BackupOptions{}); ctx.Err() != nil {
			t.Fatalf("byte %d of %d: it never ends: %v", at, size.Size(), err)
		}
	}
}
