package agent

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/wire"
	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
	"github.com/tharsis-backup/tharsis/vault/manifest"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// hostileRow is a row of a page as its writer wants it: no rule is kept.
type hostileRow struct {
	key   string
	entry manifest.Entry
	raw   []byte // instead of entry
}

func hostileDir(key string) hostileRow {
	return hostileRow{key: key, entry: manifest.Entry{Kind: manifest.KindDir, Mode: 0o755}}
}

// hostileRaw is an entry of this kind, with flags and what comes behind the inode
// number.
func hostileRaw(key string, kind manifest.Kind, flags byte, tail ...[]byte) hostileRow {
	raw := []byte{byte(kind), flags, 0o44, 0, 0, 0, 0, 0, 0, 0, 0, 0} // mode, uid, gid, user, group, mtime, ctime, inode
	return hostileRow{key: key, raw: append(raw, bytes.Join(tail, nil)...)}
}

// hostileNumber is a uvarint.
func hostileNumber(n uint64) []byte { return wire.AppendUvarint(nil, n) }

func hostileDevice(key string, kind manifest.Kind, major, minor uint32) hostileRow {
	return hostileRow{key: key, entry: manifest.Entry{Kind: kind, Mode: 0o666, Major: major, Minor: minor}}
}

// hostileFile is a file that holds the one chunk of the vault.
func (h *hostileVault) file(key string) hostileRow {
	return hostileRow{key: key, entry: manifest.Entry{
		Kind: manifest.KindFile, Mode: 0o644, Size: uint64(len(hostileText)),
		Extents: []manifest.Extent{{Length: uint64(len(hostileText)), ID: h.chunk}},
	}}
}

func hostileLink(key, target string) hostileRow {
	return hostileRow{key: key, entry: manifest.Entry{Kind: manifest.KindSymlink, Mode: 0o777, Target: target}}
}

const hostileText = "planted by a hostile member of the vault"

// hostileVault writes what a member who has the vault's keys, and no good will,
// could write: everything is sealed and signed as it should be.
type hostileVault struct {
	t     *testing.T
	w     *faultWorld
	dir   string
	chunk chunk.ID
	n     int
}

// page encodes a leaf of the rows, in their order.
func hostilePage(rows []hostileRow) []byte {
	b := []byte{1, 0}
	b = wire.AppendUvarint(b, uint64(len(rows)))
	last := ""
	for _, r := range rows {
		shared := 0
		for shared < len(last) && shared < len(r.key) && last[shared] == r.key[shared] {
			shared++
		}
		b = wire.AppendUvarint(b, uint64(shared))
		b = wire.AppendBlob(b, r.key[shared:])
		if r.raw != nil {
			b = append(b, r.raw...)
		} else {
			b = manifest.AppendEntry(b, &r.entry)
		}
		last = r.key
	}
	return b
}

// hostileSource is a source of a point: its pages, of which the last is the root, or
// what makes them.
type hostileSource struct {
	path  string
	pages [][]byte
	make  func(manifest.PageWriter) (chunk.ID, error)
}

// plant commits a point with one source of these pages.
func (h *hostileVault) plant(ctx context.Context, path string, pages ...[]byte) (point string, err error) {
	return h.plantAll(ctx, nil, hostileSource{path: path, pages: pages})
}

// hostilePages stores pages as a backup would.
type hostilePages struct {
	wr    *vault.Writer
	ws    *vault.Workspace
	names *chunk.Hasher
	there map[chunk.ID]bool
}

// PutPage implements manifest.PageWriter.
func (p *hostilePages) PutPage(ctx context.Context, page []byte) (chunk.ID, error) {
	id := p.names.Sum(page)
	if p.there[id] {
		return id, nil
	}
	p.there[id] = true
	return id, p.wr.AddRecord(ctx, p.ws, key.TypeManifestPack, page, []pack.Chunk{{ID: id, Length: uint32(len(page))}})
}

// plantAll commits a point with these sources. more, if not nil, stores what else
// belongs to it.
func (h *hostileVault) plantAll(ctx context.Context, more func(*Session, *vault.Writer, *hostilePages) error, sources ...hostileSource) (point string, err error) {
	err = h.w.session(ctx, true, func(s *Session) error {
		if err := s.enrol(ctx); err != nil {
			return err
		}
		wr := s.vault.NewWriter(ctx, func(context.Context, chunk.ID) (bool, error) { return false, nil }, vault.WriterOptions{SpoolDir: s.cache.SpoolDir()})
		defer wr.Close()
		ws, err := vault.NewWorkspace()
		if err != nil {
			return err
		}
		pages := &hostilePages{wr, ws, chunk.NewHasher(s.vault.Ring.PageID), map[chunk.ID]bool{}}
		h.chunk = chunk.NewHasher(s.vault.Ring.ChunkID).Sum([]byte(hostileText))
		if err := wr.AddRecord(ctx, ws, key.TypeDataPack, []byte(hostileText), []pack.Chunk{{ID: h.chunk, Length: uint32(len(hostileText))}}); err != nil {
			return err
		}
		if more != nil {
			if err := more(s, wr, pages); err != nil {
				return err
			}
		}
		p := log.Point{Machine: s.machine.ID, Install: s.machine.Nonce, Previous: s.lastCommit(s.vault.Log.State()), Started: s.now().UnixNano()}
		for _, src := range sources {
			root, err := src.root(ctx, pages)
			if err != nil {
				return err
			}
			p.Sources = append(p.Sources, log.Source{ID: sourceID(s.machine.ID, src.path), Path: src.path, Status: log.StatusComplete, Root: root, Base: log.None, Entries: 3, Files: 1})
		}
		if err := wr.Flush(); err != nil {
			return err
		}
		run, _, err := wr.WriteIndex(nil)
		if err != nil {
			return err
		}
		p.Runs = []chunk.ID{run}
		if err := s.random(p.ID[:]); err != nil {
			return err
		}
		point = p.ID.String()
		entry, err := s.vault.Log.Append(ctx, s.machine.Key, func(*log.State) (log.Body, error) { return &log.Commit{Point: p}, nil })
		if err != nil {
			return err
		}
		return s.committed(entry)
	})
	return point, err
}

func (src *hostileSource) root(ctx context.Context, w *hostilePages) (root chunk.ID, err error) {
	if src.make != nil {
		return src.make(w)
	}
	for _, p := range src.pages {
		if root, err = w.PutPage(ctx, p); err != nil {
			return root, err
		}
	}
	return root, nil
}

// newHostile makes such a vault, and something beside the targets that is not to be
// touched.
func newHostile(t *testing.T) (h *hostileVault, outside string) {
	dir := faultTemp(t)
	h = &hostileVault{t: t, dir: dir, w: &faultWorld{home: filepath.Join(dir, "home"), vault: filepath.Join(dir, "vault")}}
	if err := h.w.init(t.Context()); err != nil {
		t.Fatal(err)
	}
	outside = filepath.Join(dir, "outside")
	for _, f := range []string{"file", "f", "sub/file", "a/b/c"} {
		path := filepath.Join(outside, f)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.plant(t.Context(), "/s", hostilePage([]hostileRow{hostileDir("")})); err != nil { // for the chunk's ID
		t.Fatal(err)
	}
	return h, outside
}

// restore restores a point to a target, and tells how many bytes it allocated.
func (h *hostileVault) restore(ctx context.Context, point, target, conflict string) (res RestoreResult, allocated int64, err error) {
	var before, after runtime.MemStats
	err = h.w.session(ctx, false, func(s *Session) error {
		runtime.ReadMemStats(&before)
		res, err = s.Restore(ctx, RestoreOptions{Point: point, Target: target, Conflict: conflict})
		runtime.ReadMemStats(&after)
		return err
	})
	return res, int64(after.TotalAlloc - before.TotalAlloc), err
}

// hostileBytes is more than a restore of a small point allocates, however odd: the
// decoders and buffers of its workers, and what a page of a MiB becomes.
const hostileBytes = 160 << 20

// canary describes all below a folder, the folder itself, and how many inodes there
// are, so that no write, change of metadata, new name or new link goes unseen: each of
// them sets a ctime.
func canary(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	inodes := map[uint64]bool{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		inodes[st.Ino] = true
		fmt.Fprintf(&b, "%s %d %o %d:%d %d links, %d bytes, %v %v", path, st.Ino, st.Mode, st.Uid, st.Gid, st.Nlink, st.Size, st.Mtim, st.Ctim)
		if e.Type().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %q", data)
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&b, "%d inodes\n", len(inodes))
	return b.String()
}

// TestFaultHostile restores points that a hostile member wrote. Whatever they say,
// nothing appears or changes outside of the target, and no restore of one that is
// no tree passes for a whole one.
func TestFaultHostile(t *testing.T) {
	ctx := t.Context()
	h, outside := newHostile(t)
	dir := h.dir
	root := hostileDir("")
	huge := h.file("huge")
	huge.entry.Size, huge.entry.Extents = math.MaxInt64, []manifest.Extent{{Length: 1<<62 - 1}, {Length: uint64(len(hostileText)), ID: h.chunk}}
	lying := h.file("lying")
	lying.entry.Size, lying.entry.Extents = 7<<20, []manifest.Extent{{Length: 7 << 20, ID: h.chunk}}
	foreign := h.file("foreign")
	foreign.entry.Extents = []manifest.Extent{{Length: uint64(len(hostileText)), ID: chunk.ID{1, 2, 3}}}
	linked := h.file("b")
	linked.entry.LinkKey = 7
	linkedTo := hostileLink("a", filepath.Join(outside, "file"))
	linkedTo.entry.LinkKey = 7
	up := strings.Repeat("../", 12) + strings.TrimPrefix(outside, "/")

	for _, c := range []struct {
		name  string
		path  string
		rows  []hostileRow
		whole bool // it is a tree, if an odd one: it may restore
	}{
		{"the parent", "/s", []hostileRow{root, h.file("..")}, false},
		{"the parent of a folder", "/s", []hostileRow{root, hostileDir("a"), h.file("a\x00..")}, false},
		{"a folder that is the parent", "/s", []hostileRow{root, hostileDir(".."), h.file("..\x00x")}, false},
		{"the folder itself", "/s", []hostileRow{root, h.file(".")}, false},
		{"an absolute name", "/s", []hostileRow{root, h.file(outside + "/x")}, false},
		{"a name with slashes", "/s", []hostileRow{root, h.file(up + "/x")}, false},
		{"an empty name", "/s", []hostileRow{root, hostileDir("a"), h.file("a\x00")}, false},
		{"an empty name within", "/s", []hostileRow{root, hostileDir("a"), h.file("a\x00\x00b")}, false},
		{"an empty name before", "/s", []hostileRow{root, h.file("\x00etc")}, false},
		{"a name that is too long", "/s", []hostileRow{root, h.file(strings.Repeat("n", 2000))}, false},
		{"a key that is too long", "/s", []hostileRow{root, h.file(strings.Repeat("n\x00", 40000) + "n")}, false},
		{"the same key twice", "/s", []hostileRow{root, h.file("a"), h.file("a")}, false},
		{"keys out of order", "/s", []hostileRow{root, h.file("b"), h.file("a")}, false},
		{"no folder above", "/s", []hostileRow{root, h.file("a\x00b")}, false},
		{"a file above", "/s", []hostileRow{root, h.file("a"), h.file("a\x00b")}, false},
		{"a symlink above", "/s", []hostileRow{root, hostileLink("a", outside), h.file("a\x00planted")}, false},
		{"a symlink above, then its folder", "/s", []hostileRow{root, hostileLink("a", outside), hostileDir("a\x00sub"), h.file("a\x00sub\x00planted")}, false},
		{"no root", "/s", []hostileRow{h.file("a")}, false},
		{"a root that is a symlink", "/s", []hostileRow{hostileLink("", outside), h.file("planted")}, false},
		{"a root that is a file", "/s", []hostileRow{h.file(""), h.file("planted")}, false},
		{"a hole of 4 EiB", "/s", []hostileRow{root, huge}, false},
		{"a chunk that is shorter", "/s", []hostileRow{root, lying}, false},
		{"a chunk that is nowhere", "/s", []hostileRow{root, foreign}, false},
		{"a link to a symlink", "/s", []hostileRow{root, linkedTo, linked}, true},
		{"a source above the target", "/../../../../../../../../.." + outside, []hostileRow{root, h.file("planted")}, false},
		{"a source within that goes up", "/a/../../outside", []hostileRow{root, h.file("planted")}, false},
		{"a source with a NUL", "/s\x00/x", []hostileRow{root, h.file("planted")}, false},
		{"a source that is no path", "..", []hostileRow{root, h.file("planted")}, false},
		{"a device above", "/s", []hostileRow{root, hostileDevice("a", manifest.KindChar, 1, 3), h.file("a\x00b")}, false},
		{"a FIFO above", "/s", []hostileRow{root, {key: "a", entry: manifest.Entry{Kind: manifest.KindFIFO}}, h.file("a\x00b")}, false},
		{"a disk, memory and an endless device", "/s", []hostileRow{
			root, hostileDevice("a", manifest.KindBlock, 254, 0), hostileDevice("b", manifest.KindChar, 1, 1), hostileDevice("c", manifest.KindChar, 1, 5),
		}, true},
		{"a device of numbers that are too large", "/s", []hostileRow{root, hostileDevice("a", manifest.KindBlock, math.MaxUint32, math.MaxUint32)}, true},
		{"a disk in the place of a link", "/s", []hostileRow{root, hostileDevice("planted", manifest.KindBlock, 254, 0)}, true},
		{"a folder in the place of a link", "/s", []hostileRow{root, hostileDir("planted"), h.file("planted\x00file")}, true},
		{"a file in the place of a link", "/s", []hostileRow{root, h.file("planted")}, true},
		{"a link to a device", "/s", []hostileRow{
			root, {key: "a", entry: manifest.Entry{Kind: manifest.KindChar, Major: 1, Minor: 3, LinkKey: 7}}, linked,
		}, true},
		{"a size of 2^63", "/s", []hostileRow{root, hostileRaw("a", manifest.KindFile, 0, hostileNumber(1<<63), []byte{0})}, false},
		{"2^63 chunks", "/s", []hostileRow{root, hostileRaw("a", manifest.KindFile, 0, hostileNumber(40), hostileNumber(1<<63))}, false},
		{"a chunk of 2^63 - 1 bytes", "/s", []hostileRow{root, hostileRaw("a", manifest.KindFile, 0, hostileNumber(1<<63-1), []byte{1}, hostileNumber(1<<64-2), h.chunk[:])}, false},
		{"chunks of 2^63 bytes together", "/s", []hostileRow{root, hostileRaw("a", manifest.KindFile, 0, hostileNumber(1<<63-1), []byte{2}, hostileNumber(1<<64-1), hostileNumber(1), h.chunk[:])}, false},
		{"attributes of 2^63 bytes", "/s", []hostileRow{root, hostileRaw("a", manifest.KindFile, 16, hostileNumber(1<<63), []byte{0, 0})}, false},
		{"attributes of 8 MiB in no chunk", "/s", []hostileRow{root, hostileRaw("a", manifest.KindFile, 32, hostileNumber(8<<20), bytes.Repeat([]byte{9}, 32), []byte{0, 0})}, false},
		{"a target of 2^63 bytes", "/s", []hostileRow{root, hostileRaw("a", manifest.KindSymlink, 0, hostileNumber(1<<63))}, false},
		{"a block table that is nowhere", "/s", []hostileRow{root, hostileRaw("a", manifest.KindFile, 64, hostileNumber(1<<62), bytes.Repeat([]byte{9}, 32))}, false},
		{"an honest tree", "/s", []hostileRow{root, h.file("a"), hostileLink("link", outside)}, true},
	} {
		point, err := h.plant(ctx, c.path, hostilePage(c.rows))
		if err != nil {
			t.Logf("%s: cannot be written: %v", c.name, err)
			continue
		}
		for _, conflict := range []string{"copy", "overwrite"} {
			target := filepath.Join(dir, fmt.Sprintf("target-%d", h.n))
			h.n++
			// In the target lies what a second restore would find there.
			if err := os.MkdirAll(filepath.Join(target, "s"), 0o755); err != nil {
				t.Fatal(err)
			}
			if c.name != "a link to a symlink" {
				to := []string{outside, filepath.Join(outside, "file"), filepath.Join(outside, "new")}[h.n%3]
				if err := os.Symlink(to, filepath.Join(target, "s", "planted")); err != nil {
					t.Fatal(err)
				}
			}
			before := canary(t, outside)
			res, allocated, err := h.restore(ctx, point, target, conflict)
			if !c.whole && err == nil && res.Failed == 0 {
				t.Errorf("%s (%s): it passes for whole: %+v", c.name, conflict, res)
			}
			if c.whole && (err != nil || res.Failed > 0) && c.name == "an honest tree" {
				t.Errorf("%s (%s): %+v, %v", c.name, conflict, res, err)
			}
			if after := canary(t, outside); after != before {
				t.Fatalf("%s (%s): something outside of the target was changed: it was\n%sand is\n%s", c.name, conflict, before, after)
			}
			if allocated > hostileBytes {
				t.Errorf("%s (%s): %d bytes were allocated", c.name, conflict, allocated)
			}
		}
		// Looking at such a point gives an error or entries, and no panic.
		err = h.w.session(ctx, false, func(s *Session) error {
			_ = s.List(ctx, point, "", true, func(Entry) error { return nil })
			_ = s.Find(ctx, "planted", func(FoundVersion) error { return nil })
			_, _ = s.Verify(ctx, VerifyOptions{ReadData: true})
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	for _, e := range must(os.ReadDir(dir)) {
		switch n := e.Name(); {
		case n == "home", n == "vault", n == "outside", strings.HasPrefix(n, "target-"):
		default:
			t.Errorf("there is %s beside the targets", n)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
