//go:build linux

package main

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// moment is when the power is cut: some time after an event.
type moment struct {
	what  string
	nth   int // of these events since the boot
	delay time.Duration
}

func (m moment) String() string {
	return fmt.Sprintf("%v after '%s' no. %d", m.delay.Round(time.Millisecond), m.what, m.nth)
}

// pace is about how long the guest takes for what follows each event. The newest
// cases count most, as a host may be busy for a while.
type pace map[string]time.Duration

// see takes in how long it was from an event to the next.
func (p pace) see(what string, took time.Duration) {
	if old := p[what]; old != 0 {
		took = (2*old + took) / 3
	}
	p[what] = took
}

// choose chooses a moment: in the middle of a step, of a backup mostly, or right
// after it was acknowledged, when what is missing is missed.
func (p pace) choose(r *rand.Rand) moment {
	soon := time.Duration(r.IntN(20)) * time.Millisecond
	within := func(what string) time.Duration {
		d := p[what]
		if d == 0 {
			d = time.Second // nothing is known yet
		}
		return time.Duration(r.Int64N(int64(d + d/8)))
	}
	switch i := r.IntN(20); {
	case i < 7:
		return moment{aboutToBackUp, 1 + r.IntN(3), within(aboutToBackUp)}
	case i < 11:
		return moment{backedUp, 1 + r.IntN(3), soon}
	case i < 13:
		return moment{aboutToPrune, 1, within(aboutToPrune)}
	case i < 14:
		return moment{pruned, 1, soon}
	case i < 16:
		return moment{aboutToForget, 1, within(aboutToForget)}
	case i < 17:
		return moment{forgot, 1, soon}
	case i < 18:
		return moment{aboutToBring, 1, within(aboutToBring)}
	case i < 19:
		return moment{aboutToEdit, 1 + r.IntN(3), within(aboutToEdit)}
	default: // the recovery is cut, too
		return moment{booting, 1, p.boot(r)}
	}
}

// booting is the event before all others.
const booting = "start of the machine"

// boot is a time in which the guest recovers its file system, or is about to.
func (p pace) boot(r *rand.Rand) time.Duration {
	d := p[booting]
	if d == 0 {
		d = 2 * time.Second
	}
	return d*3/4 + time.Duration(r.Int64N(int64(d/2)))
}
