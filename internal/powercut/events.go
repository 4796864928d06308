//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// event is what the guest tells of itself.
type event struct {
	What  string `json:"what"`
	State int    `json:"state"` // of the tree
	Point string `json:"point,omitempty"`
	Note  string `json:"note,omitempty"`
}

// The events. Those that begin with "about to" come before a step, the others
// after it has been acknowledged by an exit code of 0.
const (
	ready         = "ready" // the file system is mounted
	aboutToEdit   = "about to edit"
	aboutToBackUp = "about to back up"
	backedUp      = "backed up"
	aboutToForget = "about to forget"
	forgot        = "forgot"
	aboutToBring  = "about to undelete"
	brought       = "undeleted"
	aboutToPrune  = "about to prune"
	pruned        = "pruned"
	failed        = "failed" // a command that must not
)

// eventMark begins the line or the block of an event.
const eventMark = "@powercut "

// encode gives the event as a line.
func (e event) encode() []byte {
	b, err := json.Marshal(e)
	if err != nil {
		panic(err) // it is strings and a number
	}
	return append(append([]byte(eventMark), b...), '\n')
}

// decodeEvent finds the event in a line of the console, which may begin with
// something of the kernel's, or in a block of the disk.
func decodeEvent(b []byte) (e event, ok bool) {
	_, text, ok := bytes.Cut(b, []byte(eventMark))
	if !ok {
		return e, false
	}
	text, _, _ = bytes.Cut(text, []byte("\n"))
	return e, json.Unmarshal(text, &e) == nil
}

// fate is what must be known of a point.
type fate string

const (
	live  fate = "live"  // acknowledged: it must be listed
	maybe fate = "maybe" // a change of it was under way: it may be listed
	gone  fate = "gone"  // forgotten: it must not be listed
)

// model is what the disk must hold after what was told.
type model struct {
	Seed   uint64          `json:"seed"`
	State  int             `json:"state"` // the last state that was begun
	Points map[string]fate `json:"points"`
	States map[string]int  `json:"states"` // of the points' trees
}

func newModel(seed uint64) *model {
	return &model{Seed: seed, Points: map[string]fate{}, States: map[string]int{}}
}

func (m *model) clone() *model {
	c := newModel(m.Seed)
	c.State = m.State
	for p, f := range m.Points {
		c.Points[p], c.States[p] = f, m.States[p]
	}
	return c
}

// tell takes an event in.
func (m *model) tell(e event) {
	m.State = max(m.State, e.State)
	switch e.What {
	case backedUp:
		m.Points[e.Point], m.States[e.Point] = live, e.State
	case aboutToForget, aboutToBring:
		m.Points[e.Point] = maybe
	case forgot:
		m.Points[e.Point] = gone
	case brought:
		m.Points[e.Point] = live
	}
}

// compare says what is wrong with the points that the agent lists, given by the
// states of their trees, or "". A point that nobody was told of is that of the
// backup that was under way.
func (m *model) compare(listed map[string]int) string {
	var wrong []string
	for p, f := range m.Points {
		if _, there := listed[p]; f == live && !there {
			wrong = append(wrong, fmt.Sprintf("point %s of state %d was acknowledged and is lost", p, m.States[p]))
		} else if f == gone && there {
			wrong = append(wrong, fmt.Sprintf("point %s was forgotten and is back", p))
		}
	}
	for p, state := range listed {
		if _, known := m.Points[p]; known && m.States[p] != state {
			wrong = append(wrong, fmt.Sprintf("point %s is of state %d, listed with %d", p, m.States[p], state))
		} else if !known && state != m.State {
			wrong = append(wrong, fmt.Sprintf("point %s of state %d was never made, the last state is %d", p, state, m.State))
		}
	}
	slices.Sort(wrong)
	return strings.Join(wrong, "; ")
}

// settle makes what was found after a cut what must be there from then on.
func (m *model) settle(listed map[string]int) {
	for p, f := range m.Points {
		if _, there := listed[p]; f == maybe && !there {
			m.Points[p] = gone
		}
	}
	for p, state := range listed {
		m.Points[p], m.States[p] = live, state
	}
}
