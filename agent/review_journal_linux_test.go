package agent

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/backend/fault"
)

// failPacks lets a job die before its first pack is stored: all that it read is
// in the journal, and none of it in the vault.
func failPacks(b backend.Backend) backend.Backend {
	return fault.New(b, func(op fault.Op) fault.Action {
		if op.Kind == fault.Put && strings.HasPrefix(op.Name, "packs/") {
			return fault.Kill(nil)
		}
		return fault.Action{}
	})
}

// A PARTIAL has nothing of what a killed job journaled and did not store, also
// where the walk of the job that resumes has not come to it.
func TestPartialDoesNotBelieveKilledJob(t *testing.T) {
	r := newRig(t)
	r.manyFiles(300)
	r.env.Wrap = failPacks
	if _, err := r.try(t.Context(), BackupOptions{}); err == nil {
		t.Fatal("not killed")
	}
	r.env.Wrap, r.env.PartialEvery = nil, time.Nanosecond
	r.cut(150)
	if r.partials() != 1 {
		t.Fatal("no PARTIAL")
	}
	r.wipe()
	r.env.PartialEvery = 0
	res := r.clean()
	r.verified()
	r.isFullScan(res.Point)
	r.restored(res.Point)
}

// What a killed job journaled of several sources is looked at again in each of
// them, whatever their order.
func TestResumeSeveralSources(t *testing.T) {
	r := newRig(t)
	rng := rand.New(rand.NewPCG(31, 32))
	var paths []string
	for i := range 8 {
		paths = append(paths, filepath.Join(r.src, fmt.Sprint(i)))
		for k := range 10 {
			r.write(fmt.Sprintf("%d/%d", i, k), noise(rng, fileBytes))
		}
	}
	o := BackupOptions{Paths: paths}
	r.env.Wrap = failPacks
	if _, err := r.try(t.Context(), o); err == nil {
		t.Fatal("not killed")
	}
	r.env.Wrap = nil
	for _, p := range paths {
		must(t, os.Remove(filepath.Join(p, "3")))
	}
	res := r.backup(o)
	r.verified()
	dir := r.restore(res.Point)
	for _, p := range paths {
		same(t, p, filepath.Join(dir, p))
	}
	for _, p := range paths {
		for k := range 10 {
			must(t, os.WriteFile(filepath.Join(p, fmt.Sprint(k)), []byte(noise(rng, fileBytes)), 0o644))
		}
	}
	r.env.Wrap = failCommits
	if _, err := r.try(t.Context(), o); err == nil {
		t.Fatal("not killed")
	}
	r.env.Wrap = nil
	if res = r.backup(o); res.BytesRead != 0 {
		t.Errorf("%d bytes of finished files were read again", res.BytesRead)
	}
	r.verified()
}

// A journal that is lost or spoilt under a running job makes no point that
// lacks what it said.
func TestJournalSpoiltUnderJob(t *testing.T) {
	for name, spoil := range map[string]func(path string){
		"removed": func(p string) { os.Remove(p) },
		"cut":     func(p string) { os.Truncate(p, 100) },
		"a bit": func(p string) {
			f, err := os.OpenFile(p, os.O_RDWR, 0)
			if err == nil {
				f.WriteAt([]byte{0xff, 0xff, 0xff}, 200)
				f.Close()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.manyFiles(30)
			first := true
			r.env.Wrap = func(b backend.Backend) backend.Backend {
				return fault.New(b, func(op fault.Op) fault.Action {
					if first && op.Kind == fault.Put && op.After && strings.HasPrefix(op.Name, "packs/") {
						first = false
						spoil(r.journal())
					}
					return fault.Action{}
				})
			}
			res, err := r.try(t.Context(), BackupOptions{})
			r.env.Wrap = nil
			if err == nil {
				r.restored(res.Point)
			}
			res = r.clean()
			r.isFullScan(res.Point)
			r.restored(res.Point)
		})
	}
}

// A pack of a killed job counts only if the vault has it: a copy in the cache
// says nothing about that.
func TestResumeAsksVaultForPacks(t *testing.T) {
	r := newRig(t)
	r.clean() // enrols the machine
	before := r.cacheFiles()
	r.manyFiles(30)
	r.env.Wrap = failCommits
	if _, err := r.try(t.Context(), BackupOptions{}); err == nil {
		t.Fatal("not killed")
	}
	r.env.Wrap = nil
	lost := 0
	for _, f := range r.cacheFiles() {
		if _, name, ok := strings.Cut(f, "/objects/packs/"); ok && !slices.Contains(before, f) {
			must(t, os.Remove(filepath.Join(r.vault, "packs", name)))
			lost++
		}
	}
	if lost == 0 {
		t.Fatal("no manifest pack was stored")
	}
	res := r.clean()
	r.verified()
	r.wipe()
	r.restored(res.Point)
}
