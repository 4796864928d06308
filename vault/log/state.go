package log

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tharsis-backup/tharsis/chunk"
)

// ErrNoPoint is for a name that no point goes by, or more than one.
var ErrNoPoint = errors.New("no such point")

// State is what the log, replayed up to some entry, says of the vault. Only
// its Log changes it; all methods may be called concurrently, also while the
// log is refreshed. What they return is a copy, but for the *Point in it, which
// is shared and never changes.
//
// Its memory grows with the points and with the packs ever condemned, not with
// the entries.
type State struct {
	mu sync.RWMutex

	head     Head
	time     int64 // the latest of any entry
	used     uint64
	genesis  Genesis
	created  int64
	slots    []Slot
	softDays int // the soft-delete period in days
	machines map[MachineID]*MachineInfo
	owner    MachineID
	owned    bool

	points   []*PointInfo // by the seq of their COMMIT; purged ones keep their place
	byID     map[PointID]*PointInfo
	forgets  map[uint64][]*PointInfo // what each FORGET that nobody noted took
	partials map[SourceID]*PartialInfo
	last     map[MachineID]LastCommit

	live  []chunk.ID // runs, in the order in which they were added
	runs  map[chunk.ID]mark
	packs map[chunk.ID]mark // only packs that some entry speaks of

	untrusted bool
	ignored   int
}

// mark is what the log says of a pack or run; when it is to go, since when.
type mark struct {
	flags uint8
	seq   uint64
	time  int64
}

const (
	markLive uint8 = 1 << iota
	markSuperseded
	markReplaced
	markQuarantined
	markCondemned
	markSwept

	packUnusable = markQuarantined | markCondemned | markSwept
	runGone      = markSuperseded | markCondemned | markSwept
)

// MachineInfo is an enrolled machine, as its newest MACHINE entry says.
type MachineInfo struct {
	Machine
	Seq  uint64 // of its first MACHINE entry
	Time int64  // of that entry, ns since 1970
}

// PointInfo is a recovery point and what happened to it.
type PointInfo struct {
	Entry Head  // its COMMIT
	Time  int64 // of its COMMIT, ns since 1970
	// Point is what was committed; of a purged point only ID and Machine.
	Point *Point

	Held       bool
	HoldReason string

	Forgotten    uint64 // the FORGET entry in effect, 0 for none
	ForgottenAt  int64  // time of that entry, ns since 1970
	ForgetReason string
	// Noted is when an admin noted that entry, ns since 1970, and 0 before: the
	// soft-delete period runs from then.
	Noted int64

	Purged bool
}

// PartialInfo is a source of an unfinished job that nothing replaced yet.
type PartialInfo struct {
	Entry  Head
	Time   int64
	Point  *Point
	Source *Source // in Point
}

// LastCommit is a machine's newest COMMIT. It tells a home whether another
// writes in its name.
type LastCommit struct {
	Entry   Head
	Point   PointID
	Install [16]byte
}

// Base is the manifest that a source's next job starts from.
type Base struct {
	Entry   Head
	Partial bool
	Point   *Point
	Source  *Source // in Point
}

// Retired is a pack or run that is to be deleted, and the entry and its time
// (ns since 1970) that said so: a CONDEMN, or the merge that superseded a run.
type Retired struct {
	ID   chunk.ID
	Seq  uint64
	Time int64
}

func newState() *State {
	return &State{
		machines: make(map[MachineID]*MachineInfo),
		byID:     make(map[PointID]*PointInfo),
		forgets:  make(map[uint64][]*PointInfo),
		partials: make(map[SourceID]*PartialInfo),
		last:     make(map[MachineID]LastCommit),
		runs:     make(map[chunk.ID]mark),
		packs:    make(map[chunk.ID]mark),
	}
}

// Head is the newest entry that was replayed.
func (s *State) Head() Head {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.head
}

// Time is the latest time of all entries that were replayed, by their writers'
// clocks, ns since 1970.
func (s *State) Time() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.time
}

// Used is the number of the newest entry that may have named something as needed,
// added or taken away runs, or changed what the log says of packs. As long as it
// stays the same, so does what a mark finds to be dead.
func (s *State) Used() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.used
}

// Genesis is entry 0, and its time in ns since 1970. Its slots and its
// soft-delete period are those that the vault began with: see Slots and
// SoftDeleteDays.
func (s *State) Genesis() (Genesis, int64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	g := s.genesis
	g.Slots = slices.Clone(g.Slots)
	return g, s.created
}

// Slots are the key slots that count now, in the order in which they were named.
func (s *State) Slots() []Slot {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Clone(s.slots)
}

// SlotNamed tells whether a slot with this object hash counts now.
func (s *State) SlotNamed(id SlotID, hash [32]byte) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.ContainsFunc(s.slots, func(o Slot) bool { return o.ID == id && o.Hash == hash })
}

// Machine finds an enrolled machine.
func (s *State) Machine(id MachineID) (MachineInfo, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if m := s.machines[id]; m != nil {
		return *m, true
	}
	return MachineInfo{}, false
}

// Machines are the enrolled machines in the order of their enrolment.
func (s *State) Machines() []MachineInfo {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := make([]MachineInfo, 0, len(s.machines))
	for _, m := range s.machines {
		all = append(all, *m)
	}
	slices.SortFunc(all, func(a, b MachineInfo) int { return cmp.Compare(a.Seq, b.Seq) })
	return all
}

// Owner is the machine that the newest MACHINE entry with the owner flag names.
// Before one it is the machine that the vault's config names, if any.
func (s *State) Owner() (MachineID, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.owner, s.owned
}

// Ignored counts the entries that had no effect since their writer had no
// authority for them.
func (s *State) Ignored() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.ignored
}

// Points are all points but the purged ones, the soft-deleted ones included,
// in the order of their COMMITs.
func (s *State) Points() []PointInfo {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := make([]PointInfo, 0, len(s.points))
	for _, p := range s.points {
		if !p.Purged {
			all = append(all, *p)
		}
	}
	return all
}

// Point finds a point by its ID, also a purged one.
func (s *State) Point(id PointID) (PointInfo, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if p := s.byID[id]; p != nil {
		return *p, true
	}
	return PointInfo{}, false
}

// PointByPrefix finds the point, not purged, whose ID begins with these hex
// digits; where there is none or more than one, the error wraps ErrNoPoint. It
// says so where the only ones were purged.
func (s *State) PointByPrefix(prefix string) (PointInfo, error) {
	lower := strings.ToLower(prefix)
	s.mu.RLock()
	defer s.mu.RUnlock()
	if id, err := ParsePointID(lower); err == nil { // a whole one
		if p := s.byID[id]; p != nil && !p.Purged {
			return *p, nil
		}
	}
	var found, purged *PointInfo
	var digits [32]byte
	for _, p := range s.points {
		hex.Encode(digits[:], p.Point.ID[:])
		if lower == "" || !bytes.HasPrefix(digits[:], []byte(lower)) {
			continue
		}
		if p.Purged {
			purged = p
			continue
		}
		if found != nil {
			return PointInfo{}, fmt.Errorf("%w: %q is the start of several, as %s and %s",
				ErrNoPoint, prefix, found.Point.ID, p.Point.ID)
		}
		found = p
	}
	if found == nil && purged != nil {
		return PointInfo{}, fmt.Errorf("%w any more: %s was purged", ErrNoPoint, purged.Point.ID)
	}
	if found == nil {
		return PointInfo{}, fmt.Errorf("%w: %q", ErrNoPoint, prefix)
	}
	return *found, nil
}

// LastCommit is a machine's newest COMMIT, also when its point was purged.
func (s *State) LastCommit(id MachineID) (LastCommit, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	c, ok := s.last[id]
	return c, ok
}

// BaseFor finds the newest manifest of a source: that of the newest point that
// is not purged and has it, or of a PARTIAL after that point.
func (s *State) BaseFor(id SourceID) (Base, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	// A COMMIT takes the PARTIAL before it away, so one that stands is newer.
	if p := s.partials[id]; p != nil {
		return Base{Entry: p.Entry, Partial: true, Point: p.Point, Source: p.Source}, true
	}
	for _, p := range slices.Backward(s.points) {
		if src, ok := p.Point.Source(id); ok {
			return Base{Entry: p.Entry, Point: p.Point, Source: src}, true
		}
	}
	return Base{}, false
}

// Stands tells whether the manifest of a source in the COMMIT or PARTIAL at seq
// still counts, so that all that it refers to is kept. The fence of a COMMIT
// asks it for each of its bases.
func (s *State) Stands(id SourceID, seq uint64) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if p := s.partials[id]; p != nil && p.Entry.Seq == seq {
		return true
	}
	i, found := slices.BinarySearchFunc(s.points, seq, func(p *PointInfo, seq uint64) int {
		return cmp.Compare(p.Entry.Seq, seq)
	})
	if !found {
		return false
	}
	_, has := s.points[i].Point.Source(id)
	return has
}

// Partials are the sources of unfinished jobs that nothing replaced yet, in
// the order of their entries. What they refer to must be kept.
func (s *State) Partials() []PartialInfo {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := make([]PartialInfo, 0, len(s.partials))
	for _, p := range s.partials {
		all = append(all, *p)
	}
	slices.SortFunc(all, func(a, b PartialInfo) int {
		return cmp.Or(cmp.Compare(a.Entry.Seq, b.Entry.Seq), bytes.Compare(a.Source.ID[:], b.Source.ID[:]))
	})
	return all
}

// Unnoted are the FORGET entries that are in effect for some point and that no
// admin has noted, ascending.
func (s *State) Unnoted() []uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var seqs []uint64
	for seq, points := range s.forgets {
		if slices.ContainsFunc(points, func(p *PointInfo) bool { return p.Forgotten == seq && !p.Purged }) {
			seqs = append(seqs, seq)
		}
	}
	slices.Sort(seqs)
	return seqs
}

// SoftDeleteDays is the vault's soft-delete period, in days: for how long a point
// can be brought back for certain after an admin noted its FORGET.
func (s *State) SoftDeleteDays() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.softDays
}

// PurgeableFrom is when the soft-delete period of a point ends; false while it
// is not running: the point is purged, held, not forgotten, or nobody noted it.
// A change of the period (SETTINGS) moves it.
func (s *State) PurgeableFrom(id PointID) (time.Time, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	p := s.byID[id]
	if p == nil || p.Purged || p.Held || p.Noted == 0 {
		return time.Time{}, false
	}
	return time.Unix(0, p.Noted).Add(time.Duration(s.softDays) * 24 * time.Hour), true
}

// Runs are the live index runs, in the order in which they were added.
func (s *State) Runs() []chunk.ID {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Clone(s.live)
}

// RunLive tells whether Runs holds the run.
func (s *State) RunLive(id chunk.ID) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.runs[id].flags&markLive != 0
}

// RunGone tells whether the run was superseded, condemned or swept: an entry
// that adds it would add nothing.
func (s *State) RunGone(id chunk.ID) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.runs[id].flags&runGone != 0
}

// Usable tells whether a new point may refer to a pack, as far as the log knows:
// no entry condemned, swept or quarantined it. Whether a live run names the
// pack is for the index to say.
func (s *State) Usable(pack chunk.ID) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return !s.untrusted || s.packs[pack].flags&packUnusable == 0
}

// HasUntrusted tells whether any pack is not Usable.
func (s *State) HasUntrusted() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.untrusted
}

// Swept tells whether a SWEPT entry named the pack or run, so that it may be gone.
func (s *State) Swept(id chunk.ID) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return (s.packs[id].flags|s.runs[id].flags)&markSwept != 0
}

// Quarantined are the packs in quarantine that were not swept, by ID.
func (s *State) Quarantined() []chunk.ID {
	return ids(s.marked(s.packs, markQuarantined))
}

// Replaced are the packs that a REPACK replaced and that were not swept, by ID.
func (s *State) Replaced() []chunk.ID {
	return ids(s.marked(s.packs, markReplaced))
}

// PendingPacks are the packs condemned and not yet swept, by entry and ID.
func (s *State) PendingPacks() []Retired {
	return s.marked(s.packs, markCondemned)
}

// PendingRuns are the runs superseded or condemned and not yet swept, by entry
// and ID.
func (s *State) PendingRuns() []Retired {
	return s.marked(s.runs, markSuperseded|markCondemned)
}

// marked gives what has one of the flags and was not swept.
func (s *State) marked(marks map[chunk.ID]mark, flags uint8) []Retired {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var all []Retired
	for id, m := range marks {
		if m.flags&flags != 0 && m.flags&markSwept == 0 {
			all = append(all, Retired{ID: id, Seq: m.seq, Time: m.time})
		}
	}
	slices.SortFunc(all, func(a, b Retired) int {
		return cmp.Or(cmp.Compare(a.Seq, b.Seq), bytes.Compare(a.ID[:], b.ID[:]))
	})
	return all
}

func ids(all []Retired) []chunk.ID {
	out := make([]chunk.ID, len(all))
	for i := range all {
		out[i] = all[i].ID
	}
	slices.SortFunc(out, func(a, b chunk.ID) int { return bytes.Compare(a[:], b[:]) })
	return out
}
