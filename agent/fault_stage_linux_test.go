package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/disk"
	"github.com/tharsis-backup/tharsis/internal/stage"
	"github.com/tharsis-backup/tharsis/vault/backend/fault"
	"github.com/tharsis-backup/tharsis/vault/index"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// spooled is the point at which a file of the spool, in part written, is spoilt.
const spooled stage.Point = "spooled"

// faultFlips counts the bytes that pass each point, and flips a bit of those that
// pass one for the nth time.
type faultFlips struct {
	point stage.Point // "" flips nothing
	nth   int
	seed  uint64

	mu      sync.Mutex // guards what follows
	count   map[stage.Point]int
	flipped bool
}

func (f *faultFlips) watch() (stop func()) {
	f.count = map[stage.Point]int{}
	stages := stage.SetHook(f.pass)
	files := disk.SetHook(func(c disk.Call) error {
		if c.Op != disk.OpWrite || !strings.Contains(c.Path, "/spool/spool-") {
			return nil
		}
		info, err := c.File.Stat()
		if err != nil || info.Size() == 0 {
			return err
		}
		b := make([]byte, info.Size())
		if _, err := c.File.ReadAt(b, 0); err != nil {
			return err
		}
		was := string(b)
		f.pass(spooled, b)
		if string(b) == was {
			return nil
		}
		_, err = c.File.WriteAt(b, 0)
		return err
	})
	return func() { stages(); files() }
}

func (f *faultFlips) pass(p stage.Point, b []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count[p]++
	if p != f.point || f.count[p]-1 != f.nth || len(b) == 0 {
		return
	}
	r := rand.New(rand.NewPCG(f.seed, uint64(len(b))))
	b[r.IntN(len(b))] ^= 1 << r.IntN(8)
	f.flipped = true
}

// mayPass tells whether a command may say that all is well after a flip at a point:
// where what was spoilt is made anew, as an entry of the log is put again, or is not
// needed, as the merge of index runs after a commit.
func mayPass(p stage.Point, command string) bool {
	return p == stage.Body || command == "backup that merges" && (p == stage.IndexRows || p == stage.IndexBox || p == spooled)
}

// TestFaultStages flips a bit wherever bytes pass from one step of storing them to the
// next, under each command: the command says so and fails, nothing spoilt is in the
// vault, and plain commands go on. A bit of what is read is flipped by nobody but
// the disk that it lies on, and nobody can tell.
func TestFaultStages(t *testing.T) {
	total, cases, spoilt := 0, 0, 0
	seen := map[stage.Point]bool{}
	faultEach(t, func(ctx context.Context, c faultCommand, before *faultScript, _ int, _ []fault.Record) {
		counted := &faultFlips{}
		s := before.fork("count")
		stop := counted.watch()
		err := c.run(ctx, s)
		stop()
		s.drop()
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		for _, p := range append(slices.Clone(stage.Points), spooled) {
			total += counted.count[p]
			for _, nth := range faultSample(counted.count[p], 2) {
				seen[p] = true
				cases++
				f := &faultFlips{point: p, nth: nth, seed: uint64(cases)}
				if stageCase(ctx, t, c, before, f) {
					spoilt++
				}
			}
		}
	})
	for _, p := range append(slices.Clone(stage.Points), spooled) {
		if !seen[p] {
			t.Errorf("nothing passed the point %q", p)
		}
	}
	if spoilt < cases/2 {
		t.Errorf("%d of %d commands failed", spoilt, cases)
	}
	t.Logf("%d flips of %d; the command failed in %d", cases, total, spoilt)
}

// stageCase runs a command with a flip, and tells whether it failed.
func stageCase(ctx context.Context, t *testing.T, c faultCommand, before *faultScript, f *faultFlips) bool {
	s := before.fork("case")
	defer s.drop()
	what := fmt.Sprintf("%s, a flip at %q number %d, seed %d", c.name, f.point, f.nth, f.seed)
	stop := f.watch()
	err := faultWatch(t, what, func() error { return c.run(ctx, s) })
	stop()
	switch {
	case err == nil && f.flipped && !mayPass(f.point, c.name):
		t.Errorf("%s: the command says that all is well", what)
	case err != nil && !errors.Is(err, stage.ErrSpoilt):
		t.Errorf("%s: %v", what, err)
	}
	if werr := s.w.whole(ctx); werr != nil {
		t.Errorf("%s (%v): stored: %v", what, err, werr)
	}
	if rerr := s.recovers(ctx); rerr != nil {
		t.Errorf("%s (%v): %v", what, err, rerr)
	}
	return err != nil
}

// whole checks every byte of every pack and index run in the vault, also of those that
// nothing names, and the log.
func (w *faultWorld) whole(ctx context.Context) error {
	var ring *key.Ring
	err := w.session(ctx, false, func(s *Session) error { ring = s.vault.Ring; return nil })
	if errors.Is(err, ErrNoVault) {
		return nil
	}
	if err != nil {
		return err
	}
	dec, err := chunk.NewDecompressor()
	if err != nil {
		return err
	}
	packs, err := filepath.Glob(filepath.Join(w.vault, "packs", "*", "*"))
	if err != nil {
		return err
	}
	for _, file := range packs {
		if err := wholePack(ring, dec, file); err != nil {
			return err
		}
	}
	runs, err := filepath.Glob(filepath.Join(w.vault, "index", "*"))
	if err != nil {
		return err
	}
	for _, file := range runs {
		if err := wholeRun(ctx, ring, file); err != nil {
			return err
		}
	}
	return nil
}

func wholePack(ring *key.Ring, dec *chunk.Decompressor, file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	id, err := chunk.ParseID(filepath.Base(file))
	if err != nil {
		return err
	}
	o, err := pack.NewOpener(ring, b[5], id)
	if err != nil {
		return err
	}
	if err := o.CheckHeader(b); err != nil {
		return err
	}
	dir, err := o.ParseDirectory(uint64(len(b)), b)
	if err != nil {
		return err
	}
	ids := chunk.NewHasher(ring.ChunkID)
	if dir.Type == key.TypeManifestPack {
		ids = chunk.NewHasher(ring.PageID)
	}
	for _, r := range dir.Records {
		plain, err := o.OpenRecord(nil, r, slices.Clone(b[r.Offset:][:r.Stored]), dec)
		if err != nil {
			return err
		}
		if err := pack.CheckChunks(ids, r, plain); err != nil {
			return err
		}
	}
	return nil
}

func wholeRun(ctx context.Context, ring *key.Ring, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	id, err := chunk.ParseID(filepath.Base(file))
	if err != nil {
		return err
	}
	r, err := index.OpenRun(ctx, ring, id, index.FileSource(f), info.Size(), nil)
	if err != nil {
		return err
	}
	return r.Verify(ctx)
}
