package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/tharsis-backup/tharsis/agent/source"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// selection says which entries of a point a restore takes.
type selection struct {
	paths   []string
	include *source.Matcher // nil: all
	exclude *source.Matcher // nil: none
	// below are folders that an include pattern matched: all in them is taken.
	below []byte
	under bool
}

func newSelection(o RestoreOptions) (*selection, error) {
	s := &selection{paths: o.Paths}
	var err error
	if len(o.Includes) > 0 {
		if s.include, err = source.NewMatcher(o.Includes...); err != nil {
			return nil, err
		}
	}
	if len(o.Excludes) > 0 {
		if s.exclude, err = source.NewMatcher(o.Excludes...); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// holds tells whether a source at path is asked for as a whole.
func (s *selection) holds(path string) bool {
	return len(s.paths) == 0 || slices.ContainsFunc(s.paths, func(p string) bool { return inside(path, p) })
}

// resolve checks that the point has every path that was asked for, as far as its
// lists of files can be read: what cannot is told of by the walk.
func (s *selection) resolve(ctx context.Context, v *view, sources []*log.Source) error {
	for _, p := range s.paths {
		found := slices.ContainsFunc(sources, func(src *log.Source) bool { return inside(src.Path, p) })
		for _, src := range sources {
			k, ok := keyIn(src, p)
			if found || !ok {
				continue
			}
			_, err := manifest.Get(ctx, v.pages, src.Root, k)
			found = err == nil || errors.Is(err, key.ErrDamaged)
			if !found && !errors.Is(err, manifest.ErrNotFound) {
				return err
			}
		}
		if !found {
			return fmt.Errorf("%w: %s", ErrNoPath, p)
		}
	}
	return nil
}

// starts are the keys of a source at which what is asked for begins: the root,
// or each path in it.
func (s *selection) starts(src *log.Source) (keys [][]byte) {
	if len(s.paths) == 0 {
		return [][]byte{{}}
	}
	for _, p := range s.paths {
		if inside(src.Path, p) {
			return [][]byte{{}}
		}
		if key, ok := keyIn(src, p); ok {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, func(a, b []byte) int { return slices.Compare(a, b) })
	out := keys[:0]
	for _, k := range keys {
		if n := len(out); n > 0 && (slices.Equal(out[n-1], k) || manifest.Below(k, out[n-1])) {
			continue
		}
		out = append(out, k)
	}
	return out
}

// verdict is what a selection says of an entry.
type verdict uint8

const (
	leaveOut verdict = iota // with all below it
	onTheWay                // a folder, to be made if something below it is taken
	takeIt
)

// judge decides about the next entry of a source, in key order.
func (s *selection) judge(path string, key []byte, dir bool) verdict {
	if s.exclude != nil && s.exclude.Match(path, dir) {
		return leaveOut
	}
	if s.include == nil {
		return takeIt
	}
	if s.under && manifest.Below(key, s.below) {
		return takeIt
	}
	s.under = false
	if s.include.Match(path, dir) {
		if dir {
			s.below, s.under = append(s.below[:0], key...), true
		}
		return takeIt
	}
	if dir {
		return onTheWay
	}
	return leaveOut
}
