package agent

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// simEvent is one step of a run. All that is left to chance stands in events, so a
// script of them can be played again, also with some left out: what does not fit
// the moment is passed by.
type simEvent struct {
	m    int // machine; machines are counted modulo their number
	do   string
	n    int // what it means depends on do
	spoi simFault
}

func (e simEvent) String() string {
	return strings.TrimSpace(fmt.Sprintf("%d %s %d %s", e.m, e.do, e.n, e.spoi))
}

// simScript is a run: the seed of what is not decided by events, which are names of
// objects, the number of machines, and the events.
type simScript struct {
	seed     uint64
	machines int
	events   []simEvent
}

func (s *simScript) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d machines %d\n", s.seed, s.machines)
	for _, e := range s.events {
		fmt.Fprintln(&b, e)
	}
	return b.String()
}

// simParse reads what String wrote.
func simParse(text string) (*simScript, error) {
	s := &simScript{}
	lines := bufio.NewScanner(strings.NewReader(strings.TrimSpace(text)))
	for lines.Scan() {
		line := lines.Text()
		if s.machines == 0 {
			if _, err := fmt.Sscanf(line, "seed %d machines %d", &s.seed, &s.machines); err != nil {
				return nil, err
			}
			continue
		}
		var e simEvent
		f := strings.Fields(line)
		if len(f) < 3 {
			return nil, fmt.Errorf("event %q", line)
		}
		if _, err := fmt.Sscan(strings.Join(f[:3], " "), &e.m, &e.do, &e.n); err != nil {
			return nil, fmt.Errorf("event %q: %w", line, err)
		}
		if len(f) > 3 {
			e.spoi = simFault(f[3])
		}
		s.events = append(s.events, e)
	}
	if s.machines == 0 {
		return nil, errors.New("no script")
	}
	return s, nil
}

// apply plays one event.
func (w *simWorld) apply(e simEvent) error {
	m := w.machines[e.m%len(w.machines)]
	busy := m.proc != nil
	switch do, arg, _ := strings.Cut(e.do, ":"); do {
	case "backup", "prune", "restore", "merge", "verify", "repair", "forget", "undelete", "hold", "unhold":
		if !busy {
			w.start(m, do, e.n)
		}
	case "go":
		if busy {
			w.runFault(m, simUntil(arg), e.spoi)
		}
	case "kill":
		if busy {
			w.kill(m)
		}
	case "edit":
		for _, u := range m.source.users {
			busy = busy || u.proc != nil && u.proc.what == "backup"
		}
		if !busy {
			return w.edit(m, e.n)
		}
	case "enlarge":
		if !busy && len(m.source.files) <= partialCheck {
			return w.enlarge(m.source, e.n)
		}
	case "sleep": // minutes
		w.sleep(time.Duration(e.n) * time.Minute)
	case "late":
		w.settleLate(1)
	case "skew": // minutes
		m.skew = time.Duration(e.n) * time.Minute
	case "lose", "damage":
		w.destroy(e.n, do == "damage")
	case "thief":
		return w.steal(e.n)
	case "wipe", "image", "older", "clone":
		if !busy {
			return w.replace(m, do)
		}
	default:
		return fmt.Errorf("no event %q", e.do)
	}
	return nil
}

// runFault lets a process run, and plays its death where that is what goes wrong.
func (w *simWorld) runFault(m *simMachine, until simUntil, f simFault) {
	if f == simKillBefore || f == simKillAfter {
		w.killAt(m, f)
		return
	}
	w.run(m, until, f)
}

// replace does something to the home of a machine.
func (w *simWorld) replace(m *simMachine, what string) error {
	w.count(what)
	switch what {
	case "wipe":
		return os.RemoveAll(filepath.Join(m.home, "cache"))
	case "image":
		m.image = w.newHome()
		return faultCopy(m.home, m.image, false)
	case "older":
		if m.image == "" {
			return nil
		}
		m.home = w.newHome()
		return faultCopy(m.image, m.home, false)
	}
	if len(w.machines) >= simMachines {
		return nil
	}
	_, err := w.addMachine(m.home, m.source, m.hardware+"-clone")
	return err
}

// finish brings a run to its end without further faults, where all that is promised
// has to hold.
func (w *simWorld) finish() {
	w.settleLate(-1)
	for _, m := range w.machines {
		if m.proc != nil {
			w.run(m, simEnd, simFine)
		}
	}
	do := func(m *simMachine, what string, n int) {
		if w.failed() == nil {
			w.start(m, what, n)
			if m.proc != nil {
				w.run(m, simEnd, simFine)
			}
		}
	}
	first, last := w.machines[0], w.machines[len(w.machines)-1]
	if w.oracle.broken {
		do(first, "verify", 0)
	}
	do(last, "backup", 0)
	a := w.oracle.lastRoot(last)
	if err := os.RemoveAll(filepath.Join(last.home, "cache")); err != nil {
		w.wrong("simulator", "%v", err)
	}
	do(last, "backup", 0)
	if b := w.oracle.lastRoot(last); a != b && w.failed() == nil {
		w.wrong("I7", "machine %d makes another point without its cache", last.n)
	}
	do(first, "prune", 1)
	w.sleep(15 * 24 * time.Hour)
	do(first, "prune", 1)
	w.oracle.deep()
	do(last, "restore", len(w.oracle.v.Log.State().Points())-1)
}

// simResult is what a run gave.
type simResult struct {
	script  *simScript
	err     error
	counts  map[string]int
	history []string
}

// simulator plays scripts.
type simulator struct {
	first *simTemplate
	// arm, if not nil, changes a world before it begins.
	arm func(*simWorld)
}

// seed plays the run that a seed makes up.
func (sim *simulator) seed(t *testing.T, seed uint64) simResult {
	s, g := newSimGenerator(seed)
	return sim.play(t, s, g.next)
}

// script plays a script again.
func (sim *simulator) script(t *testing.T, s *simScript) simResult {
	i := 0
	return sim.play(t, s, func(*simWorld) (e simEvent, ok bool) {
		if i == len(s.events) {
			return e, false
		}
		i++
		return s.events[i-1], true
	})
}

// play runs a world in a bubble of time of its own, by the events that next gives,
// which it takes down.
func (sim *simulator) play(t *testing.T, s *simScript, next func(*simWorld) (simEvent, bool)) (res simResult) {
	res.script = &simScript{seed: s.seed, machines: s.machines}
	stuck := time.AfterFunc(2*faultStuck, func() { panic("the simulator hangs:\n" + res.script.String()) })
	defer stuck.Stop()
	synctest.Test(t, func(t *testing.T) {
		w, err := newSimWorld(sim.first, s.seed, s.machines)
		if err != nil {
			res.err = err
			return
		}
		defer w.remove()
		if sim.arm != nil {
			sim.arm(w)
		}
		for w.failed() == nil {
			e, ok := next(w)
			if !ok {
				break
			}
			res.script.events = append(res.script.events, e)
			if err := w.apply(e); err != nil {
				w.wrong("simulator", "%s: %v", e, err)
			}
		}
		if w.failed() == nil {
			w.finish()
		}
		res.err, res.counts, res.history = w.failed(), w.counts, w.history
	})
	return res
}

// shrink leaves out events of a failing script as long as it goes on failing in the
// same way.
func (sim *simulator) shrink(t *testing.T, failed simResult) simResult {
	tries := simTries
	var want *simViolation
	errors.As(failed.err, &want)
	best := failed
	for size := max(len(best.script.events)/2, 1); tries > 0; {
		shorter := false
		for at := 0; at < len(best.script.events) && tries > 0; {
			s := &simScript{seed: best.script.seed, machines: best.script.machines}
			s.events = append(s.events, best.script.events[:at]...)
			s.events = append(s.events, best.script.events[min(at+size, len(best.script.events)):]...)
			tries--
			res := sim.script(t, s)
			var got *simViolation
			if errors.As(res.err, &got) && want != nil && got.what == want.what {
				best, shorter = res, true
			} else {
				at += size
			}
		}
		if size == 1 && !shorter {
			break
		}
		size = max(size/2, 1)
	}
	return best
}

// simGenerator makes up a run as it goes.
type simGenerator struct {
	r      *rand.Rand
	left   int // events
	spoil  float64
	crime  float64
	ruin   float64
	skews  float64
	clones float64
	plan   []simEvent   // what comes next, with other things in between
	sleeps map[int]bool // who does nothing meanwhile
}

// newSimGenerator chooses what a seed is about: not every run has everything in it,
// for in one where much is destroyed little can be demanded.
func newSimGenerator(seed uint64) (*simScript, *simGenerator) {
	r := rand.New(rand.NewPCG(seed, 0x73696d))
	g := &simGenerator{r: r, left: 40 + r.IntN(40), sleeps: map[int]bool{}}
	some := func(share, rate float64) float64 {
		if r.Float64() < share {
			return rate
		}
		return 0
	}
	g.spoil, g.crime, g.ruin = some(.6, .15), some(.25, .04), some(.25, .03)
	g.skews, g.clones = some(.5, .04), some(.4, .04)
	if g.chance(.15) {
		g.plan = append(g.plan, simEvent{r.IntN(3), "enlarge", r.IntN(20), ""})
	}
	return &simScript{seed: seed, machines: 3 + r.IntN(6)}, g
}

func (g *simGenerator) chance(p float64) bool { return g.r.Float64() < p }

// next makes up the next event.
func (g *simGenerator) next(w *simWorld) (simEvent, bool) {
	if g.left--; g.left < 0 {
		return simEvent{}, false
	}
	n := g.r.IntN(1000)
	m := g.choose(w)
	switch {
	case g.chance(g.crime):
		return simEvent{0, "thief", n, ""}, true
	case g.chance(g.ruin):
		return simEvent{0, []string{"lose", "damage"}[n%2], n / 2, ""}, true
	case g.chance(g.skews):
		return simEvent{m.n, "skew", []int{0, 0, 3, -3, 2880, -2880, 20160, -20160, 24 * 60, -7 * 24 * 60}[n%10], ""}, true
	case g.chance(g.clones):
		return simEvent{m.n, []string{"image", "older", "clone", "wipe"}[n%4], 0, ""}, true
	case len(w.late) > 0 && g.chance(.2):
		return simEvent{0, "late", 0, ""}, true
	case len(g.plan) > 0 && g.chance(.7):
		e := g.plan[0]
		g.plan = g.plan[1:]
		return e, true
	case len(g.plan) == 0 && g.chance(.12):
		g.reclaim(m.n, n)
	case g.chance(.08):
		return simEvent{0, "sleep", []int{1, 30, 600, 1500, 4500, 9000, 12000, 21800, 45000}[n%9], ""}, true
	}
	return g.act(m, n), true
}

// choose picks a machine, but none that sleeps.
func (g *simGenerator) choose(w *simWorld) *simMachine {
	for {
		m := w.machines[g.r.IntN(len(w.machines))]
		if len(g.plan) == 0 {
			clear(g.sleeps)
		}
		if m.proc == nil || !g.sleeps[m.n] || g.chance(.03) {
			return m
		}
	}
}

// reclaim plans what makes space free: points are deleted, and prunes come long enough
// after that. What it plans goes on between the events of others.
func (g *simGenerator) reclaim(m, n int) {
	g.plan = append(g.plan, simEvent{m, "forget", g.r.IntN(1200), ""}, simEvent{m, "go:end", 0, ""})
	prune := func() { g.plan = append(g.plan, simEvent{m, "prune", g.r.IntN(4), ""}, simEvent{m, "go:end", 0, ""}) }
	if n%3 == 0 {
		prune()
	}
	g.plan = append(g.plan, simEvent{0, "sleep", 15 * 24 * 60, ""})
	prune()
	g.plan = append(g.plan, simEvent{0, "sleep", 74 * 60, ""})
	prune()
}

// act lets a machine do something: begin, go on, be killed, or sleep for a while.
func (g *simGenerator) act(m *simMachine, n int) simEvent {
	if m.proc == nil {
		if n%3 == 0 {
			return simEvent{m.n, "edit", g.r.IntN(len(simNames) * simContents), ""}
		}
		whats := []string{"backup", "backup", "backup", "backup", "backup", "backup", "prune", "prune", "restore",
			"restore", "merge", "verify", "repair", "forget", "undelete", "hold", "unhold"}
		return simEvent{m.n, whats[g.r.IntN(len(whats))], g.r.IntN(100), ""}
	}
	e := simEvent{m.n, "go:" + string([]simUntil{simRound, simWrite, simWrite, simLog, simLog, simLog, simEnd, simEnd}[n%8]), 0, ""}
	if g.chance(g.spoil) {
		fits := simSpoils[m.proc.upNext()]
		e.spoi, _ = nth(fits, g.r.IntN(100))
		if g.chance(.25) {
			e.spoi = []simFault{simKillBefore, simKillAfter}[n%2]
		}
	}
	if g.chance(.25) {
		g.sleeps[m.n] = true
		if m.proc.what == "backup" {
			// The worst: it is about to commit, and all that it builds on goes.
			e.do = "go:log"
			if len(g.plan) == 0 {
				g.reclaim(m.n+1+n%2, n)
			}
		}
	}
	return e
}
