package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// smallDisk mounts a file system of this size in memory at dir.
func smallDisk(t *testing.T, dir string, bytes int) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", bytes)); err != nil {
		t.Skipf("cannot mount a small file system: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
}

// fill takes all room of a disk but for so much.
func fill(t *testing.T, dir string, leave int) {
	t.Helper()
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	n := int64(st.Bfree)*st.Bsize - int64(leave)
	if n < 0 {
		t.Fatalf("%s has less than %d bytes left", dir, leave)
	}
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 4096)
	for ; n >= 4096; n -= 4096 {
		if _, err := f.Write(block); err != nil {
			t.Fatal(err)
		}
	}
}

func empty(t *testing.T, dir string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, "filler")); err != nil {
		t.Fatal(err)
	}
}

// levels of free space, in blocks: some for each stage of a job.
var fullLevels = []int{0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64}

// TestFaultFull runs jobs on a vault, and then with a home, that has less and less
// room: each job that does not fit ends with one error that says so, nothing is
// broken, and when there is room again the next one works.
func TestFaultFull(t *testing.T) {
	ctx := t.Context()
	for _, what := range []string{"vault", "home"} {
		t.Run(what, func(t *testing.T) {
			r := newFaultRig(t)
			w := r.world("box")
			disk := w.vault
			if what == "home" {
				disk = w.home
			}
			smallDisk(t, disk, 12<<20)
			if err := w.init(ctx); err != nil {
				t.Fatal(err)
			}
			failed := 0
			s := &faultScript{r: r, w: w}
			for i, level := range fullLevels {
				r.edit(r.fresh(i%3, 60_000))
				fill(t, disk, level<<12)
				_, err := w.backup(ctx, r.src)
				empty(t, disk)
				switch {
				case err == nil:
					s.acked = append(s.acked, r.at)
				case !errors.Is(err, syscall.ENOSPC):
					t.Errorf("%d blocks left: %v", level, err)
				default:
					failed++
				}
				if err := s.recovers(ctx); err != nil {
					t.Fatalf("%d blocks left: %v", level, err)
				}
				points, err := w.points(ctx)
				if err != nil {
					t.Fatal(err)
				}
				for len(s.acked) < len(points) {
					s.acked = append(s.acked, r.at)
				}
			}
			if failed < 5 || failed == len(fullLevels) {
				t.Errorf("%d of %d jobs failed", failed, len(fullLevels))
			}
			t.Logf("%d of %d jobs failed", failed, len(fullLevels))
		})
	}
}

// TestFaultFullPart lets the journal alone, and the spool alone, lie on a disk that
// is full.
func TestFaultFullPart(t *testing.T) {
	ctx := t.Context()
	for _, part := range []string{"journal", "spool"} {
		r := newFaultRig(t)
		w := r.world("box")
		w.notes = &faultNotes{}
		disk := filepath.Join(r.root, "disk")
		smallDisk(t, disk, 6<<20)
		if err := w.init(ctx); err != nil {
			t.Fatal(err)
		}
		r.edit(0)
		if _, err := w.backup(ctx, r.src); err != nil {
			t.Fatal(err)
		}
		caches, err := filepath.Glob(filepath.Join(w.home, "cache", "*"))
		if err != nil || len(caches) != 1 {
			t.Fatal(caches, err)
		}
		there := filepath.Join(caches[0], part)
		failed := 0
		s := &faultScript{r: r, w: w, acked: []int{0}, mayWarn: true}
		for _, level := range []int{0, 1, 2, 3} {
			// Where the part lies is decided anew: it may be removed after a job.
			if part == "spool" {
				if err := os.MkdirAll(filepath.Join(disk, part), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(os.RemoveAll(there), os.Symlink(filepath.Join(disk, part), there)); err != nil {
				t.Fatal(err)
			}
			// So many small files that the journal takes several blocks.
			tree := faultTree{}
			for k, n := range r.states[level%3] {
				tree[k] = n
			}
			for i := range 300 {
				tree[fmt.Sprint("small-", i)] = faultNode{kind: 'f', data: fmt.Sprint(level, " of ", i), mode: 0o644, tick: 5000 + 1000*level + i}
			}
			r.states = append(r.states, tree)
			r.keep(tree)
			r.edit(len(r.states) - 1)
			fill(t, disk, level<<12)
			_, err := w.backup(ctx, r.src)
			empty(t, disk)
			switch {
			case err == nil:
				s.acked = append(s.acked, r.at)
			case !errors.Is(err, syscall.ENOSPC):
				t.Errorf("%s, %d blocks left: %v", part, level, err)
			default:
				failed++
			}
			if err := s.recovers(ctx); err != nil {
				t.Fatalf("%s, %d blocks left: %v", part, level, err)
			}
			points, err := w.points(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for len(s.acked) < len(points) {
				s.acked = append(s.acked, r.at)
			}
		}
		if failed == 0 {
			t.Errorf("%s: all jobs found room", part)
		}
		t.Logf("%s: %d jobs failed", part, failed)
	}
}

// TestFaultFullInit makes a vault on a disk with too little room.
func TestFaultFullInit(t *testing.T) {
	ctx := t.Context()
	for _, what := range []string{"vault", "home"} {
		r := newFaultRig(t)
		w := r.world("box")
		disk := w.vault
		if what == "home" {
			disk = w.home
		}
		smallDisk(t, disk, 1<<20)
		r.edit(0)
		failed := 0
		for level := range 12 {
			fill(t, disk, level<<12)
			err := w.init(ctx)
			empty(t, disk)
			if err == nil {
				break
			}
			if errors.Is(err, ErrVaultExists) {
				break // the vault was made, and the home could not take it: the next command does
			}
			if failed++; !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("%s, %d blocks left: %v", what, level, err)
			}
		}
		if failed == 0 {
			t.Errorf("%s: init always found room", what)
		}
		s := &faultScript{r: r, w: w, pass: []string{faultPass}, keys: true}
		if err := s.recovers(ctx); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestFaultFullTarget restores to a disk that is too small, and again when there
// is room.
func TestFaultFullTarget(t *testing.T) {
	ctx := t.Context()
	r := newFaultRig(t)
	w := r.world("box")
	if err := w.init(ctx); err != nil {
		t.Fatal(err)
	}
	r.edit(0)
	if _, err := w.backup(ctx, r.src); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(r.root, "target")
	smallDisk(t, target, 4<<20)
	failed := 0
	for _, level := range []int{0, 1, 3, 8, 20, 60, 150, 250} {
		fill(t, target, level<<12)
		w.notes = &faultNotes{}
		_, err := w.restore(ctx, "latest", target)
		if err != nil {
			if failed++; !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("%d blocks left: %v", level, err)
			}
		}
		empty(t, target)
	}
	if failed == 0 {
		t.Error("all restores found room")
	}
	res, err := w.restore(ctx, "latest", target)
	if err != nil || res.Failed > 0 {
		t.Errorf("with room: %+v, %v", res, err)
	}
	if err := faultSame(r.want[0], filepath.Join(target, r.src)); err != nil {
		t.Errorf("with room: %v", err)
	}
	t.Logf("%d restores failed", failed)
}
