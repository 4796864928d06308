package agent

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
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
	if res, err := v.w.verify(ctx); err != nil || res.Unnamed != 0 || res.Points != maxRuns+1 {
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

// damaged runs a check of the vault as it now is. It tells whether the check
// found anything, and fails the test where it panics.
func (v *flipVault) damaged(ctx context.Context, what string) (err error) {
	defer func() {
		if r := recover(); r != nil {
			v.t.Errorf("%s: panic: %v", what, r)
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	_, err = v.w.verify(ctx)
	return err
}

// found demands that a check of the vault, as it now is, finds something, and
// makes it whole again.
func (v *flipVault) found(ctx context.Context, what string) {
	v.t.Helper()
	if err := v.damaged(ctx, what); err == nil {
		v.t.Errorf("%s: a check finds nothing", what)
	}
	v.b.Restore(v.whole)
}

// restores demands that a restore from the vault, as it now is, gives the source
// exactly, or names what it does not give, or refuses.
func (v *flipVault) restores(ctx context.Context, what string) {
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
	res, err := v.w.restore(ctx, "latest", target)
	if err != nil {
		return
	}
	diffs, err := treecmp.Compare(v.want, filepath.Join(target, v.src), treecmp.Options{})
	if err != nil {
		v.t.Errorf("%s: restore: %v", what, err)
		return
	}
	notes := v.w.notes.text()
	pageLost := strings.Contains(notes, "a page of the list of files is damaged")
	for _, d := range diffs {
		named := pageLost || strings.Contains(notes, fmt.Sprintf("%q", filepath.Join(v.src, d.Path)))
		partial := d.Aspect&(treecmp.Missing|treecmp.Xattrs|treecmp.Links|treecmp.DirTimes) != 0
		if res.Failed == 0 || !partial || !named && d.Aspect&(treecmp.Links|treecmp.DirTimes) == 0 {
			v.t.Errorf("%s: restore (%d failed): %v\n%s", what, res.Failed, d, notes)
		}
	}
}

// flips are all single bit flips of an object that are tried: one of each byte,
// and all eight in what is in the clear.
func flips(name string, data []byte) (all []int) {
	clear := 40 // a sealed object's header
	if name == "config" || strings.HasPrefix(name, "keys/") {
		clear = len(data)
	}
	for i := range data {
		if i < clear || i >= len(data)-4 {
			for bit := range 8 {
				all = append(all, 8*i+bit)
			}
			continue
		}
		all = append(all, 8*i+(i*5+3)%8)
	}
	return all
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
			v.restores(ctx, what)
		}
		v.found(ctx, what)
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
			v.found(ctx, fmt.Sprintf("bit %d of %s", n, name))
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

// everyBundleByte flips a bit of every byte of the bundle, and lets the part of a
// check that is about bundles look at it.
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
		for _, i := range faultSample(len(v.whole[bundle]), 500) {
			v.b.Corrupt(bundle, int64(i), 1<<(i%8))
			before := c.damaged
			if err := c.checkBundle(ctx, 0, want, true); err != nil {
				return err
			}
			if c.damaged != before+1 {
				v.t.Errorf("byte %d of the bundle: not found", i)
			}
			v.b.Restore(v.whole)
		}
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

func (v *flipVault) spoilObjects(ctx context.Context, names []string) {
	r := rand.New(rand.NewPCG(3, 3))
	spoil := func(what string, set func()) {
		set()
		if r.IntN(4) == 0 {
			v.restores(ctx, what)
		}
		v.found(ctx, what)
	}
	var last string
	for _, name := range names {
		whole := v.whole[name]
		lengths := []int{0, 1, 6, len(whole) / 2, len(whole) - 1, r.IntN(len(whole))}
		if os.Getenv(faultAllEnv) == "" {
			lengths = lengths[r.IntN(3)*2:][:2]
		}
		for _, n := range lengths {
			spoil(fmt.Sprintf("%s cut to %d bytes", name, n), func() { v.b.Set(name, whole[:n]) })
		}
		spoil(name+" with a zero more", func() { v.b.Set(name, append(bytes.Clone(whole), 0)) })
		spoil(name+" twice over", func() { v.b.Set(name, append(bytes.Clone(whole), whole...)) })
		spoil(name+" removed", func() { v.b.Remove(name) })
		if kind, _, _ := strings.Cut(name, "/"); strings.HasPrefix(last, kind+"/") {
			spoil(name+" and "+last+" swapped", func() {
				v.b.Set(name, v.whole[last])
				v.b.Set(last, whole)
			})
		}
		v.double(ctx, name)
		last = name
	}
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
