package agent

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tharsis-backup/tharsis/internal/disk"
)

// mostDescriptors is what the agent may hold open beside what any program does: the
// least that systems allow is 256, and some services get 64.
const mostDescriptors = 56

// TestFaultOpenFiles backs up and restores what holds most files open: many files
// whose content lies in several places of the vault, so that each is open from its
// first piece to its last, in folders as deep as they are many.
func TestFaultOpenFiles(t *testing.T) {
	r := newRig(t)
	rng := rand.New(rand.NewPCG(81, 82))
	common := noise(rng, 300<<10) // several chunks, that all the files share
	deep := ""
	for i := range 150 {
		dir := fmt.Sprint("wide-", i)
		if i%2 == 0 {
			deep = filepath.Join(deep, fmt.Sprint("d", i))
			dir = deep
		}
		noErr(t, os.MkdirAll(filepath.Join(r.src, dir), 0o755))
		r.write(filepath.Join(dir, "file"), common+noise(rng, 100<<10))
	}
	before := len(openNow())
	var most atomic.Int64
	restore := disk.SetHook(func(disk.Call) error {
		n := int64(len(openNow()) - before)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		return nil
	})
	defer restore()
	point := r.backup(BackupOptions{}).Point
	if n := most.Swap(0); n > mostDescriptors {
		t.Errorf("the backup held %d files open", n)
	} else {
		t.Logf("the backup held %d files open", n)
	}
	r.restored(point)
	if n := most.Load(); n > mostDescriptors {
		t.Errorf("the restore held %d files open", n)
	} else {
		t.Logf("the restore held %d files open", n)
	}
}

// openNow are the descriptors that this process has open, less those that look.
func openNow() (paths []string) {
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		if path, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && !strings.HasPrefix(path, "/proc/") {
			paths = append(paths, path)
		}
	}
	return paths
}
