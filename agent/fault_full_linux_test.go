package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// fullLevels are 100 levels of free space, in blocks of 4 KiB: each of the first ones,
// where a job has room for some of its files and not for others.
func fullLevels() (levels []int) {
	for i := range 100 {
		levels = append(levels, max(i, 3*i-140))
	}
	return levels
}

// fullSample takes some of the levels, the emptiest and the fullest among them.
func fullSample(share int) (levels []int) {
	all := fullLevels()
	for _, i := range faultSample(len(all), 8/share) {
		levels = append(levels, all[i])
	}
	if levels[0] != 0 {
		levels = append([]int{0}, levels...)
	}
	if last := all[len(all)-1]; levels[len(levels)-1] != last {
		levels = append(levels, last)
	}
	return levels
}

// TestFaultFull runs jobs on a vault, and then with a home, that has less and less
// room: each job that does not fit ends with one error that says so, nothing is
// broken, and when there is room again the next one works.
func TestFaultFull(t *testing.T) {
	onSmallDisks(t, 96<<20, func(t *testing.T, r *faultRig, w *faultWorld, disk string, share int) {
		fullJobs(t, r, w, disk, fullSample(share))
	})
}

// onSmallDisks runs fn with a vault, and then with a home, that has a disk of its own of
// so many bytes, on each file system.
func onSmallDisks(t *testing.T, size int, fn func(t *testing.T, r *faultRig, w *faultWorld, disk string, share int)) {
	for _, disk := range faultFileSystems {
		for _, what := range []string{"vault", "home"} {
			t.Run(disk.name+" "+what, func(t *testing.T) {
				r := newFaultRig(t)
				w := r.world("box")
				dir := w.vault
				if what == "home" {
					dir = w.home
				}
				disk.mount(t, dir, size)
				fn(t, r, w, dir, disk.share)
			})
		}
	}
}

func fullJobs(t *testing.T, r *faultRig, w *faultWorld, disk string, levels []int) {
	ctx := t.Context()
	if err := w.init(ctx); err != nil {
		t.Fatal(err)
	}
	failed := 0
	s := &faultScript{r: r, w: w}
	for i, level := range levels {
		r.edit(r.fresh(i%3, 200_000))
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
		if left := w.left(); err != nil && left != nil {
			t.Errorf("%d blocks left: left behind: %v", level, left)
		}
		if err := s.recovers(ctx); err != nil {
			t.Fatalf("%d blocks left: %v", level, err)
		}
		s.told(ctx)
	}
	if failed == 0 || failed == len(levels) {
		t.Errorf("%d of %d jobs failed", failed, len(levels))
	}
	t.Logf("%d of %d jobs failed", failed, len(levels))
}

// told counts all points that are there as acknowledged.
func (s *faultScript) told(ctx context.Context) {
	s.r.t.Helper()
	points, err := s.w.points(ctx)
	if err != nil {
		s.r.t.Fatal(err)
	}
	for len(s.acked) < len(points) {
		s.acked = append(s.acked, s.r.at)
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
			s.told(ctx)
		}
		if failed == 0 {
			t.Errorf("%s: all jobs found room", part)
		}
		t.Logf("%s: %d jobs failed", part, failed)
	}
}

// TestFaultFullInit makes a vault on a disk with too little room.
func TestFaultFullInit(t *testing.T) {
	onSmallDisks(t, 4<<20, func(t *testing.T, r *faultRig, w *faultWorld, disk string, _ int) {
		fullInit(t, r, w, disk)
	})
}

func fullInit(t *testing.T, r *faultRig, w *faultWorld, disk string) {
	ctx := t.Context()
	r.edit(0)
	failed := 0
	for level := range 40 {
		fill(t, disk, level<<12)
		err := w.init(ctx)
		empty(t, disk)
		if err == nil || errors.Is(err, ErrVaultExists) {
			break // in the latter case the home could not take it: the next command does
		}
		if failed++; !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%d blocks left: %v", level, err)
		}
	}
	if failed == 0 {
		t.Error("init always found room")
	}
	s := &faultScript{r: r, w: w, pass: []string{faultPass}, keys: true}
	if err := s.recovers(ctx); err != nil {
		t.Error(err)
	}
}

// TestFaultFullTarget restores to a disk that is too small, and again when there is
// room. What is there after a failure is whole, and under no temporary name.
func TestFaultFullTarget(t *testing.T) {
	for _, disk := range faultFileSystems {
		t.Run(disk.name, func(t *testing.T) {
			r := newFaultRig(t)
			w := r.world("box")
			target := filepath.Join(r.root, "target")
			disk.mount(t, target, 8<<20)
			fullTarget(t, r, w, target, fullSample(disk.share))
		})
	}
}

func fullTarget(t *testing.T, r *faultRig, w *faultWorld, target string, levels []int) {
	ctx := t.Context()
	if err := w.init(ctx); err != nil {
		t.Fatal(err)
	}
	r.edit(0)
	if _, err := w.backup(ctx, r.src); err != nil {
		t.Fatal(err)
	}
	got := filepath.Join(target, r.src)
	top := filepath.Join(target, strings.Split(r.src, "/")[1])
	failed := 0
	for _, level := range levels {
		level *= 2 // the source has some 250 blocks
		fill(t, target, level<<12)
		res, err := w.restore(ctx, "latest", target)
		if err != nil {
			if failed++; !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("%d blocks left: %v", level, err)
			}
		}
		if err := wholeFiles(r.want[0], got); err != nil {
			t.Errorf("%d blocks left: %v", level, err)
		}
		empty(t, target)
		if err == nil {
			if err := faultSame(r.want[0], got); err != nil || res.Failed > 0 {
				t.Errorf("%d blocks left: %+v, %v", level, res, err)
			}
		} else if level%3 == 0 { // on top of what is there
			res, err := w.restore(ctx, "latest", target)
			if err == nil {
				err = faultSame(r.want[0], got)
			}
			if err != nil || res.Failed > 0 {
				t.Errorf("%d blocks left, and then with room: %+v, %v", level, res, err)
			}
		}
		if err := os.RemoveAll(top); err != nil {
			t.Fatal(err)
		}
	}
	if failed == 0 || failed == len(levels) {
		t.Errorf("%d of %d restores failed", failed, len(levels))
	}
	t.Logf("%d of %d restores failed", failed, len(levels))
}

// wholeFiles checks that every regular file below got is the one in want.
func wholeFiles(want, got string) error {
	return filepath.WalkDir(got, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // not even the folder was made
		}
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(got, path)
		if err != nil {
			return err
		}
		a, err := os.ReadFile(filepath.Join(want, rel))
		if err != nil {
			return fmt.Errorf("left behind: %w", err)
		}
		b, err := os.ReadFile(path)
		if err == nil && string(a) != string(b) {
			err = fmt.Errorf("%s is not whole", rel)
		}
		return err
	})
}
