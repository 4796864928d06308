package agent

import (
	"context"
	"slices"
	"time"

	"github.com/tharsis-backup/tharsis/agent/source"
	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/log"
	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// maxFound bounds the versions that a find keeps in memory; more are not shown.
const maxFound = 100_000

// versionID tells versions of entries apart.
type versionID struct {
	path, raw string
}

// finder collects versions of entries over points: each point's manifest is
// compared with the same source's in the point before, so that what is shared is
// read once.
type finder struct {
	v     *view
	match *source.Matcher
	all   map[versionID]*FoundVersion
	order []*FoundVersion
}

// find looks through all points, oldest first.
func (v *view) find(ctx context.Context, match *source.Matcher, fn func(FoundVersion) error) error {
	f := &finder{v: v, match: match, all: map[versionID]*FoundVersion{}}
	// What matched in the newest manifest of a source so far.
	current := map[log.SourceID]map[string]*FoundVersion{}
	roots := map[log.SourceID]chunk.ID{}
	for _, p := range v.s.vault.Log.State().Points() {
		if p.Forgotten != 0 {
			continue
		}
		for i := range p.Point.Sources {
			src := &p.Point.Sources[i]
			if src.Status == log.StatusFailed {
				continue
			}
			if current[src.ID] == nil {
				current[src.ID] = map[string]*FoundVersion{}
			}
			if err := f.update(ctx, src, roots[src.ID], current[src.ID]); err != nil {
				return err
			}
			roots[src.ID] = src.Root
			for _, fv := range current[src.ID] {
				fv.Points = append(fv.Points, p.Point.ID.String())
				fv.Times = append(fv.Times, time.Unix(0, p.Point.Started))
			}
		}
	}
	slices.SortStableFunc(f.order, func(a, b *FoundVersion) int {
		if a.Path != b.Path {
			if a.Path < b.Path {
				return -1
			}
			return 1
		}
		return a.Times[0].Compare(b.Times[0])
	})
	for _, fv := range f.order {
		if err := fn(*fv); err != nil {
			return err
		}
	}
	return nil
}

// update brings what matches in a source from one manifest to the next.
func (f *finder) update(ctx context.Context, src *log.Source, before chunk.ID, current map[string]*FoundVersion) error {
	var raw []byte
	return manifest.Diff(ctx, f.v.pages, before, src.Root, func(key []byte, was, e *manifest.Entry) error {
		path := joined(src.Path, key)
		if !f.match.Match(path, isDir(was) || isDir(e)) {
			return nil
		}
		delete(current, path)
		if e == nil || len(f.order) >= maxFound {
			return nil
		}
		raw = manifest.AppendEntry(raw[:0], e)
		id := versionID{path, string(raw)}
		fv := f.all[id]
		if fv == nil {
			fv = &FoundVersion{Entry: show(path, e)}
			f.all[id] = fv
			f.order = append(f.order, fv)
		}
		current[path] = fv
		return nil
	})
}

func isDir(e *manifest.Entry) bool { return e != nil && e.Kind == manifest.KindDir }
