package agent

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tharsis-backup/tharsis/agent/home"
	"github.com/tharsis-backup/tharsis/internal/treecmp"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/backend/mem"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
)

// flipVault is a small vault in memory with every kind of object, and a home
// that opens it and has no cache.
type flipVault struct {
	t     *testing.T
	w     *faultWorld
	b     *mem.Backend
	whole map[string][]byte
	names []string
	src   string
	want  string
	usual int64 // what a check of the whole vault allocates
}

// flipTree is small, and has an entry of every kind: a file with a block table,
// attributes inline and in a chunk, a segment of small files.
func flipTree() faultTree {
	t := faultTree{
		".":        {kind: 'd', mode: 0o755, tick: 1},
		"dir":      {kind: 'd', mode: 0o755, tick: 2, xattr: "inline"},
		"dir/one":  {kind: 'f', data: "the content of the first file, which compresses and compresses and compresses\n", mode: 0o644, tick: 3},
		"dir/two":  {kind: 'f', data: "second", mode: 0o600, xattr: strings.Repeat("long and ", 30), tick: 4},
		"link":     {kind: 'l', target: "dir/one", tick: 5},
		"pipe":     {kind: 'p', mode: 0o600, tick: 6},
		"hard":     {kind: 'f', data: "two names", mode: 0o644, tick: 7},
		"dir/hard": {kind: 'h', target: "hard"},
	}
	return t
}

// newFlipVault makes the vault: several backups until index runs are merged, a
// change of the passphrase, and so many entries of the log that there is a bundle;
// with table one of the files has a block table.
func newFlipVault(t *testing.T, entries int, table bool) *flipVault {
	ctx := t.Context()
	dir := faultTemp(t)
	v := &flipVault{t: t, b: mem.New(), src: filepath.Join(dir, "src"), want: filepath.Join(dir, "want")}
	v.w = &faultWorld{home: filepath.Join(dir, "home"), vault: filepath.Join(dir, "vault")}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(v.w.init(ctx))
	tree := flipTree()
	faultApply(t, v.src, nil, tree)
	if table {
		flipTable(t, v.src)
	}
	for i := range maxRuns + 1 {
		next := faultTree{}
		for k, n := range tree {
			next[k] = n
		}
		next["dir/one"] = faultNode{kind: 'f', data: fmt.Sprintf("version %d", i), mode: 0o644, tick: 100 + i}
		faultApply(t, v.src, tree, next)
		tree = next
		_, err := v.w.backup(ctx, v.src)
		check(err)
	}
	check(v.w.changePassphrase(ctx, faultPass, faultNewPass))
	check(v.w.session(ctx, true, func(s *Session) error {
		points := s.vault.Log.State().Points()
		if len(s.vault.Log.State().PendingRuns()) == 0 {
			t.Fatal("no run was superseded")
		}
		for i := int(s.vault.Log.Head().Seq) + 1; i < entries; i++ {
			_, err := s.vault.Log.Append(ctx, s.machine.Key, func(*log.State) (log.Body, error) {
				return &log.Unhold{Points: []log.PointID{points[0].Point.ID}}, nil
			})
			if err != nil {
				return err
			}
		}
		return s.saveHead()
	}))
	faultApply(t, v.want, nil, tree)
	if table {
		flipTable(t, v.want)
		faultApply(t, v.want, tree, tree) // the folder's time
	}
	check(os.RemoveAll(filepath.Join(v.w.home, "cache")))
	check(filepath.WalkDir(v.w.vault, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(v.w.vault, path)
		if rel == "reserve.tmp" {
			return nil // no object
		}
		data, err := os.ReadFile(path)
		v.b.Set(filepath.ToSlash(rel), data)
		return err
	}))
	v.whole, v.names = v.b.Snapshot(), v.b.Names()
	v.w.wrap = func(b backend.Backend) backend.Backend { return held{v.b} }
	for _, kind := range []string{"config", "keys/", "packs/", "index/", "log/"} {
		if !slices.ContainsFunc(v.names, func(n string) bool { return strings.HasPrefix(n, kind) }) {
			t.Fatalf("the vault has no %s: %q", kind, v.names)
		}
	}
	if res, err := v.damaged(ctx, "the whole vault"); err != nil || res.Unnamed != 0 || res.Points != maxRuns+1 {
		t.Fatalf("the vault is not whole: %+v, %v", res, err)
	}
	size := 0
	for _, b := range v.whole {
		size += len(b)
	}
	t.Logf("%d objects, %d bytes", len(v.names), size)
	return v
}

// held is a backend that outlives its sessions.
type held struct{ backend.Backend }

func (held) Close() error { return nil }

// flipTable adds a file of so many extents that it has a block table.
func flipTable(t *testing.T, dir string) {
	t.Helper()
	path := filepath.Join(dir, "table")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := range 20 {
		if _, err := f.WriteAt(bytes.Repeat([]byte("block "), 700), int64(i)<<16); err != nil {
			t.Fatal(err)
		}
	}
	at := (&faultNode{tick: 50}).time()
	for _, p := range []string{path, dir} {
		if err := os.Chtimes(p, at, at); err != nil {
			t.Fatal(err)
		}
	}
}

// checkBytes is more than a check, or a restore, of this vault allocates beyond what it
// does of the whole one: no length that is read from a damaged object is believed
// before it was authenticated or compared with a bound.
const checkBytes = 4 << 20

// damaged runs a check of the vault as it now is, and fails the test where it panics,
// or allocates far more than a check of the whole vault.
func (v *flipVault) damaged(ctx context.Context, what string) (res VerifyResult, err error) {
	defer func() {
		if r := recover(); r != nil {
			v.t.Errorf("%s: panic: %v", what, r)
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	allocated := allocatedBy(func() { res, err = v.w.verify(ctx) })
	if v.usual == 0 {
		v.usual = allocated
	}
	if allocated > v.usual+checkBytes {
		v.t.Errorf("%s: %d bytes were allocated, and %d for the whole vault", what, allocated, v.usual)
	}
	return res, err
}

// allocatedBy is how many bytes fn allocates, and others at the same time.
func allocatedBy(fn func()) int64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	return int64(after.TotalAlloc - before.TotalAlloc)
}

// found demands that a check of the vault, as it now is, finds something and names the
// objects that are hurt, and makes it whole again. It gives what the check said.
func (v *flipVault) found(ctx context.Context, what string, hurt ...string) VerifyResult {
	v.t.Helper()
	res, err := v.damaged(ctx, what)
	if err == nil {
		v.t.Errorf("%s: a check finds nothing", what)
	}
	for _, name := range hurt {
		if err != nil && !names(res, err, name) {
			v.t.Errorf("%s: a check does not name %s: %v, %+v", what, name, err, res.Damage)
		}
	}
	v.b.Restore(v.whole)
	return res
}

// names tells whether a check's report names an object.
func names(res VerifyResult, err error, name string) bool {
	if slices.ContainsFunc(res.Damage, func(d Damage) bool { return d.Object == name }) {
		return true
	}
	text := err.Error() + "\n"
	if name == "config" && (errors.Is(err, log.ErrForked) || errors.Is(err, ErrNoVault)) {
		return true // without it there is no vault, and with another ID it is another one
	}
	if seq, ok := strings.CutPrefix(name, "log/"); ok {
		n, _ := strconv.ParseUint(seq, 16, 64)
		return strings.Contains(text, fmt.Sprintf("log entry %d:", n))
	}
	return strings.Contains(text, name)
}

// restores demands that a restore from the vault, as it now is, gives the source
// exactly, or names what it does not give. It may refuse only where all that is hurt
// is no data. What it does not give, a check names too.
func (v *flipVault) restores(ctx context.Context, what string, hurt ...string) {
	v.t.Helper()
	target, err := os.MkdirTemp(filepath.Dir(v.w.home), "target-")
	if err != nil {
		v.t.Fatal(err)
	}
	defer os.RemoveAll(target)
	defer func() {
		if r := recover(); r != nil {
			v.t.Errorf("%s: restore: panic: %v", what, r)
		}
	}()
	v.w.notes = &faultNotes{}
	defer func() { v.w.notes = nil }()
	var res RestoreResult
	allocated := allocatedBy(func() { res, err = v.w.restore(ctx, "latest", target) })
	if allocated > restoreBytes {
		v.t.Errorf("%s: a restore allocated %d bytes", what, allocated)
	}
	notes := v.w.notes.text()
	if err != nil {
		if !slices.ContainsFunc(hurt, v.isNoData) {
			v.t.Errorf("%s: restore: %v", what, err)
		}
		return
	}
	diffs, err := treecmp.Compare(v.want, filepath.Join(target, v.src), treecmp.Options{})
	if err != nil {
		v.t.Errorf("%s: restore: %v", what, err)
		return
	}
	if len(diffs) == 0 {
		return
	}
	check, _ := v.damaged(ctx, what)
	pageLost := strings.Contains(notes, "a page of the list of files is damaged")
	for _, d := range diffs {
		path := filepath.Join(v.src, d.Path)
		named := pageLost || strings.Contains(notes, fmt.Sprintf("%q", path))
		partial := d.Aspect&(treecmp.Missing|treecmp.Xattrs|treecmp.Links|treecmp.DirTimes) != 0
		follows := d.Aspect&(treecmp.Links|treecmp.DirTimes) != 0 // from what is missing
		if res.Failed == 0 || !partial || !named && !follows {
			v.t.Errorf("%s: restore (%d failed): %v\n%s", what, res.Failed, d, notes)
		}
		if !follows && !slices.ContainsFunc(check.Damage, func(c Damage) bool {
			return c.Point == res.Point && (c.Path == path || pageLost && strings.Contains(c.Text, "list of files"))
		}) {
			v.t.Errorf("%s: a check does not name %s: %+v", what, path, check.Damage)
		}
	}
}

// restoreBytes is more than a restore of this small vault allocates.
const restoreBytes = 32 << 20

// isNoData tells whether an object is not a pack of files' content: without that there
// is all the rest. (The lists of files of this vault are one page each.)
func (v *flipVault) isNoData(name string) bool {
	return !strings.HasPrefix(name, "packs/") || v.whole[name][5] != key.TypeDataPack
}

// flips are all single bit flips of an object that are tried: one of each byte,
// and all eight in what is in the clear.
func flips(name string, data []byte) (all []int) {
	clear := 40 // a sealed object's header
	if name == "config" || strings.HasPrefix(name, "keys/") {
		clear = len(data)
	}
	inClear := func(i int) bool { return i < clear || i >= len(data)-4 }
	if strings.HasPrefix(name, "bundle/") {
		heads := bundleHeads(data)
		inClear = func(i int) bool { return heads[i] }
	}
	for i := range data {
		if inClear(i) {
			for bit := range 8 {
				all = append(all, 8*i+bit)
			}
			continue
		}
		all = append(all, 8*i+(i*5+3)%8)
	}
	return all
}

// bundleHeads are the bytes of a bundle that are in the clear: its header, and of each
// entry the length and the header.
func bundleHeads(data []byte) map[int]bool {
	heads := map[int]bool{}
	mark := func(at, n int) {
		for i := range n {
			heads[at+i] = true
		}
	}
	at := len(log.BundleHeader(nil))
	mark(0, at)
	for at < len(data) {
		mark(at, 4+key.HeaderBytes)
		at += 4 + int(binary.LittleEndian.Uint32(data[at:]))
	}
	return heads
}

// TestFaultFlips flips single bits in every object.
func TestFaultFlips(t *testing.T) {
	ctx := t.Context()
	v := newFlipVault(t, 0, true)
	type flip struct {
		name string
		bit  int
	}
	var all []flip
	for _, name := range v.names {
		for _, bit := range flips(name, v.whole[name]) {
			all = append(all, flip{name, bit})
		}
	}
	cases := 0
	for i, n := range faultSample(len(all), 600) {
		f := all[n]
		what := fmt.Sprintf("bit %d of byte %d of %s", f.bit%8, f.bit/8, f.name)
		v.b.Corrupt(f.name, int64(f.bit/8), 1<<(f.bit%8))
		if i%8 == 0 {
			v.restores(ctx, what, f.name)
		}
		v.found(ctx, what, f.name)
		cases++
	}
	t.Logf("%d flips of %d", cases, len(all))
}

// TestFaultBundleFlips flips single bits in a vault with a bundle: of the bundle,
// of entries that are in it, and of those behind it.
func TestFaultBundleFlips(t *testing.T) {
	ctx := t.Context()
	v := newFlipVault(t, log.BundleEntries+2, true)
	bundle := log.BundleName(0)
	if _, ok := v.whole[bundle]; !ok {
		t.Fatal("there is no bundle")
	}
	r := rand.New(rand.NewPCG(5, 5))
	flip := func(name string, times int) {
		for range times {
			n := r.IntN(len(v.whole[name]) * 8)
			v.b.Corrupt(name, int64(n/8), 1<<(n%8))
			v.found(ctx, fmt.Sprintf("bit %d of %s", n, name), name)
		}
	}
	times := 1
	if os.Getenv(faultAllEnv) != "" {
		times = 100
	}
	flip(bundle, 10*times)
	for _, seq := range []uint64{0, 1, 17, 254, 255, 256, 257} {
		flip(log.EntryName(seq), times)
	}
	v.everyBundleByte(ctx)
}

// everyBundleByte flips a bit of every byte of the bundle, and all bits of the headers
// in it, and lets the part of a check that is about bundles look at it.
func (v *flipVault) everyBundleByte(ctx context.Context) {
	bundle := log.BundleName(0)
	err := v.w.session(ctx, false, func(s *Session) error {
		c := &verify{s: s, o: VerifyOptions{ReadData: true}, named: map[string]bool{}}
		if err := c.list(ctx); err != nil {
			return err
		}
		want := log.BundleHeader(nil)
		for seq := range uint64(log.BundleEntries) {
			want = log.AppendBundled(want, v.whole[log.EntryName(seq)])
		}
		all := flips(bundle, v.whole[bundle])
		chosen := faultSample(len(all), 500)
		for _, n := range chosen {
			v.b.Corrupt(bundle, int64(all[n]/8), 1<<(all[n]%8))
			before := c.damaged
			if err := c.checkBundle(ctx, 0, want, true); err != nil {
				return err
			}
			if c.damaged != before+1 {
				v.t.Errorf("bit %d of the bundle: not found", all[n])
			}
			v.b.Restore(v.whole)
		}
		v.t.Logf("%d flips of %d in the bundle", len(chosen), len(all))
		return nil
	})
	if err != nil {
		v.t.Fatal(err)
	}
}

// TestFaultObjects cuts, prolongs, removes, swaps and doubles whole objects.
func TestFaultObjects(t *testing.T) {
	v := newFlipVault(t, 0, true)
	v.spoilObjects(t.Context(), v.names)
	v = newFlipVault(t, log.BundleEntries+2, true)
	v.spoilObjects(t.Context(), []string{log.BundleName(0), log.EntryName(255), log.EntryName(256), log.EntryName(257)})
}

// spoilObjects does all that can be done to whole objects: a sample of it in a plain
// run, with each way there for each object.
func (v *flipVault) spoilObjects(ctx context.Context, names []string) {
	r := rand.New(rand.NewPCG(3, 3))
	all := os.Getenv(faultAllEnv) != ""
	cases := 0
	spoil := func(what string, set func(), hurt ...string) {
		cases++
		set()
		if r.IntN(4) == 0 {
			v.restores(ctx, what, hurt...)
		}
		if strings.HasPrefix(hurt[0], "log/") && (len(hurt) > 1 || strings.HasSuffix(what, "removed")) {
			hurt = nil // a check says that the log is not as it was, and may come upon another entry
		}
		v.found(ctx, what, hurt...)
	}
	for i, name := range names {
		whole := v.whole[name]
		for n := range whole {
			if all || n == 0 && i%3 == 0 || n == len(whole)-1 && i%3 == 1 || r.IntN(len(whole)) == 0 {
				spoil(fmt.Sprintf("%s cut to %d bytes", name, n), func() { v.b.Set(name, whole[:n]) }, name)
			}
		}
		spoil(name+" with a zero more", func() { v.b.Set(name, append(bytes.Clone(whole), 0)) }, name)
		spoil(name+" twice over", func() { v.b.Set(name, append(bytes.Clone(whole), whole...)) }, name)
		spoil(name+" removed", func() { v.b.Remove(name) }, name)
		kind, _, _ := strings.Cut(name, "/")
		for k, other := range names[:i] {
			if strings.HasPrefix(other, kind+"/") && (all || k == i-1 || r.IntN(2*i) == 0) {
				spoil(name+" and "+other+" swapped", func() {
					v.b.Set(name, v.whole[other])
					v.b.Set(other, whole)
				}, name, other)
			}
		}
		v.double(ctx, name)
	}
	v.t.Logf("%d cases", cases)
}

// double puts an object there a second time: a stranger, which is counted, and no
// damage. Only as the next entry of the log it would be one.
func (v *flipVault) double(ctx context.Context, name string) {
	other := flipName(name)
	switch {
	case name == "config":
		return
	case strings.HasPrefix(name, "log/"):
		n := 0
		for _, other := range v.names {
			if strings.HasPrefix(other, "log/") {
				n++
			}
		}
		v.b.Set(log.EntryName(uint64(n)), v.whole[name])
		v.found(ctx, name+" again as the next entry")
		return
	case strings.HasPrefix(name, "bundle/"):
		other = log.BundleName(1)
	}
	v.b.Set(other, v.whole[name])
	res, err := v.w.verify(ctx)
	if err != nil || res.Unnamed != 1 {
		v.t.Errorf("%s again as %s: %+v, %v", name, other, res, err)
	}
	v.b.Restore(v.whole)
}

// flipName is a name like another object's that nobody has.
func flipName(name string) string {
	last := byte('0')
	if name[len(name)-1] == last {
		last = '1'
	}
	return name[:len(name)-1] + string(last)
}

// TestFaultLostStart demands that init leaves alone what was a vault once: under
// another config it would be lost for good.
func TestFaultLostStart(t *testing.T) {
	ctx := t.Context()
	v := newFlipVault(t, 0, true)
	for _, name := range []string{"config", log.EntryName(0)} {
		v.b.Remove(name)
		before := v.b.Snapshot()
		w := &faultWorld{home: v.w.home + "-new", vault: v.w.vault, wrap: v.w.wrap}
		if err := w.init(ctx); !errors.Is(err, key.ErrDamaged) {
			t.Errorf("init without %s: %v", name, err)
		}
		if after := v.b.Snapshot(); !equalObjects(before, after) {
			t.Errorf("init without %s changed the vault", name)
		}
		v.b.Restore(v.whole)
	}
	if err := (&faultWorld{home: v.w.home + "-new", vault: v.w.vault, wrap: v.w.wrap}).init(ctx); !errors.Is(err, ErrVaultExists) {
		t.Errorf("init on a vault: %v", err)
	}
}

func equalObjects(a, b map[string][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || !bytes.Equal(v, w) {
			return false
		}
	}
	return true
}

// adminKey is the key that condemns packs, from a home that keeps it.
func (w *faultWorld) adminKey(t *testing.T, id key.VaultID) ed25519.PrivateKey {
	t.Helper()
	h, err := home.Open(w.home)
	if err != nil {
		t.Fatal(err)
	}
	k, ok, err := h.Keys(id)
	if err != nil || !ok || k.Admin == nil {
		t.Fatalf("the home has no admin key: %v", err)
	}
	return ed25519.NewKeyFromSeed(k.Admin)
}
