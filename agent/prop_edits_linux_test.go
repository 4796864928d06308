package agent

import (
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tharsis-backup/tharsis/agent/source"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/backend/fault"
)

// Over any edits, an incremental point is byte for byte what a full scan makes,
// and restores to what the source was.
func TestIncrementalEqualsFullScan(t *testing.T) {
	seeds(t, 10, func(t *testing.T, rng *rand.Rand) {
		r := newRig(t)
		e := &editor{t: t, rng: rng, root: r.src}
		if rng.IntN(3) == 0 {
			r.env.PartialEvery = time.Nanosecond
		}
		e.edit(30)
		var points, kept []string
		for range 5 {
			res := r.accepted()
			dir := r.restore(res.Point)
			same(t, r.src, filepath.Join(dir, r.src))
			r.sameAsFullScan(res.Point, e)
			points, kept = append(points, res.Point), append(kept, filepath.Join(dir, r.src))
			e.edit(1 + rng.IntN(20))
		}
		for i, p := range points {
			same(t, kept[i], filepath.Join(r.restore(p), r.src))
		}
	})
}

// accepted runs a backup that takes the source as it is and must be without a
// warning: how much of it is gone is chance here.
func (r *rig) accepted() BackupResult {
	r.t.Helper()
	res := r.backup(BackupOptions{AcceptSources: []string{r.src}})
	if res.Status != Completed {
		r.t.Fatalf("backup: %s: %s", res.Status, r.notes)
	}
	return res
}

// sameAsFullScan checks that a point of the source as it is equals, byte for
// byte, what a machine makes that knows no earlier one. It comes after a
// restore: the other machine stores what is missing.
func (r *rig) sameAsFullScan(point string, e *editor) {
	r.t.Helper()
	full := r.fullScan()
	if r.root(point) == r.root(full) {
		return
	}
	have, want := r.entries(point), r.entries(full)
	for p, w := range want {
		if h, ok := have[p]; !ok {
			r.t.Errorf("%q is missing", p)
		} else if !equalEntries(h, w) {
			r.t.Errorf("%q: have %+v\nwant %+v", p, h, w)
		}
	}
	for p := range have {
		if _, ok := want[p]; !ok {
			r.t.Errorf("%q is too much", p)
		}
	}
	r.t.Fatalf("the point differs from a full scan; edits:\n%s", e.did())
}

// TestLongEdits is the same over many more edits: with clocks of the machine that
// run ahead, behind and backwards, on a file system whose own clock ticks once a
// second, and every other time with troubles between the jobs.
func TestLongEdits(t *testing.T) {
	coarse := coarseDisk(t)
	newLongRun(t, "edits", 400, 100_000).run(func(t *testing.T, rng *rand.Rand) int {
		r := newRig(t)
		troubled, ticking := rng.IntN(2) == 0, rng.IntN(3) == 0 && coarse != ""
		if ticking {
			r.src = filepath.Join(coarse, filepath.Base(filepath.Dir(r.dir)), "src")
			noErr(t, os.MkdirAll(r.src, 0o755))
			t.Cleanup(func() { removeAll(filepath.Dir(r.src)) })
		}
		if rng.IntN(3) == 0 {
			r.env.PartialEvery = time.Nanosecond
		}
		e := &editor{t: t, rng: rng, root: r.src, inodes: reliableInodes(t, r.src)}
		e.edit(40)
		var last BackupResult
		for range 8 {
			r.setClock(rng, ticking)
			for troubled && rng.IntN(3) == 0 {
				r.killed(rng)
				r.trouble(rng)
				e.edit(rng.IntN(6))
			}
			last = r.accepted()
			r.sameAsFullScan(last.Point, e)
			e.edit(1 + rng.IntN(25))
		}
		last = r.accepted()
		r.restored(last.Point)
		r.sameAsFullScan(last.Point, e)
		return len(e.log)
	})
}

// setClock lets the machine's clock run ahead of the file system's, so that nothing
// is racy; or with it, or far behind it, as after it was set back, so that all is.
// Where the file system ticks slowly it never runs ahead: an edit within the tick of
// the job that read the file before leaves no trace but that the job counts as racy.
func (r *rig) setClock(rng *rand.Rand, ticking bool) {
	ahead := []time.Duration{0, -time.Hour, -time.Duration(rng.Int64N(int64(5 * time.Second))), 10 * time.Second, time.Hour}
	n := len(ahead)
	if ticking {
		n = 3
	}
	r.ahead.Store(int64(ahead[rng.IntN(n)]))
}

// reliableInodes tells whether the walk goes by the inode numbers of a folder's file
// system.
func reliableInodes(t *testing.T, dir string) bool {
	tree, err := source.Open(dir, source.Options{})
	noErr(t, err)
	defer tree.Close()
	it, err := tree.Next(t.Context())
	noErr(t, err)
	return it.Entry.Inode != 0
}

// coarseDisk mounts a file system whose times are whole seconds, or gives "" where
// there can be none.
func coarseDisk(t *testing.T) string {
	dir := t.TempDir()
	image, at := filepath.Join(dir, "image"), filepath.Join(dir, "disk")
	noErr(t, os.WriteFile(image, nil, 0o600))
	noErr(t, os.Truncate(image, 512<<20))
	noErr(t, os.Mkdir(at, 0o755))
	// Inodes of 128 bytes have no room for anything finer.
	out, err := exec.Command("/sbin/mkfs.ext4", "-q", "-F", "-I", "128", image).CombinedOutput()
	if err == nil {
		out, err = exec.Command("mount", "-o", "loop", image, at).CombinedOutput()
	}
	if err != nil {
		if os.Getenv("THARSIS_CI") != "" && os.Geteuid() == 0 {
			t.Fatalf("mount a file system of whole seconds: %v: %s", err, out)
		}
		t.Logf("without a file system of whole seconds: %v", err)
		return ""
	}
	t.Cleanup(func() { unix.Unmount(at, unix.MNT_DETACH) })
	return at
}

// The same while jobs are killed at any operation or cancelled, the journal is
// torn, and the cache is spoilt or lost between them.
func TestIncrementalEqualsFullScanThroughTroubles(t *testing.T) {
	seeds(t, 16, func(t *testing.T, rng *rand.Rand) {
		r := newRig(t)
		e := &editor{t: t, rng: rng, root: r.src}
		if rng.IntN(2) == 0 {
			r.env.PartialEvery = time.Nanosecond
		}
		e.edit(40)
		for range 4 {
			for range rng.IntN(4) {
				r.killed(rng)
				r.trouble(rng)
				e.edit(rng.IntN(6))
			}
			res := r.accepted()
			r.restored(res.Point)
			r.sameAsFullScan(res.Point, e)
			r.trouble(rng)
			e.edit(rng.IntN(10))
		}
		r.verified()
	})
}

// verified checks every byte of the vault.
func (r *rig) verified() {
	r.t.Helper()
	noErr(r.t, r.session(r.t.Context(), func(s *Session) error {
		res, err := s.Verify(r.t.Context(), VerifyOptions{ReadData: true})
		if len(res.Damage) > 0 {
			r.t.Errorf("damage: %+v", res.Damage)
		}
		return err
	}))
}

// killed runs a backup that is killed at a random operation of the vault, or
// cancelled there. It may also reach its end before.
func (r *rig) killed(rng *rand.Rand) {
	ctx, cancel := context.WithCancel(r.t.Context())
	defer cancel()
	after, soft, puts := rng.IntN(2) == 0, rng.IntN(2) == 0, rng.IntN(2) == 0
	left := int64(rng.IntN(40))
	if puts { // of which there are few: packs, an index run, entries of the log
		left %= 6
	}
	var seen atomic.Int64
	r.env.Wrap = func(b backend.Backend) backend.Backend {
		return fault.New(b, func(op fault.Op) fault.Action {
			switch {
			case op.After != after || puts && op.Kind != fault.Put || seen.Add(1) != left+1:
			case soft:
				cancel()
			default:
				return fault.Kill(cancel)
			}
			return fault.Action{}
		})
	}
	r.try(ctx, BackupOptions{AcceptSources: []string{r.src}})
	r.env.Wrap = nil
}

// trouble does nothing, or spoils the cache: which may cost, and change nothing.
func (r *rig) trouble(rng *rand.Rand) {
	switch rng.IntN(6) {
	case 0:
		r.wipe()
	case 1:
		r.tear(rng)
	case 2:
		for range 1 + rng.IntN(4) {
			r.spoil(rng)
		}
	}
}

// tear cuts the journal's tail off, as a power cut does.
func (r *rig) tear(rng *rand.Rand) {
	for _, f := range r.cacheFiles() {
		if fi, err := os.Stat(f); filepath.Base(f) == "journal" && err == nil && fi.Size() > 0 {
			noErr(r.t, os.Truncate(f, rng.Int64N(fi.Size())))
		}
	}
}

// spoil changes one byte of the cache, cuts one of its files or removes it.
func (r *rig) spoil(rng *rand.Rand) {
	files := r.cacheFiles()
	if len(files) == 0 {
		return
	}
	f := files[rng.IntN(len(files))]
	b, err := os.ReadFile(f)
	noErr(r.t, err)
	switch n := rng.IntN(4); {
	case n == 0 || len(b) == 0:
		noErr(r.t, os.Remove(f))
		return
	case n == 1:
		b = b[:rng.IntN(len(b))]
	default:
		b[rng.IntN(len(b))] ^= 1 << rng.IntN(8)
	}
	noErr(r.t, os.WriteFile(f, b, 0o600))
}

// A bit of the cache that is not as it was, anywhere in any of its files, changes
// nothing but cost.
func TestSpoiltBitOfCache(t *testing.T) {
	r := newRig(t)
	rng := rand.New(rand.NewPCG(51, 52))
	e := &editor{t: t, rng: rng, root: r.src}
	e.edit(30)
	for range 3 {
		r.accepted()
		e.edit(10)
	}
	p := r.fork()
	full := p.root(p.fullScan())
	kinds := map[string]bool{} // index runs, packs, filters, the log
	for i, f := range r.cacheFiles() {
		b, err := os.ReadFile(f)
		noErr(t, err)
		positions := []int{len(b) - 1, rng.IntN(len(b))}
		if kind := strings.Trim(strings.TrimPrefix(f, r.home), "0123456789abcdef/"); !kinds[kind] {
			kinds[kind] = true
			for at := range min(16, len(b)) { // a header
				positions = append(positions, at)
			}
		}
		for _, at := range positions {
			p := r.fork()
			spoilt := []byte(string(b))
			spoilt[at] ^= 1 << rng.IntN(8)
			noErr(t, os.WriteFile(p.cacheFiles()[i], spoilt, 0o600))
			res, err := p.try(t.Context(), BackupOptions{AcceptSources: []string{r.src}})
			if err != nil || res.Status != Completed || p.root(res.Point) != full {
				t.Errorf("%s byte %d: %v, %+v: %s", filepath.Base(f), at, err, res, p.notes)
			}
		}
	}
}
