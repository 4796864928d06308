package agent

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
}

func hostileDir(key string) hostileRow {
	return hostileRow{key, manifest.Entry{Kind: manifest.KindDir, Mode: 0o755}}
}

// hostileFile is a file that holds the one chunk of the vault.
func (h *hostileVault) file(key string) hostileRow {
	return hostileRow{key, manifest.Entry{
		Kind: manifest.KindFile, Mode: 0o644, Size: uint64(len(hostileText)),
		Extents: []manifest.Extent{{Length: uint64(len(hostileText)), ID: h.chunk}},
	}}
}

func hostileLink(key, target string) hostileRow {
	return hostileRow{key, manifest.Entry{Kind: manifest.KindSymlink, Mode: 0o777, Target: target}}
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
		b = manifest.AppendEntry(b, &r.entry)
		last = r.key
	}
	return b
}

// plant commits a point with one source, whose manifest is these pages; the last
// is the root.
func (h *hostileVault) plant(ctx context.Context, path string, pages ...[]byte) (point string, err error) {
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
		ids, names := chunk.NewHasher(s.vault.Ring.ChunkID), chunk.NewHasher(s.vault.Ring.PageID)
		h.chunk = ids.Sum([]byte(hostileText))
		if err := wr.AddRecord(ctx, ws, key.TypeDataPack, []byte(hostileText), []pack.Chunk{{ID: h.chunk, Length: uint32(len(hostileText))}}); err != nil {
			return err
		}
		var root chunk.ID
		for _, p := range pages {
			root = names.Sum(p)
			if err := wr.AddRecord(ctx, ws, key.TypeManifestPack, p, []pack.Chunk{{ID: root, Length: uint32(len(p))}}); err != nil {
				return err
			}
		}
		if err := wr.Flush(); err != nil {
			return err
		}
		run, _, err := wr.WriteIndex(nil)
		if err != nil {
			return err
		}
		p := log.Point{Machine: s.machine.ID, Install: s.machine.Nonce, Previous: s.lastCommit(s.vault.Log.State()), Started: s.now().UnixNano(), Runs: []chunk.ID{run}}
		if err := s.random(p.ID[:]); err != nil {
			return err
		}
		p.Sources = []log.Source{{ID: sourceID(s.machine.ID, path), Path: path, Status: log.StatusComplete, Root: root, Base: log.None, Entries: 3, Files: 1}}
		point = p.ID.String()
		entry, err := s.vault.Log.Append(ctx, s.machine.Key, func(*log.State) (log.Body, error) { return &log.Commit{Point: p}, nil })
		if err != nil {
			return err
		}
		return s.committed(entry)
	})
	return point, err
}

// TestFaultHostile restores points that a hostile member wrote. Whatever they say,
// nothing appears or changes outside of the target, and no restore of one that is
// no tree passes for a whole one.
func TestFaultHostile(t *testing.T) {
	ctx := t.Context()
	dir := faultTemp(t)
	h := &hostileVault{t: t, dir: dir, w: &faultWorld{home: filepath.Join(dir, "home"), vault: filepath.Join(dir, "vault")}}
	if err := h.w.init(ctx); err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(dir, "outside")
	if err := os.MkdirAll(filepath.Join(outside, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(outside, "file"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := h.plant(ctx, "/s", hostilePage([]hostileRow{hostileDir("")})); err != nil { // for the chunk's ID
		t.Fatal(err)
	}
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
		{"an honest tree", "/s", []hostileRow{root, h.file("a"), hostileLink("link", outside)}, true},
	} {
		before := faultFiles(t, outside)
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
				if err := os.Symlink(outside, filepath.Join(target, "s", "planted")); err != nil {
					t.Fatal(err)
				}
			}
			var res RestoreResult
			err := h.w.session(ctx, false, func(s *Session) (err error) {
				res, err = s.Restore(ctx, RestoreOptions{Point: point, Target: target, Conflict: conflict})
				return err
			})
			if !c.whole && err == nil && res.Failed == 0 {
				t.Errorf("%s (%s): it passes for whole: %+v", c.name, conflict, res)
			}
			if c.whole && (err != nil || res.Failed > 0) && c.name == "an honest tree" {
				t.Errorf("%s (%s): %+v, %v", c.name, conflict, res, err)
			}
			if !equalObjects(before, faultFiles(t, outside)) {
				t.Fatalf("%s (%s): something outside of the target was changed", c.name, conflict)
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
