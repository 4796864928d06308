package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/tharsis-backup/tharsis/agent/source"
	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/log"
	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// view reads one vault's points.
type view struct {
	s     *Session
	index *vault.Index
	pages *vault.Pages
}

func (s *Session) view(ctx context.Context) (*view, error) {
	o := s.indexOptions(false)
	o.Tolerant, o.Fallback = true, s.madeAnew // what is left can be shown and restored
	x, err := s.vault.OpenIndex(ctx, o)
	if err != nil {
		return nil, err
	}
	return &view{s, x, s.pages(x)}, nil
}

// show makes an entry fit for showing.
func show(path string, e *manifest.Entry) Entry {
	return Entry{
		Path: path, Kind: kindWords[e.Kind], Mode: e.Mode, UID: e.UID, GID: e.GID, User: e.User, Group: e.Group,
		Size: int64(e.Size), MTime: time.Unix(e.MTime.Sec, int64(e.MTime.Nsec)), Target: e.Target,
		Stale: e.Flags&manifest.FlagStale != 0, Unstable: e.Flags&manifest.FlagUnstable != 0,
	}
}

var kindWords = map[manifest.Kind]string{
	manifest.KindDir: "dir", manifest.KindFile: "file", manifest.KindSymlink: "symlink",
	manifest.KindBlock: "block", manifest.KindChar: "char", manifest.KindFIFO: "fifo",
}

// joined is the path of a key below a source's path.
func joined(path string, key []byte) string {
	if len(key) == 0 {
		return path
	}
	return strings.TrimSuffix(path, "/") + "/" + manifest.PathOf(key)
}

// keyIn is the key of an absolute path in a source, if it can be there.
func keyIn(src *log.Source, path string) ([]byte, bool) {
	if src.Status == log.StatusFailed || !inside(path, src.Path) {
		return nil, false
	}
	k, err := manifest.KeyOf(strings.TrimPrefix(strings.TrimPrefix(path, src.Path), "/"))
	return k, err == nil
}

// lookUp finds the entry of an absolute path in a point.
func (v *view) lookUp(ctx context.Context, p *log.Point, path string) (*log.Source, []byte, *manifest.Entry, error) {
	for i := range p.Sources {
		src := &p.Sources[i]
		key, ok := keyIn(src, path)
		if !ok {
			continue
		}
		e, err := manifest.Get(ctx, v.pages, src.Root, key)
		if errors.Is(err, manifest.ErrNotFound) {
			continue
		}
		return src, key, e, err
	}
	return nil, nil, nil, fmt.Errorf("%w: %s", ErrNoPath, path)
}

// List gives what a point has under a path: a folder's entries, or the one
// entry; without a path its sources; with recursive all below.
func (s *Session) List(ctx context.Context, point, path string, recursive bool, fn func(Entry) error) error {
	p, err := s.resolve(point, "", "")
	if err != nil {
		return err
	}
	v, err := s.view(ctx)
	if err != nil {
		return err
	}
	if path == "" || path == "/" && !hasSource(p.Point, "/") {
		return v.listSources(ctx, p.Point, recursive, fn)
	}
	src, key, e, err := v.lookUp(ctx, p.Point, path)
	if errors.Is(err, ErrNoPath) {
		if found, lerr := v.listAbove(ctx, p.Point, path, recursive, fn); found || lerr != nil {
			return lerr
		}
	}
	if err != nil {
		return err
	}
	if e.Kind != manifest.KindDir {
		return fn(show(path, e))
	}
	return v.listFolder(ctx, src, key, recursive, fn)
}

func hasSource(p *log.Point, path string) bool {
	for i := range p.Sources {
		if p.Sources[i].Path == path {
			return true
		}
	}
	return false
}

func (v *view) listSources(ctx context.Context, p *log.Point, recursive bool, fn func(Entry) error) error {
	_, err := v.listAbove(ctx, p, "/", recursive, fn)
	return err
}

// listAbove lists the sources that lie below a path which no source holds.
func (v *view) listAbove(ctx context.Context, p *log.Point, path string, recursive bool, fn func(Entry) error) (found bool, err error) {
	for i := range p.Sources {
		src := &p.Sources[i]
		if src.Status == log.StatusFailed || !inside(src.Path, path) {
			continue
		}
		found = true
		e, err := manifest.Get(ctx, v.pages, src.Root, nil)
		if errors.Is(err, manifest.ErrNotFound) {
			continue
		}
		if err != nil {
			return found, err
		}
		if err := fn(show(src.Path, e)); err != nil {
			return found, err
		}
		if recursive && e.Kind == manifest.KindDir {
			if err := v.listFolder(ctx, src, nil, true, fn); err != nil {
				return found, err
			}
		}
	}
	return found, nil
}

func (v *view) listFolder(ctx context.Context, src *log.Source, key []byte, recursive bool, fn func(Entry) error) error {
	if !recursive {
		dir := joined(src.Path, key)
		return manifest.Children(ctx, v.pages, src.Root, key, func(name []byte, e *manifest.Entry) error {
			return fn(show(joined(dir, name), e))
		})
	}
	c := manifest.NewCursor(v.pages, src.Root)
	if err := c.Seek(ctx, key); err != nil {
		return err
	}
	for {
		k, e, err := c.Next(ctx)
		if errors.Is(err, io.EOF) || err == nil && len(key) > 0 && string(k) != string(key) && !manifest.Below(k, key) {
			return nil
		}
		if err != nil {
			return err
		}
		if string(k) == string(key) {
			continue
		}
		if err := fn(show(joined(src.Path, k), e)); err != nil {
			return err
		}
	}
}

// Diff gives what changed from one point to another, source by source.
func (s *Session) Diff(ctx context.Context, from, to string, fn func(Change) error) error {
	a, err := s.resolve(from, "", "")
	if err != nil {
		return err
	}
	b, err := s.resolve(to, "", "")
	if err != nil {
		return err
	}
	v, err := s.view(ctx)
	if err != nil {
		return err
	}
	paths := map[string][2]*log.Source{}
	var order []string
	for i, p := range []*log.Point{a.Point, b.Point} {
		for k := range p.Sources {
			src := &p.Sources[k]
			pair, seen := paths[src.Path]
			if !seen {
				order = append(order, src.Path)
			}
			pair[i] = src
			paths[src.Path] = pair
		}
	}
	for _, path := range order {
		pair := paths[path]
		if pair[0] != nil && pair[0].Status == log.StatusFailed || pair[1] != nil && pair[1].Status == log.StatusFailed {
			s.note(Note{Info, path, "failed in one of the points; not compared"})
			continue
		}
		if err := v.diff(ctx, path, pair, fn); err != nil {
			return err
		}
	}
	return nil
}

func (v *view) diff(ctx context.Context, path string, pair [2]*log.Source, fn func(Change) error) error {
	var roots [2][32]byte
	for i, src := range pair {
		if src != nil {
			roots[i] = src.Root
		}
	}
	return manifest.Diff(ctx, v.pages, roots[0], roots[1], func(key []byte, a, b *manifest.Entry) error {
		kind := changeKind(a, b)
		if kind == "" {
			return nil
		}
		return fn(Change{Kind: kind, Path: joined(path, key)})
	})
}

// changeKind names a difference, or is "" where a user would see none.
func changeKind(a, b *manifest.Entry) string {
	switch {
	case a == nil:
		return "+"
	case b == nil:
		return "-"
	case a.Kind != b.Kind || a.Target != b.Target || a.Major != b.Major || a.Minor != b.Minor || !sameBytes(a, b):
		return "M"
	case a.Mode != b.Mode || a.UID != b.UID || a.GID != b.GID || a.MTime != b.MTime || a.Flags != b.Flags ||
		string(a.Xattrs) != string(b.Xattrs) || a.XattrRef != b.XattrRef:
		return "U"
	}
	return ""
}

// sameBytes tells whether two files have the same content. Equal content has
// equal extents, but for holes that became zeros.
func sameBytes(a, b *manifest.Entry) bool {
	if a.Size != b.Size || a.Table != b.Table || len(a.Extents) != len(b.Extents) {
		return false
	}
	for i := range a.Extents {
		if a.Extents[i] != b.Extents[i] {
			return false
		}
	}
	return true
}

// Cat writes the content of one file of a point to w.
func (s *Session) Cat(ctx context.Context, point, path string, w io.Writer) error {
	p, err := s.resolve(point, "", "")
	if err != nil {
		return err
	}
	v, err := s.view(ctx)
	if err != nil {
		return err
	}
	_, _, e, err := v.lookUp(ctx, p.Point, path)
	if err != nil {
		return err
	}
	if e.Kind != manifest.KindFile {
		return fmt.Errorf("%w with content: %s is a %s, not a file", ErrNoPath, path, strings.Replace(kindWords[e.Kind], "dir", "folder", 1))
	}
	return v.copyContent(ctx, e, w)
}

// zeros is written for holes.
var zeros [64 << 10]byte

func (v *view) copyContent(ctx context.Context, e *manifest.Entry, w io.Writer) error {
	scratch, err := v.s.vault.NewScratch()
	if err != nil {
		return err
	}
	blobs := v.s.vault.NewBlobs()
	var buf []byte
	for x, err := range manifest.Extents(ctx, v.pages, e) {
		if err != nil {
			return err
		}
		for left := x.Length; x.Hole() && left > 0; {
			n := min(left, uint64(len(zeros)))
			if _, err := w.Write(zeros[:n]); err != nil {
				return fmt.Errorf("write: %w", err)
			}
			left -= n
		}
		if x.Hole() {
			continue
		}
		if buf, err = blobs.Chunk(ctx, v.index, x.ID, scratch, buf[:0]); err != nil {
			return err
		}
		if uint64(len(buf)) != x.Length {
			return damagedExtent(x)
		}
		if _, err := w.Write(buf); err != nil {
			return fmt.Errorf("write: %w", err)
		}
	}
	return nil
}

// Find gives the versions of all entries that match a pattern, over all points,
// oldest first. A pattern without a slash matches names, one with a slash paths.
func (s *Session) Find(ctx context.Context, pattern string, fn func(FoundVersion) error) error {
	match, err := source.NewMatcher(pattern)
	if err != nil {
		return err
	}
	v, err := s.view(ctx)
	if err != nil {
		return err
	}
	return v.find(ctx, match, fn)
}
