package agent

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// smallTree fills the source with files of every size class and folders.
func (r *rig) smallTree() {
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 40 {
		r.write(fmt.Sprintf("d%d/f%02d", i%7, i), noise(rng, 100*i))
	}
	r.write("d1/empty", "")
	r.write("d1/medium", noise(rng, 60<<10))
	r.write("d2/large", noise(rng, 700<<10))
	r.write("d2/largest", noise(rng, 5<<20)) // more extents than an entry holds
}

func TestNothingNew(t *testing.T) {
	r := newRig(t)
	r.smallTree()
	first := r.clean()
	if first.FilesNew != 44 || first.BytesAdded != first.BytesRead || first.BytesRead < 5<<20 {
		t.Fatalf("first: %+v", first)
	}
	before := r.vaultBytes()
	for range 3 {
		res := r.clean()
		if res.BytesRead != 0 || res.BytesAdded != 0 || res.BytesStored != 0 || res.FilesUnmodified != 44 ||
			res.FilesNew+res.FilesChanged+res.FilesGone != 0 {
			t.Errorf("nothing new: %+v", res)
		}
		if r.root(res.Point) != r.root(first.Point) {
			t.Error("another manifest of the same state")
		}
	}
	if grown := r.vaultBytes() - before; grown > 3*4096 {
		t.Errorf("three jobs with nothing new added %d bytes", grown)
	}
}

// A rename or a move stores no content again, also of a folder with all in it,
// and also where the cache is gone.
func TestMoveStoresNothing(t *testing.T) {
	for _, wiped := range []bool{false, true} {
		r := newRig(t)
		r.smallTree()
		r.clean()
		noErr(t, os.Rename(filepath.Join(r.src, "d2"), filepath.Join(r.src, "d1", "moved")))
		noErr(t, os.Rename(filepath.Join(r.src, "d3", "f03"), filepath.Join(r.src, "f03 renamed")))
		if wiped {
			r.wipe()
		}
		before := r.vaultBytes()
		res := r.clean()
		if res.BytesAdded != 0 {
			t.Errorf("a move added %d bytes", res.BytesAdded)
		}
		if grown := r.vaultBytes() - before; grown > 64<<10 {
			t.Errorf("a move stored %d bytes", grown)
		}
		r.restored(res.Point)
	}
}

// Entries whose times are not older than the job that read them are read again,
// since a later write may have left them.
func TestRacyFilesAreReadAgain(t *testing.T) {
	r := newRig(t)
	r.ahead.Store(0)
	r.write("young", "12345")
	r.write("old", "123456789")
	noErr(t, os.Chtimes(filepath.Join(r.src, "old"), time.Time{}, time.Unix(1e9, 0))) // its ctime is young
	res := r.clean()
	if res.BytesRead != 14 {
		t.Fatalf("first: %+v", res)
	}
	for range 2 {
		if res = r.clean(); res.BytesRead != 14 || res.BytesAdded != 0 || res.FilesUnmodified != 2 {
			t.Errorf("racy: %+v", res)
		}
	}
	// A job that starts later finds them racy once more, as the one before read
	// them when they were young; the next one trusts it.
	r.ahead.Store(int64(10 * time.Second))
	if res = r.clean(); res.BytesRead != 14 {
		t.Errorf("last racy read: %+v", res)
	}
	if res = r.clean(); res.BytesRead != 0 {
		t.Errorf("no longer racy: %+v", res)
	}
}

func TestMetadataOnly(t *testing.T) {
	r := newRig(t)
	r.smallTree()
	r.clean()
	noErr(t, os.Chmod(filepath.Join(r.src, "d2", "large"), 0o600))
	noErr(t, os.Chmod(filepath.Join(r.src, "d2"), 0o700))
	when := time.Unix(123456789, 987654321)
	noErr(t, os.Chtimes(filepath.Join(r.src, "d3"), when, when))
	noErr(t, os.Chtimes(filepath.Join(r.src, "d1", "medium"), when, when))
	attr := strings.Repeat("value", 60)
	unix.Setxattr(filepath.Join(r.src, "d2", "largest"), "user.large", []byte(attr), 0)
	res := r.clean()
	// A large set of attributes is content of its own, with its names.
	if res.BytesAdded > int64(len(attr))+64 || res.FilesNew != 0 || res.FilesGone != 0 {
		t.Errorf("metadata only: %+v", res)
	}
	r.restored(res.Point)
	if res = r.clean(); res.BytesRead != 0 {
		t.Errorf("then nothing: %+v", res)
	}
}

// Of a large file with a small edit only the chunks around it are stored.
func TestSmallEditOfLargeFile(t *testing.T) {
	r := newRig(t)
	rng := rand.New(rand.NewPCG(3, 4))
	p := r.write("image", noise(rng, 8<<20))
	r.clean()
	f, err := os.OpenFile(p, os.O_WRONLY, 0)
	noErr(t, err)
	_, err = f.WriteAt([]byte("edited"), 3<<20)
	noErr(t, err)
	noErr(t, f.Close())
	res := r.clean()
	if res.BytesRead != 8<<20 || res.BytesAdded > 2*int64(smallCut.Max) {
		t.Errorf("small edit: %+v", res)
	}
	r.restored(res.Point)
	// An insertion at the start moves all that follows.
	b, err := os.ReadFile(p)
	noErr(t, err)
	noErr(t, os.WriteFile(p, append([]byte("inserted"), b...), 0o644))
	res = r.clean()
	if res.BytesAdded > 3*int64(smallCut.Max) {
		t.Errorf("insertion: %+v", res)
	}
	r.restored(res.Point)
}

// Files with equal content, in one job or two, of one machine or two, are
// stored once.
func TestDedupe(t *testing.T) {
	r := newRig(t)
	rng := rand.New(rand.NewPCG(5, 6))
	small, large := noise(rng, 5000), noise(rng, 1<<20)
	for i := range 5 {
		r.write(fmt.Sprintf("s%d", i), small)
		r.write(fmt.Sprintf("l%d", i), large)
	}
	if res := r.clean(); res.BytesAdded != int64(len(small)+len(large)) {
		t.Errorf("five times the same: %+v", res)
	}
	r.write("again/s", small)
	r.write("again/l", large)
	if res := r.clean(); res.BytesAdded != 0 || res.FilesNew != 2 {
		t.Errorf("the next job: %+v", res)
	}
	if res := r.peer("other").clean(); res.BytesAdded != 0 || res.FilesNew != 12 {
		t.Errorf("another machine: %+v", res)
	}
}

// A file with several names is read once a job, whatever the job finds changed.
func TestLinksAreReadOnce(t *testing.T) {
	r := newRig(t)
	rng := rand.New(rand.NewPCG(7, 8))
	for _, size := range []int{1000, 300 << 10} {
		p := r.write(fmt.Sprintf("a/%d", size), noise(rng, size))
		for i := range 4 {
			noErr(t, os.Link(p, filepath.Join(r.src, fmt.Sprintf("%d-%d", size, i))))
		}
	}
	res := r.clean()
	// Readers that meet two names at the same time may both read.
	if res.BytesAdded != 1000+300<<10 || res.BytesRead > 2*(1000+300<<10) {
		t.Errorf("links: %+v", res)
	}
	r.restored(res.Point)
	if res = r.clean(); res.BytesRead != 0 {
		t.Errorf("unchanged links: %+v", res)
	}
}
