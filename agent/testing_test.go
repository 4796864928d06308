package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tharsis-backup/tharsis/agent/home"
	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/treecmp"
	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/backend/local"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// testPassphrase opens every vault that a rig makes.
const testPassphrase = "a passphrase for tests 7531"

// rig is a vault with one home and one source folder, and what is needed to
// run jobs on them. It is for one goroutine; peer gives one for another.
type rig struct {
	t     testing.TB
	dir   string // the source and what is restored are in it
	vault string
	home  string
	src   string

	env   Environment
	ahead *atomic.Int64 // how far the job's clock runs ahead of the system's, ns
	notes *noteBook
}

// Tests need not read a terabyte to have a file in parts, nor a million
// entries to have a PARTIAL.
func init() {
	partBytes = 4 << 20
	partialCheck = 16
}

// smallCut makes large files of small ones, so that tests of chunked files are cheap.
var smallCut = chunk.CutParams{Min: 64 << 10, Max: 256 << 10, Bits: 16}

// newRig makes a vault of small chunks, a home that knows it, and an empty source.
func newRig(t testing.TB) *rig { return newRigCut(t, smallCut) }

func newRigCut(t testing.TB, cut chunk.CutParams) *rig {
	t.Helper()
	dir, quick := t.TempDir(), quickDir(t)
	t.Cleanup(func() { removeAll(dir) }) // what the cleaning of TempDir cannot
	r := &rig{
		t: t, dir: dir, vault: filepath.Join(quick, "vault"), home: filepath.Join(quick, "home"), src: filepath.Join(dir, "src"),
	}
	r.equip()
	noErr(t, os.Mkdir(r.src, 0o755))
	with, err := key.NewPassphrase([]byte(testPassphrase))
	noErr(t, err)
	recovery, err := key.NewRecoveryKey(nil)
	noErr(t, err)
	b, err := local.Create(r.vault, local.Options{})
	noErr(t, err)
	defer b.Close()
	_, sec, err := vault.Create(t.Context(), b, vault.CreateOptions{
		Passphrase: with, Recovery: recovery, KDF: key.KDFParams{Time: 1, MemoryKiB: 64, Lanes: 1}, Cut: cut,
	})
	noErr(t, err)
	h := r.openHome()
	defer h.Unlock()
	v, err := vault.Open(t.Context(), b, sec.Root, nil, vault.Options{})
	noErr(t, err)
	noErr(t, rememberNew(h, r.vault, v, sec))
	return r
}

// quickDir is a folder in memory where the system has that: homes and vaults
// sync every file, and these tests are not about power cuts.
func quickDir(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "tharsis-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// equip gives a rig its clock, which runs ahead so that no file is racy, and
// its notes.
func (r *rig) equip() {
	r.ahead, r.notes = new(atomic.Int64), new(noteBook)
	r.ahead.Store(int64(10 * time.Second))
	ahead := r.ahead
	r.env = Environment{
		Clock:  func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) },
		Host:   "host-" + filepath.Base(r.home),
		Secret: func(context.Context) (string, error) { return testPassphrase, nil },
		Report: r.notes,
	}
}

// peer is another machine of the same vault, with a home of its own that knows
// nothing yet, and the same source.
func (r *rig) peer(name string) *rig {
	p := *r
	p.home = r.home + "-" + name
	p.equip()
	return &p
}

func noErr(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (r *rig) openHome() *home.Home {
	r.t.Helper()
	h, err := home.Open(r.home)
	noErr(r.t, err)
	noErr(r.t, h.Lock())
	return h
}

// session runs fn with the vault open and the home locked.
func (r *rig) session(ctx context.Context, fn func(*Session) error) error {
	r.t.Helper()
	h := r.openHome()
	defer h.Unlock()
	s, err := Open(ctx, r.env, h, r.vault)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := fn(s); err != nil {
		return err
	}
	return s.Remember(ctx)
}

// try runs a backup of the source, or of what o says.
func (r *rig) try(ctx context.Context, o BackupOptions) (res BackupResult, err error) {
	r.t.Helper()
	if o.Paths == nil {
		o.Paths = []string{r.src}
	}
	r.notes.clear()
	err = r.session(ctx, func(s *Session) error {
		res, err = s.Backup(ctx, o)
		return err
	})
	return res, err
}

// backup runs a backup that must succeed.
func (r *rig) backup(o BackupOptions) BackupResult {
	r.t.Helper()
	res, err := r.try(r.t.Context(), o)
	if err != nil {
		r.t.Fatalf("backup: %v", err)
	}
	return res
}

// clean runs a backup that must succeed without a warning.
func (r *rig) clean() BackupResult {
	r.t.Helper()
	res := r.backup(BackupOptions{})
	if res.Status != Completed {
		r.t.Fatalf("backup: %s: %s", res.Status, r.notes)
	}
	return res
}

// restore puts a point into a fresh folder, wholly and without a failure, and
// returns that folder.
func (r *rig) restore(point string) string {
	r.t.Helper()
	dir := r.temp()
	res, err := r.tryRestore(RestoreOptions{Point: point, Target: dir})
	if err != nil || res.Failed > 0 {
		r.t.Fatalf("restore %s: %v; %d failed: %s", point, err, res.Failed, r.notes)
	}
	return dir
}

func (r *rig) tryRestore(o RestoreOptions) (res RestoreResult, err error) {
	r.t.Helper()
	r.notes.clear()
	err = r.session(r.t.Context(), func(s *Session) error {
		res, err = s.Restore(r.t.Context(), o)
		return err
	})
	return res, err
}

// temp is a new folder beside the source, on its file system.
func (r *rig) temp() string {
	r.t.Helper()
	dir, err := os.MkdirTemp(r.dir, "out-")
	noErr(r.t, err)
	return dir
}

// restored checks that a point restores to just what the source now is.
func (r *rig) restored(point string) {
	r.t.Helper()
	dir := r.restore(point)
	same(r.t, r.src, filepath.Join(dir, r.src))
	removeAll(dir)
}

// same checks that two trees are equal in content and metadata.
func same(t testing.TB, a, b string) {
	t.Helper()
	sameBut(t, a, b, 0)
}

func sameBut(t testing.TB, a, b string, ignore treecmp.Aspect) {
	t.Helper()
	diffs, err := treecmp.Compare(a, b, treecmp.Options{Ignore: ignore | treecmp.Sockets, Max: 20})
	noErr(t, err)
	for _, d := range diffs {
		t.Errorf("restored otherwise: %s", d)
	}
	if len(diffs) > 0 {
		t.FailNow()
	}
}

// removeAll removes a tree, whatever the modes of its folders.
func removeAll(dir string) {
	filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Type()&os.ModeSymlink == 0 {
			os.Chmod(p, 0o700)
		}
		return nil
	})
	os.RemoveAll(dir)
}

// point finds a point in the vault's log.
func (r *rig) point(id string) (p *log.Point) {
	r.t.Helper()
	noErr(r.t, r.session(r.t.Context(), func(s *Session) error {
		info, err := s.vault.Log.State().PointByPrefix(id)
		p = info.Point
		return err
	}))
	return p
}

// root is the root page of a point's only source: equal roots mean equal
// manifests, byte for byte.
func (r *rig) root(id string) chunk.ID {
	r.t.Helper()
	p := r.point(id)
	if len(p.Sources) != 1 {
		r.t.Fatalf("point %s has %d sources", id, len(p.Sources))
	}
	return p.Sources[0].Root
}

// entries are those of a point's only source, by path.
func (r *rig) entries(id string) map[string]manifest.Entry {
	r.t.Helper()
	all := map[string]manifest.Entry{}
	noErr(r.t, r.session(r.t.Context(), func(s *Session) error {
		info, err := s.vault.Log.State().PointByPrefix(id)
		if err != nil {
			return err
		}
		v, err := s.view(r.t.Context())
		if err != nil {
			return err
		}
		c := manifest.NewCursor(v.pages, info.Point.Sources[0].Root)
		c.CheckParents()
		for {
			k, e, err := c.Next(r.t.Context())
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			all[manifest.PathOf(k)] = *e.Clone()
		}
	}))
	return all
}

// fullScan makes a point of the same source as a machine that knows none,
// which reads everything, and returns its ID.
func (r *rig) fullScan() string {
	r.t.Helper()
	p := r.peer("full")
	defer os.RemoveAll(p.home)
	return p.backup(BackupOptions{}).Point
}

// vaultBytes is the size of all objects of the vault.
func (r *rig) vaultBytes() (n int64) {
	r.t.Helper()
	noErr(r.t, filepath.WalkDir(r.vault, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			var fi os.FileInfo
			if fi, err = d.Info(); err == nil {
				n += fi.Size()
			}
		}
		return err
	}))
	return n
}

// wipe removes all derived data of the home.
func (r *rig) wipe() {
	r.t.Helper()
	noErr(r.t, os.RemoveAll(filepath.Join(r.home, "cache")))
}

// cacheFiles are the files of the cache.
func (r *rig) cacheFiles() (files []string) {
	r.t.Helper()
	err := filepath.WalkDir(filepath.Join(r.home, "cache"), func(p string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files = append(files, p)
		}
		return err
	})
	if !errors.Is(err, os.ErrNotExist) {
		noErr(r.t, err)
	}
	return files
}

// write makes a file of the source, with the folders above it.
func (r *rig) write(name, content string) string {
	r.t.Helper()
	p := filepath.Join(r.src, name)
	noErr(r.t, os.MkdirAll(filepath.Dir(p), 0o755))
	noErr(r.t, os.WriteFile(p, []byte(content), 0o644))
	return p
}

// noteBook collects notes.
type noteBook struct {
	mu   sync.Mutex
	list []Note
	hook func(Note) // called with each note; set between jobs
}

func (b *noteBook) Note(n Note) {
	if b.hook != nil {
		b.hook(n)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.list = append(b.list, n)
}

func (b *noteBook) Progress(Progress) {}

func (b *noteBook) clear() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.list = nil
}

// has tells whether a note of this severity is about a path that ends so, with
// a text that holds this.
func (b *noteBook) has(sev Severity, path, text string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, n := range b.list {
		if n.Severity == sev && strings.HasSuffix(n.Path, path) && strings.Contains(n.Text, text) {
			return true
		}
	}
	return false
}

func (b *noteBook) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out strings.Builder
	for _, n := range b.list {
		fmt.Fprintf(&out, "[%d %q %s] ", n.Severity, n.Path, n.Text)
	}
	return out.String()
}

// seeds runs fn for n seeds, or as many as THARSIS_SEEDS says, beginning at
// THARSIS_SEED; the name of the sub-test is the seed.
func seeds(t *testing.T, n int, fn func(t *testing.T, rng *rand.Rand)) {
	first := envInt("THARSIS_SEED", 1)
	for seed := first; seed < first+envInt("THARSIS_SEEDS", n); seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			fn(t, rand.New(rand.NewPCG(uint64(seed), 0x7468617273697321)))
		})
	}
}

func envInt(name string, or int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return or
}

// noise is incompressible content that depends on rng alone.
func noise(rng *rand.Rand, n int) string {
	b := make([]byte, n)
	for i := 0; i+8 <= n; i += 8 {
		v := rng.Uint64()
		for k := range 8 {
			b[i+k] = byte(v >> (8 * k))
		}
	}
	for i := n &^ 7; i < n; i++ {
		b[i] = byte(rng.Uint32())
	}
	return string(b)
}

// equalEntries compares two entries of manifests by their encoding.
func equalEntries(a, b manifest.Entry) bool {
	return string(manifest.AppendEntry(nil, &a)) == string(manifest.AppendEntry(nil, &b))
}
