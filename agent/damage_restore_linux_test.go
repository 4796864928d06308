package agent

import (
	"bytes"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tharsis-backup/tharsis/internal/treecmp"
	"github.com/tharsis-backup/tharsis/internal/wire"
	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/index"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/manifest"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// heldPage is a page of a manifest, with the keys that it is about.
type heldPage struct {
	loc      index.Location
	level    int // 0 for a leaf
	from, to []byte
}

// pagesOf are the pages of the manifest of a point's only source.
func (r *rig) pagesOf(point string) (all []heldPage) {
	r.t.Helper()
	root := r.root(point)
	noErr(r.t, r.session(r.t.Context(), func(s *Session) error {
		x, err := s.vault.OpenIndex(r.t.Context(), vault.IndexOptions{})
		if err != nil {
			return err
		}
		pages := s.pages(x)
		return manifest.Pages(r.t.Context(), pages, root, nil, func(ref manifest.Ref) error {
			if !ref.Page {
				return nil
			}
			locs, err := x.Find(r.t.Context(), ref.ID, nil)
			if err != nil || len(locs) == 0 {
				return fmt.Errorf("page %s is nowhere: %w", ref.ID.Short(), err)
			}
			page, err := pages.Page(r.t.Context(), ref.ID)
			if err != nil || page[0] > 2 { // of a block table
				return err
			}
			d := wire.NewDecoder(page[2:])
			d.Uvarint(1 << 20) // rows
			d.Uvarint(0)       // shared
			all = append(all, heldPage{locs[0], int(page[1]), []byte(d.Str(1 << 16)), nil})
			return d.Err()
		})
	}))
	for i := range all {
		next := slices.IndexFunc(all[i+1:], func(p heldPage) bool { return p.level >= all[i].level })
		if next >= 0 {
			all[i].to = all[i+1+next].from
		}
	}
	return all
}

// flipAt flips a bit of a pack's record in the vault.
func (r *rig) flipAt(l index.Location) (undo func()) {
	r.t.Helper()
	f := filepath.Join(r.vault, pack.Name(l.Pack))
	b, err := os.ReadFile(f)
	noErr(r.t, err)
	whole := bytes.Clone(b)
	b[l.RecordOffset+l.Stored/2] ^= 8
	noErr(r.t, os.Chmod(f, 0o600))
	noErr(r.t, os.WriteFile(f, b, 0o600))
	return func() { noErr(r.t, os.WriteFile(f, whole, 0o600)) }
}

// restoresBut restores a point of which what is below lost cannot be had, and checks
// that the rest is as in the source, that nothing else is there, and that notes tell
// of it.
func (r *rig) restoresBut(point string, lost func(key []byte) bool) {
	r.t.Helper()
	dir := r.temp()
	defer removeAll(dir)
	res, err := r.tryRestore(RestoreOptions{Point: point, Target: dir})
	if err != nil || res.Status != CompletedWithWarnings || res.Failed == 0 {
		r.t.Errorf("restore: %v, %+v: %s", err, res, r.notes)
		return
	}
	diffs, err := treecmp.Compare(r.src, filepath.Join(dir, r.src), treecmp.Options{Max: 1 << 20})
	if err != nil {
		r.t.Error(err)
	}
	noErr(r.t, filepath.WalkDir(r.src, func(path string, e fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(r.src, path)
		key, kerr := manifest.KeyOf(filepath.ToSlash(rel))
		if err != nil || kerr != nil || e.IsDir() || lost(key) {
			return err
		}
		want, err := os.ReadFile(path)
		if got, rerr := os.ReadFile(filepath.Join(dir, path)); rerr != nil || !bytes.Equal(got, want) {
			r.t.Errorf("%s: %v", rel, rerr)
		}
		return err
	}))
	for _, d := range diffs {
		key, err := manifest.KeyOf(strings.TrimPrefix(filepath.ToSlash(d.Path), "."))
		noErr(r.t, err)
		if lost(key) && d.Aspect&^(treecmp.Missing|ofFolders) == 0 {
			continue
		}
		r.t.Errorf("restored otherwise: %v", d)
	}
}

// ofFolders is what is not known of a folder whose entry is lost, but not what is in it.
const ofFolders = treecmp.DirTimes | treecmp.Modes | treecmp.Owners | treecmp.Xattrs

// pageEnds tells whether a page of a level ends behind a key (docs/FORMAT.md §8.3).
func pageEnds(key []byte, level byte) bool {
	h := fnv.New64a()
	h.Write(key)
	h.Write([]byte{level})
	n := h.Sum64()
	n ^= n >> 32
	return n*0x9e3779b97f4a7c15>>57 == 0
}

// deepTree is a source of few files and many pages, with inner ones below the root,
// and with folders whose content stands in several pages.
func (r *rig) deepTree() {
	n := 0
	for d := range 3 {
		for e := range 3 {
			for range 4 {
				dir := fmt.Sprintf("d%d/e%d/f", d, e)
				for ; ; n++ {
					key, err := manifest.KeyOf(fmt.Sprintf("%s/%d", dir, n))
					noErr(r.t, err)
					if pageEnds(key, 0) && pageEnds(key, 1) {
						break
					}
				}
				r.write(fmt.Sprintf("%s/%d", dir, n), fmt.Sprint(n))
				n++
			}
		}
	}
}

// Each page of a manifest is damaged in turn: what it does not name is restored,
// in its place, and the rest is told of.
func TestRestoreWithoutOnePage(t *testing.T) {
	r := newRig(t)
	r.deepTree()
	res := r.clean()
	levels, inside := map[int]int{}, 0
	pages := r.pagesOf(res.Point)
	for _, i := range sampleOf(len(pages), 24) {
		p := pages[i]
		if len(p.from) == 0 && p.to == nil {
			continue // the root: see TestRestoreWithoutRoot
		}
		levels[p.level]++
		if bytes.Contains(p.to, []byte{0}) {
			inside++
		}
		undo := r.flipAt(p.loc)
		r.wipe()
		lost := func(key []byte) bool {
			return bytes.Compare(key, p.from) >= 0 && (p.to == nil || bytes.Compare(key, p.to) < 0)
		}
		r.restoresBut(res.Point, lost)
		at := filepath.Join(r.src, manifest.PathOf(p.to))
		if p.to != nil && !r.notes.has(Failure, "", at) {
			t.Errorf("no note says that what is before %s is lost: %s", at, r.notes)
		}
		undo()
	}
	if levels[0] < 12 || levels[1] < 3 || inside < 12 {
		t.Errorf("pages by level: %v, %d before one that begins within a folder", levels, inside)
	}
}

// Where the way to a folder that is asked for is damaged, what can be found of it is
// restored all the same.
func TestRestoreFolderWithoutOnePage(t *testing.T) {
	r := newRig(t)
	r.deepTree()
	res := r.clean()
	folder := []byte("d1\x00e1")
	hurt := 0
	for _, p := range r.pagesOf(res.Point) {
		if p.level > 0 || p.to == nil {
			continue
		}
		undo := r.flipAt(p.loc)
		r.wipe()
		dir := r.temp()
		path := filepath.Join(r.src, "d1/e1")
		got, err := r.tryRestore(RestoreOptions{Point: res.Point, Target: dir, Paths: []string{path}})
		noErr(t, err)
		if got.Failed > 0 {
			hurt++
		}
		noErr(t, filepath.WalkDir(path, func(path string, e fs.DirEntry, err error) error {
			rel, _ := filepath.Rel(r.src, path)
			key, kerr := manifest.KeyOf(rel)
			lost := bytes.Compare(key, p.from) >= 0 && bytes.Compare(key, p.to) < 0
			if err != nil || kerr != nil || lost {
				return err
			}
			if _, err := os.Lstat(filepath.Join(dir, path)); err != nil {
				t.Errorf("without %q to %q: %v", p.from, p.to, err)
			}
			return nil
		}))
		removeAll(dir)
		undo()
	}
	if hurt < 4 {
		t.Errorf("only %d pages hurt %q", hurt, folder)
	}
}

// A lost root page takes its source's list of files with it, and no other: not that
// of another source, nor of another point.
func TestRestoreWithoutRoot(t *testing.T) {
	r := newRig(t)
	r.deepTree()
	other := filepath.Join(r.dir, "other")
	noErr(t, os.Mkdir(other, 0o755))
	noErr(t, os.WriteFile(filepath.Join(other, "x"), []byte("one"), 0o644))
	first := r.clean()
	r.write("d0/more", "two")
	second := r.clean()
	third := r.backup(BackupOptions{Paths: []string{r.src, other}})
	pages := r.pagesOf(second.Point)
	r.flipAt(pages[0].loc)
	r.wipe()
	if _, err := r.tryRestore(RestoreOptions{Point: second.Point, Target: r.temp()}); !errors.Is(err, key.ErrDamaged) {
		t.Errorf("a point of which nothing is left: %v", err)
	}
	dir := r.temp()
	got, err := r.tryRestore(RestoreOptions{Point: third.Point, Target: dir})
	if b, rerr := os.ReadFile(filepath.Join(dir, other, "x")); err != nil || rerr != nil || string(b) != "one" ||
		got.Failed != 1 || !r.notes.has(Failure, r.src, "to the end") {
		t.Errorf("%v, %v, %+v: %s", err, rerr, got, r.notes)
	}
	noErr(t, os.Remove(filepath.Join(r.src, "d0/more")))
	dir = r.restore(first.Point)
	sameBut(t, r.src, filepath.Join(dir, r.src), treecmp.DirTimes)
}
