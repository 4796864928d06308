package log

import (
	"slices"

	"github.com/tharsis-backup/tharsis/chunk"
)

// apply replays one entry that was checked. An entry whose writer has no
// authority changes nothing; neither does what asks for the impossible, as a
// PURGE of a point that is held: the rules are in docs/FORMAT.md §10.
func (s *State) apply(e *Entry, at Head) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.head, s.time = at, max(s.time, e.Time)
	if !s.authorized(e) {
		s.ignored++
		return
	}
	switch e.Body.(type) {
	case *Commit, *Partial, *Index, *Repack, *Condemn, *Swept, *Quarantine:
		s.used = e.Seq
	}
	switch b := e.Body.(type) {
	case *Genesis:
		s.genesis, s.created, s.slots, s.softDays = *b, e.Time, b.Slots, b.SoftDeleteDays
	case *Machine:
		s.enrol(b, e)
	case *Commit:
		s.commit(&b.Point, e, at)
	case *Partial:
		s.partial(&b.Point, e, at)
	case *Index:
		s.supersede(b.Supersedes, e)
		s.addRuns(b.Adds)
	case *Forget:
		s.forget(b, e)
	case *Unforget:
		s.each(b.Points, func(p *PointInfo) { p.Forgotten, p.ForgottenAt, p.ForgetReason, p.Noted = 0, 0, "", 0 })
	case *Hold:
		s.each(b.Points, func(p *PointInfo) { p.Held, p.HoldReason = true, b.Reason })
	case *Unhold:
		s.each(b.Points, func(p *PointInfo) { p.Held, p.HoldReason = false, "" })
	case *Purge:
		s.each(b.Points, purge)
	case *Repack:
		s.addRuns(b.Adds)
		s.markPacks(b.Replaced, markReplaced, e)
	case *Condemn:
		s.markPacks(b.Packs, markCondemned, e)
		retire(s.runs, b.Runs, markCondemned, e)
	case *Swept:
		s.markPacks(b.Packs, markSwept, e)
		retire(s.runs, b.Runs, markSwept, e)
		s.dropRuns()
	case *Quarantine:
		s.markPacks(b.Packs, markQuarantined, e)
	case *KeyChange:
		s.changeKeys(b)
	case *Noted:
		s.note(b, e)
	case *Settings:
		s.softDays = b.SoftDeleteDays
	}
}

// authorized tells whether the entry's writer may write it.
func (s *State) authorized(e *Entry) bool {
	admin := e.Writer == s.genesis.Admin
	switch b := e.Body.(type) {
	case *Genesis:
		return e.Seq == 0
	case *Commit:
		return s.isMachine(b.Machine, e.Writer)
	case *Partial:
		return s.isMachine(b.Machine, e.Writer)
	case *Index, *Quarantine:
		return admin || s.isAnyMachine(e.Writer)
	case *Forget:
		return admin || s.mayDelete(e.Writer, b.Points)
	case *Unforget:
		return admin || s.mayDelete(e.Writer, b.Points)
	case *Hold:
		return admin || s.mayDelete(e.Writer, b.Points)
	case *Unhold:
		return admin || s.mayDelete(e.Writer, b.Points)
	}
	return admin
}

func (s *State) isMachine(id MachineID, writer PublicKey) bool {
	m := s.machines[id]
	return m != nil && m.Key == writer
}

func (s *State) isAnyMachine(writer PublicKey) bool {
	for _, m := range s.machines {
		if m.Key == writer {
			return true
		}
	}
	return false
}

// mayDelete tells whether writer is a machine and no point is another's.
func (s *State) mayDelete(writer PublicKey, points []PointID) bool {
	foreign := func(id PointID) bool {
		p := s.byID[id]
		return p != nil && !s.isMachine(p.Point.Machine, writer)
	}
	return s.isAnyMachine(writer) && !slices.ContainsFunc(points, foreign)
}

func (s *State) enrol(m *Machine, e *Entry) {
	if old := s.machines[m.ID]; old != nil {
		old.Machine = *m
	} else {
		s.machines[m.ID] = &MachineInfo{Machine: *m, Seq: e.Seq, Time: e.Time}
	}
	if m.Owner {
		s.owner, s.owned = m.ID, true
	}
}

func (s *State) commit(p *Point, e *Entry, at Head) {
	if s.byID[p.ID] != nil {
		return // the same job again
	}
	info := &PointInfo{Entry: at, Time: e.Time, Point: p}
	s.points = append(s.points, info)
	s.byID[p.ID] = info
	s.last[p.Machine] = LastCommit{Entry: at, Point: p.ID, Install: p.Install}
	s.addRuns(p.Runs)
	for i := range p.Sources {
		if p.Sources[i].Status != StatusFailed {
			delete(s.partials, p.Sources[i].ID)
		}
	}
}

func (s *State) partial(p *Point, e *Entry, at Head) {
	s.addRuns(p.Runs)
	for i := range p.Sources {
		if src := &p.Sources[i]; src.Status != StatusFailed {
			s.partials[src.ID] = &PartialInfo{Entry: at, Time: e.Time, Point: p, Source: src}
		}
	}
}

// each calls f for every point named that exists and is not purged.
func (s *State) each(points []PointID, f func(*PointInfo)) {
	for _, id := range points {
		if p := s.byID[id]; p != nil && !p.Purged {
			f(p)
		}
	}
}

func (s *State) forget(f *Forget, e *Entry) {
	s.each(f.Points, func(p *PointInfo) {
		if p.Held || p.Forgotten != 0 {
			return
		}
		p.Forgotten, p.ForgottenAt, p.ForgetReason = e.Seq, e.Time, f.Reason
		s.forgets[e.Seq] = append(s.forgets[e.Seq], p)
	})
}

// purge leaves of a point that was soft-deleted what a second COMMIT of its ID
// and the chain of its machine need.
func purge(p *PointInfo) {
	if p.Forgotten == 0 || p.Held {
		return
	}
	*p = PointInfo{
		Entry: p.Entry, Time: p.Time, Purged: true,
		Point: &Point{ID: p.Point.ID, Machine: p.Point.Machine, Install: p.Point.Install},
	}
}

func (s *State) note(n *Noted, e *Entry) {
	for _, seq := range n.Forgets {
		for _, p := range s.forgets[seq] {
			if p.Forgotten == seq && p.Noted == 0 {
				p.Noted = e.Time
			}
		}
		delete(s.forgets, seq)
	}
}

// addRuns makes runs live. What was superseded, condemned or swept stays so.
func (s *State) addRuns(runs []chunk.ID) {
	for _, id := range runs {
		m := s.runs[id]
		if m.flags&(markLive|runGone) != 0 {
			continue
		}
		m.flags |= markLive
		s.runs[id] = m
		s.live = append(s.live, id)
	}
}

func (s *State) supersede(runs []chunk.ID, e *Entry) {
	// Any machine may say so, with any clock: a time before that of the log would end
	// the grace at once.
	late := *e
	late.Time = s.time
	retire(s.runs, runs, markSuperseded, &late)
	s.dropRuns()
}

// dropRuns takes the runs that were superseded or swept out of the live ones. A
// run that was only condemned stays: readers need it until it is swept.
func (s *State) dropRuns() {
	s.live = slices.DeleteFunc(s.live, func(id chunk.ID) bool {
		m := s.runs[id]
		if m.flags&(markSuperseded|markSwept) == 0 {
			return false
		}
		m.flags &^= markLive
		s.runs[id] = m
		return true
	})
}

func (s *State) markPacks(packs []chunk.ID, flag uint8, e *Entry) {
	retire(s.packs, packs, flag, e)
	s.untrusted = s.untrusted || (flag&packUnusable != 0 && len(packs) > 0)
}

// retire sets a flag. The time of a CONDEMN is the first one's, and stands over
// that of what came before it: it is what the grace runs from.
func retire(marks map[chunk.ID]mark, ids []chunk.ID, flag uint8, e *Entry) {
	for _, id := range ids {
		m := marks[id]
		dates := flag == markCondemned || flag == markSuperseded && m.flags&markCondemned == 0
		if dates && m.flags&flag == 0 {
			m.seq, m.time = e.Seq, e.Time
		}
		m.flags |= flag
		marks[id] = m
	}
}

func (s *State) changeKeys(k *KeyChange) {
	slots := slices.DeleteFunc(slices.Clone(s.slots), func(o Slot) bool {
		replaced := slices.ContainsFunc(k.Added, func(a Slot) bool { return a.ID == o.ID })
		return replaced || slices.Contains(k.Removed, o.ID)
	})
	slots = append(slots, k.Added...)
	if len(slots) == 0 || len(slots) > MaxSlots {
		return // it would lock all out, or break the limit
	}
	s.slots = slots
}
