package agent

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/log"
)

// The simulator runs the engine itself, not a model of it: three to eight machines
// with homes, caches and tiny sources of their own back up to one vault, delete, hold
// and bring back points, prune, merge, verify, repair and restore, while their
// clocks are wrong, they sleep for weeks in the middle of a job, are killed, cloned and
// put back to older states, and the store fails in every way that it may.
//
// # Order
//
// Each command is a process (sim_call): a goroutine with a session whose backend makes
// every call wait until the scheduler lets it go on. One process runs at a time; it
// runs until it has ended, or until calls of it wait at a place where it was told to
// stop: before its next calls, its next write, its next log entry. A run lies in a bubble of
// testing/synctest, whose time passes only when the scheduler says so, and which tells
// when all of a process's goroutines stand still. Of the calls that wait together,
// reads go on together, since they see the same vault, and writes one by one.
//
// So a run is a function of its script (sim_script): a list of events as "machine 2
// begins a backup", "2 runs to its next log entry", "15 days pass", "2 goes on, and its
// put is stored but reported as failed". All that is left to chance stands in the script,
// but for names of objects and keys, which a machine draws from a generator that
// the seed begins. A generator makes scripts up while they are played. A failing one is
// played again with events left out, as long as it goes on failing in the same way:
// that is the short script that a failure prints, and that sim_found keeps.
//
// # What is judged
//
// An oracle (sim_oracle) keeps its own books of all that was ever stored, and judges
// each change of the vault when it takes effect, by the invariants of the design:
//
//	I1  every chunk of a point that was not purged, and of unfinished jobs, lies in a
//	    pack that is there and was not swept
//	I2  a COMMIT or PARTIAL uses only packs that no entry before it distrusts
//	I3  what is deleted was condemned and swept before, by the admin's word
//	I4  what any session takes for the log is a prefix of it
//	I5  a process of which no call was spoilt succeeds, whatever befell those before it
//	I6  what an entry condemns or sweeps is not needed: a needed chunk of it lies in
//	    another pack that points may use. A prune that read less than all would fail it
//	I7  a backup without a cache makes the same manifest
//
// and, at the end of a run, that each point reads as the source was when it was made,
// by the live index alone; that purges and sweeps nobody confirmed took the time that
// they have to; and that what a thief with a member's keys writes ends and deletes
// nothing. Chunks that the simulation itself destroyed are excused as far as it did.
//
// # What is not in it
//
// Local writes that are lost or torn, and each single place of a kill: those are
// enumerated elsewhere. Time-outs of the store: a call fails at once.

// simTries bounds how often a failing script is played to shorten it.
const simTries = 400

// simulate plays n seeds, or as many as THARSIS_SEEDS says from THARSIS_SEED on, on
// as many threads as there are, and reports what went wrong first.
func simulate(t *testing.T, n int) (total map[string]int) {
	// Runs make garbage by the gigabyte, and keep nothing of it.
	defer debug.SetGCPercent(debug.SetGCPercent(800))
	first, total := envInt("THARSIS_SEED", 1), map[string]int{}
	var next atomic.Int64
	next.Store(int64(first))
	end := int64(first + envInt("THARSIS_SEEDS", n))
	sim := &simulator{first: newSimTemplate(t)}
	begun := time.Now()
	var mu sync.Mutex
	t.Run("seeds", func(t *testing.T) {
		for i := range 2 {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				for {
					seed := next.Add(1) - 1
					if seed >= end || t.Failed() {
						return
					}
					res := sim.seed(t, uint64(seed))
					mu.Lock()
					for k, v := range res.counts {
						total[k] += v
					}
					mu.Unlock()
					if res.err != nil {
						next.Store(end)
						t.Errorf("seed %d: %v\n%s", seed, res.err, res.script)
						short := sim.shrink(t, res)
						t.Errorf("the shortest way there, for sim_found: %v\n%s%s", short.err, short.script, strings.Join(short.history, "\n"))
					}
				}
			})
		}
	})
	t.Logf("%d seeds from %d in %s: %v", end-int64(first), first, time.Since(begun).Round(time.Second), total)
	return total
}

// TestSimulator plays 2,000 seeds in CI, which takes two minutes on two idle cores (80
// take 4.6 s), some on a developer's machine, and 100,000 in the night, with THARSIS_ALL
// set. THARSIS_SEEDS says another number.
func TestSimulator(t *testing.T) {
	n := 80
	switch {
	case raceOn:
		n = 20
	case os.Getenv(faultAllEnv) != "":
		n = 100_000
	case os.Getenv("THARSIS_CI") != "":
		n = 2000
	}
	total := simulate(t, n)
	if t.Failed() || n < 500 {
		return
	}
	// A simulation in which nothing happens finds nothing.
	for _, what := range []string{
		"COMMIT", "PARTIAL", "INDEX", "FORGET", "UNFORGET", "HOLD", "UNHOLD", "NOTED", "PURGE", "REPACK", "CONDEMN", "SWEPT", "QUARANTINE", "MACHINE",
		"backup", "prune", "restore", "merge", "verify", "repair", "killed backup", "killed prune", "clone", "older", "wipe", "destroyed packs",
		"forged COMMIT", "forged PURGE", "forged SWEPT", "forged QUARANTINE",
		string(simErrBefore), string(simErrAfter), string(simErrLate), string(simLate), string(simStale), string(simPart), "fenced",
	} {
		if total[what] == 0 {
			t.Errorf("in %d seeds there was no %s", n, what)
		}
	}
}

// TestSimulatorRepeats plays seeds twice: the same happens, to the last entry.
func TestSimulatorRepeats(t *testing.T) {
	sim := &simulator{first: newSimTemplate(t)}
	for seed := range uint64(6) {
		a, b := sim.seed(t, seed), sim.seed(t, seed)
		c := sim.script(t, a.script)
		for _, o := range []simResult{b, c} {
			if o.script.String() != a.script.String() || !slices.Equal(o.history, a.history) || !maps.Equal(o.counts, a.counts) {
				t.Fatalf("seed %d:\n%s%s\nand then\n%s%s", seed, a.script, strings.Join(a.history, "\n"), o.script, strings.Join(o.history, "\n"))
			}
		}
		if parsed, err := simParse(a.script.String()); err != nil || parsed.String() != a.script.String() {
			t.Errorf("seed %d: %v: a script reads as\n%s", seed, err, parsed)
		}
	}
}

// simWeak are fences that are too weak.
var simWeak = map[string]func(*simProc, *log.State, error) error{
	"no fence": func(*simProc, *log.State, error) error { return nil },
	"a fence over new packs only": func(p *simProc, st *log.State, _ error) error {
		if slices.ContainsFunc(p.packs, func(id chunk.ID) bool { return !st.Usable(id) }) {
			p.packs = nil // the next attempt stores others
			return errFenced
		}
		return nil
	},
}

// simWeakSeeds is in how many seeds the loss by a weak fence has to be found. Which
// seed finds it changes with the engine.
const simWeakSeeds = 300

// TestSimulatorFindsWeakFences shows that the simulator can fail: with a fence that is
// too weak a point is lost, in few seeds and by a short script; by the real fence the
// same script loses nothing.
func TestSimulatorFindsWeakFences(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(800))
	first := newSimTemplate(t)
	for name, weaken := range simWeak {
		t.Run(name, func(t *testing.T) {
			sim := &simulator{first: first, arm: func(w *simWorld) {
				w.weaken = weaken
				w.lax = []string{"I2"} // which would see it before anything is lost
			}}
			for seed := range uint64(simWeakSeeds) {
				res := sim.seed(t, seed)
				var bad *simViolation
				if !errors.As(res.err, &bad) || bad.what != "I1" && bad.what != "deep" {
					continue
				}
				short := sim.shrink(t, res)
				t.Logf("seed %d: %v\n%s%s", seed, short.err, short.script, strings.Join(short.history, "\n"))
				if n := len(short.script.events); n > 25 {
					t.Errorf("the shortest script has %d events", n)
				}
				if res := (&simulator{first: first}).script(t, short.script); res.err != nil {
					t.Errorf("with the real fence: %v", res.err)
				}
				return
			}
			t.Errorf("no loss was found in %d seeds", simWeakSeeds)
		})
	}
}

// TestSimulatorScript plays the script in the file that THARSIS_SCRIPT names, and says
// all that happens.
func TestSimulatorScript(t *testing.T) {
	name := os.Getenv("THARSIS_SCRIPT")
	if name == "" {
		t.Skip("THARSIS_SCRIPT names no file")
	}
	text, err := os.ReadFile(name)
	noErr(t, err)
	s, err := simParse(string(text))
	noErr(t, err)
	res := (&simulator{first: newSimTemplate(t)}).script(t, s)
	t.Logf("%s\n%v", strings.Join(res.history, "\n"), res.counts)
	if res.err != nil {
		t.Error(res.err)
	}
}
