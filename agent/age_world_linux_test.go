package agent

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tharsis-backup/tharsis/agent/home"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/backend/mem"
	"github.com/tharsis-backup/tharsis/vault/key"
)

// ageWorld is a vault in memory and the time that passes for it. Its packs and what is
// grouped in them are as much smaller than usual as it is itself.
type ageWorld struct {
	t        testing.TB
	shrink   int
	dir      string
	vault    *mem.Backend
	recovery key.RecoveryKey
	tick     int64 // for times of files that no two edits share

	mu  sync.Mutex // guards now
	now time.Time
}

func newAgeWorld(t testing.TB, shrink int) *ageWorld {
	w := &ageWorld{t: t, shrink: shrink, dir: faultTemp(t), vault: mem.New(), now: faultStart}
	w.vault.Clock = w.clock
	var err error
	w.recovery, err = key.NewRecoveryKey(nil)
	noErr(t, err)
	return w
}

// clock is the true time. It moves each time it is read, as one does.
func (w *ageWorld) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(time.Microsecond)
	return w.now
}

// pass lets time pass.
func (w *ageWorld) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// size is what the vault holds, in objects and bytes, of those below a prefix.
func (w *ageWorld) size(prefix string) (objects, bytes int64) {
	for info, err := range w.vault.List(context.Background(), prefix) {
		noErr(w.t, err)
		objects++
		bytes += info.Size
	}
	return objects, bytes
}

// ageMachine is a machine with a source of files of one size, whose content nothing
// compresses.
type ageMachine struct {
	*faultWorld
	w        *ageWorld
	src      string
	files    int
	bytes    int
	versions []uint32 // of the files
	key      string   // of its contents, so that machines share none
	meter    ageMeter
}

// machine makes a machine with a source. The first makes the vault.
func (w *ageWorld) machine(host string, files, bytes int) *ageMachine {
	m := &ageMachine{w: w, files: files, bytes: bytes, key: host, src: filepath.Join(w.dir, host+"-src")}
	m.meter.Backend = w.vault
	_, err := os.Stat(filepath.Join(w.dir, "place"))
	first := err != nil
	m.faultWorld = &faultWorld{
		home: filepath.Join(w.dir, host), host: host, vault: filepath.Join(w.dir, "place"), clock: w.clock,
		wrap:   func(backend.Backend) backend.Backend { return &m.meter },
		shrink: w.shrink,
	}
	if first {
		noErr(w.t, m.locked(func(h *home.Home) error {
			_, err := Init(w.t.Context(), m.env(), h, InitOptions{Vault: m.vault, Passphrase: faultPass, Recovery: w.recovery, KDF: faultKDF})
			return err
		}))
	}
	m.versions = make([]uint32, files)
	for i := range files {
		m.edit(i)
	}
	return m
}

func (m *ageMachine) name(i int) string { return fmt.Sprintf("d%02d/f%03d", i/50, i) }

// content is that of a version of a file.
func (m *ageMachine) content(i int, version uint32) []byte {
	var seed [32]byte
	copy(seed[8:], m.key)
	binary.LittleEndian.PutUint32(seed[:], uint32(i))
	binary.LittleEndian.PutUint32(seed[4:], version)
	b := make([]byte, m.bytes)
	rand.NewChaCha8(seed).Read(b)
	return b
}

// edit gives a file new content.
func (m *ageMachine) edit(i int) {
	m.versions[i]++
	path := filepath.Join(m.src, m.name(i))
	noErr(m.w.t, os.MkdirAll(filepath.Dir(path), 0o700))
	noErr(m.w.t, os.WriteFile(path, m.content(i, m.versions[i]), 0o600))
	m.w.tick++
	at := time.Unix(1_600_000_000+m.w.tick, 0)
	noErr(m.w.t, os.Chtimes(path, at, at))
}

// same checks that a folder has the files in these versions, and nothing else.
func (m *ageMachine) same(dir string, versions []uint32) error {
	have := 0
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			have++
		}
		return err
	})
	if err != nil {
		return err
	}
	if have != len(versions) {
		return fmt.Errorf("%d files instead of %d", have, len(versions))
	}
	for i, v := range versions {
		b, err := os.ReadFile(filepath.Join(dir, m.name(i)))
		if err != nil {
			return err
		}
		if string(b) != string(m.content(i, v)) {
			return fmt.Errorf("%s has not the content of version %d", m.name(i), v)
		}
	}
	return nil
}

// restored restores a point on a machine like this one but without a cache, compares
// it, and returns what was read for that of the vault's packs.
func (m *ageMachine) restored(point string, versions []uint32) (read ageRead) {
	t := m.w.t
	other := *m.faultWorld
	dir, err := os.MkdirTemp(m.w.dir, "restore-")
	noErr(t, err)
	defer os.RemoveAll(dir)
	other.home = filepath.Join(dir, "home")
	noErr(t, faultCopy(m.home, other.home, false))
	noErr(t, os.RemoveAll(filepath.Join(other.home, "cache")))
	meter := &ageMeter{Backend: m.w.vault}
	other.wrap = func(backend.Backend) backend.Backend { return meter }
	target := filepath.Join(dir, "target")
	res, err := other.restore(t.Context(), point, target)
	if err == nil && res.Failed > 0 {
		err = fmt.Errorf("%d entries failed", res.Failed)
	}
	if err == nil {
		err = m.same(filepath.Join(target, m.src), versions)
	}
	if err != nil {
		t.Errorf("restore point %.8s: %v", point, err)
	}
	return meter.read()
}

// ageMeter is a backend that counts what goes through it.
type ageMeter struct {
	backend.Backend

	mu      sync.Mutex
	stored  int64            // bytes put
	got     int64            // bytes of packs
	gets    int64            // reads of packs
	objects map[string]int64 // packs that were read, and how often
}

// ageRead is what was read of the vault's packs.
type ageRead struct{ Objects, Gets, Bytes int64 }

func (b *ageMeter) read() ageRead {
	b.mu.Lock()
	defer b.mu.Unlock()
	return ageRead{int64(len(b.objects)), b.gets, b.got}
}

func (b *ageMeter) Put(ctx context.Context, name string, body io.ReaderAt, size int64) error {
	b.mu.Lock()
	b.stored += size
	b.mu.Unlock()
	return b.Backend.Put(ctx, name, body, size)
}

func (b *ageMeter) Get(ctx context.Context, name string, off, length int64) (io.ReadCloser, error) {
	r, err := b.Backend.Get(ctx, name, off, length)
	if err != nil || !strings.HasPrefix(name, "packs/") {
		return r, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.objects == nil {
		b.objects = map[string]int64{}
	}
	b.objects[name]++
	b.gets++
	return &ageReader{r, b}, nil
}

type ageReader struct {
	io.ReadCloser
	b *ageMeter
}

func (r *ageReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	r.b.got += int64(n)
	return n, err
}

// liveBytes is what all these states of the files hold, each content once.
func (m *ageMachine) liveBytes(states [][]uint32) int64 {
	type content struct {
		file    int
		version uint32
	}
	all := map[content]struct{}{}
	for _, versions := range states {
		for i, v := range versions {
			all[content{i, v}] = struct{}{}
		}
	}
	return int64(len(all)) * int64(m.bytes)
}

// ageKeep chooses what a usual policy keeps of points, oldest first: the newest of
// each of the last 24 hours, 30 days and 52 weeks that have one.
func ageKeep(points []agePoint) map[string]bool {
	keep := map[string]bool{}
	for _, rule := range []struct {
		of string
		n  int
	}{{"2006-01-02 15", 24}, {"2006-01-02", 30}, {"week", 52}} {
		seen := map[string]bool{}
		for _, p := range slices.Backward(points) {
			slot := p.at.Format(rule.of)
			if rule.of == "week" {
				y, w := p.at.ISOWeek()
				slot = fmt.Sprint(y, w)
			}
			if !seen[slot] && len(seen) < rule.n {
				seen[slot] = true
				keep[p.id] = true
			}
		}
	}
	return keep
}

type agePoint struct {
	id       string
	at       time.Time
	versions []uint32
}

// someOf chooses about n of all, the first and the last among them.
func someOf[T any](all []T, n int) (some []T) {
	chosen := map[int]bool{}
	for i := range min(n, len(all)) {
		chosen[i*(len(all)-1)/max(n-1, 1)] = true
	}
	for _, i := range slices.Sorted(maps.Keys(chosen)) {
		some = append(some, all[i])
	}
	return some
}
