package index

import (
	"context"

	"github.com/tharsis-backup/tharsis/chunk"
)

// Member is a run of a Set. Filter may be nil, and must be nil where the answer
// "not there" has to be right: see [Filter].
type Member struct {
	Run    *Run
	Filter *Filter
}

// Set looks chunks up in several runs. It is immutable and safe for concurrent
// use.
type Set struct {
	members []Member
	usable  func(pack chunk.ID) bool
}

// NewSet makes a Set of runs, which are asked in the given order: newest first,
// since a chunk is most often asked for near the time that it was stored. Packs
// that usable refuses are passed over; nil takes all. usable must be safe for
// concurrent use.
func NewSet(usable func(pack chunk.ID) bool, members ...Member) *Set {
	return &Set{members: members, usable: usable}
}

// Lookup finds the first place of the chunk id in a usable pack.
func (s *Set) Lookup(ctx context.Context, id chunk.ID) (Location, bool, error) {
	var found Location
	ok := false
	err := s.visit(ctx, id, func(l *Location) bool {
		found, ok = *l, true
		return false
	})
	if err != nil {
		return Location{}, false, err
	}
	return found, ok, nil
}

// LookupAll appends all places of the chunk id in usable packs to dst, so that a
// reader can try another one where a pack is damaged. A place that stands in
// several runs is appended once for each.
func (s *Set) LookupAll(ctx context.Context, id chunk.ID, dst []Location) ([]Location, error) {
	err := s.visit(ctx, id, func(l *Location) bool {
		dst = append(dst, *l)
		return true
	})
	return dst, err
}

// visit calls f for each place in a usable pack until it returns false.
func (s *Set) visit(ctx context.Context, id chunk.ID, f func(*Location) bool) error {
	more := true
	for i := range s.members {
		m := &s.members[i]
		if m.Filter != nil && !m.Filter.MayHave(id) {
			continue
		}
		err := m.Run.visit(ctx, id, func(l *Location) bool {
			if s.usable == nil || s.usable(l.Pack) {
				more = f(l)
			}
			return more
		})
		if err != nil || !more {
			return err
		}
	}
	return nil
}
