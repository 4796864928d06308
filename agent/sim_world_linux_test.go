package agent

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tharsis-backup/tharsis/agent/home"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/backend/mem"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
)

// simMachines is how many machines the vault of the simulator knows; one more is
// the thief's.
const simMachines = 8

// simTemplate is a vault with enrolled machines and their homes, that every run of a
// test begins with: to make one costs as much as a run.
type simTemplate struct {
	dir   string
	vault *mem.Backend
	admin ed25519.PrivateKey
	thief home.Machine
	root  key.Root
}

func newSimTemplate(t testing.TB) *simTemplate {
	t.Helper()
	first := &simTemplate{dir: faultTemp(t), vault: mem.New()}
	ctx := t.Context()
	w := &faultWorld{vault: filepath.Join(first.dir, "place"), wrap: func(backend.Backend) backend.Backend { return first.vault }}
	now := faultStart.Add(-time.Hour)
	w.clock = func() time.Time { return now }
	first.vault.Clock = w.clock
	for i := range simMachines + 1 {
		w.home, w.host = first.home(i), fmt.Sprint("m", i)
		if i == 0 {
			noErr(t, w.init(ctx))
		}
		noErr(t, w.session(ctx, true, func(s *Session) error {
			first.root = s.keys.Root
			if s.keys.Admin != nil {
				first.admin = ed25519.NewKeyFromSeed(s.keys.Admin)
			}
			first.thief = s.machine // the last one's
			return s.enrol(ctx)
		}))
	}
	return first
}

func (t *simTemplate) home(i int) string { return filepath.Join(t.dir, fmt.Sprint("home-", i)) }

// simMachine is one machine. A clone shares the source of the machine that it is
// one of.
type simMachine struct {
	n        int
	home     string
	image    string // an older state of its home, "" for none
	source   *simSource
	hardware string
	skew     time.Duration
	random   simRandom
	proc     *simProc // what it does, or nil
	failed   error    // what its last process ended with
}

// simSource is a folder that is backed up.
type simSource struct {
	dir   string
	files map[string]string
	users []*simMachine
}

// simRandom gives a machine's random bytes.
type simRandom struct {
	mu sync.Mutex
	r  *rand.ChaCha8
}

func (r *simRandom) Read(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.r.Read(b)
}

// simWorld is the vault, the machines and the time of a run.
type simWorld struct {
	seed     uint64
	dir      string
	template *simTemplate
	vault    *mem.Backend
	machines []*simMachine
	oracle   *simOracle
	weaken   func(p *simProc, st *log.State, verdict error) error
	lax      []string // what is not judged
	late     []func()
	past     []backend.Info // the list of some time ago
	edits    int            // for times that no two edits share
	homes    int

	mu      sync.Mutex // guards bad
	bad     error      // what was found first
	counts  map[string]int
	history []string // entries
}

// simEpoch turns the time of a bubble, which begins in 2000, into that of the run.
var simEpoch = faultStart.Sub(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC))

// now is the true time, by which the vault's store goes.
func (w *simWorld) now() time.Time { return time.Now().Add(simEpoch) }

// newSimWorld makes machines that all have a source, and homes that know the vault.
func newSimWorld(first *simTemplate, seed uint64, machines int) (*simWorld, error) {
	dir, err := os.MkdirTemp(first.dir, "run-")
	if err != nil {
		return nil, err
	}
	w := &simWorld{seed: seed, dir: dir, template: first, vault: first.vault.Clone(), counts: map[string]int{}}
	w.vault.Clock = w.now
	if w.oracle, err = newSimOracle(w); err != nil {
		return nil, err
	}
	w.past = w.list("", false)
	for i := range machines {
		src := &simSource{dir: filepath.Join(dir, fmt.Sprint("src-", i)), files: map[string]string{}}
		if err := os.MkdirAll(filepath.Join(src.dir, "d"), 0o700); err != nil {
			return nil, err
		}
		m, err := w.addMachine(first.home(i), src, fmt.Sprint("hw-m", i))
		if err != nil {
			return nil, err
		}
		for n := range 4 {
			if err := w.edit(m, n*simContents+(i+n)%simContents); err != nil {
				return nil, err
			}
		}
	}
	return w, nil
}

// addMachine makes a machine with a copy of a home.
func (w *simWorld) addMachine(from string, src *simSource, hardware string) (*simMachine, error) {
	m := &simMachine{n: len(w.machines), source: src, hardware: hardware}
	var seed [32]byte
	copy(seed[:], fmt.Sprintf("%d %d", w.seed, m.n))
	m.random.r = rand.NewChaCha8(seed)
	m.home = w.newHome()
	src.users = append(src.users, m)
	w.machines = append(w.machines, m)
	return m, faultCopy(from, m.home, false)
}

func (w *simWorld) newHome() string {
	w.homes++
	return filepath.Join(w.dir, fmt.Sprint("home-", w.homes))
}

// remove ends what still runs, and removes all files.
func (w *simWorld) remove() {
	for _, m := range w.machines {
		if m.proc != nil {
			w.kill(m)
		}
	}
	os.RemoveAll(w.dir)
}

// wrong notes what was found wrong; only the first counts.
func (w *simWorld) wrong(what, format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.bad == nil && !slices.Contains(w.lax, what) {
		w.bad = &simViolation{what, fmt.Sprintf(format, args...)}
	}
}

func (w *simWorld) failed() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.bad
}

// simViolation is a broken invariant.
type simViolation struct{ what, text string }

func (v *simViolation) Error() string { return v.what + ": " + v.text }

// put is a Put that takes effect.
func (w *simWorld) put(p *simProc, name string, data []byte) error {
	err := backend.PutBytes(context.Background(), w.vault, name, data)
	if err == nil {
		w.oracle.stored(p, name, data)
	}
	return err
}

// delete is a Delete that takes effect.
func (w *simWorld) delete(p *simProc, name string) error {
	err := w.vault.Delete(context.Background(), name)
	if err == nil {
		w.oracle.deleted(name)
	}
	return err
}

// list is what the vault has, or had when time last passed.
func (w *simWorld) list(prefix string, stale bool) (out []backend.Info) {
	if stale {
		for _, info := range w.past {
			if strings.HasPrefix(info.Name, prefix) {
				out = append(out, info)
			}
		}
		return out
	}
	for info, err := range w.vault.List(context.Background(), prefix) {
		if err == nil {
			out = append(out, info)
		}
	}
	return out
}

// sleep lets time pass.
func (w *simWorld) sleep(d time.Duration) {
	w.past = w.list("", false)
	time.Sleep(d)
}

// start begins a process, which waits at its first call.
func (w *simWorld) start(m *simMachine, what string, n int) {
	p := &simProc{w: w, m: m, what: what, n: n, home: m.home, until: simRound}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.files = make(map[string]string, len(m.source.files))
	for k, v := range m.source.files {
		p.files[k] = v
	}
	m.proc = p
	go func() {
		err := p.run()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.done, p.err = true, err
	}()
	w.settle(p)
}

// simStuck is how much time a process may spend without a call: it pauses for
// seconds where others were faster.
const simStuck = 10 * time.Minute

// settle waits until a process stands still: it has ended, or its calls wait.
func (w *simWorld) settle(p *simProc) {
	for spent := time.Duration(0); ; spent += time.Second {
		synctest.Wait()
		if done, waiting := p.idle(); done || waiting > 0 {
			break
		}
		if spent > simStuck {
			w.wrong("stuck", "%s of machine %d waits for nothing", p.what, p.m.n)
			break
		}
		time.Sleep(time.Second)
	}
	if done, _ := p.idle(); done && p.m.proc == p {
		p.m.proc = nil
		p.cancel()
		w.ended(p)
	}
}

// run lets a machine's process run until some point. f is for the call that is let
// on first.
func (w *simWorld) run(m *simMachine, until simUntil, f simFault) {
	p := m.proc
	p.mu.Lock()
	p.until = until
	p.mu.Unlock()
	for first := true; m.proc == p && (first || !p.stands()); first = false {
		calls := p.next()
		if len(calls) == 0 {
			return // stuck, which was said
		}
		for i, c := range calls {
			if i > 0 {
				f = simFine
			}
			w.letOn(p, c, f)
		}
		f = simFine
		w.settle(p)
	}
}

// letOn lets a call go on, if it fits, with a fault.
func (w *simWorld) letOn(p *simProc, c *simCall, f simFault) {
	if f != simKillBefore && f != simKillAfter && !slices.Contains(simSpoils[c.kind], f) {
		f = simFine
	}
	if f != simFine {
		p.mu.Lock()
		p.spoilt = true
		p.mu.Unlock()
		w.count(string(f))
	}
	c.on <- f
}

// kill ends a machine's process as a power cut does: what its home then has is what
// the machine goes on with.
func (w *simWorld) kill(m *simMachine) { w.killAt(m, simKillBefore) }

func (w *simWorld) killAt(m *simMachine, f simFault) {
	p := m.proc
	m.home = w.newHome()
	if err := faultCopy(p.home, m.home, false); err != nil {
		w.wrong("simulator", "copy a home: %v", err)
	}
	m.proc = nil
	p.mu.Lock()
	p.dead = true
	p.mu.Unlock()
	p.cancel()
	for calls := p.next(); ; calls = p.next() {
		for _, c := range calls {
			w.letOn(p, c, f)
			f = simKillBefore
		}
		synctest.Wait()
		done, waiting := p.idle()
		if done {
			break
		}
		if waiting == 0 {
			time.Sleep(time.Second)
		}
	}
	os.RemoveAll(p.home)
	w.count("killed " + p.what)
	w.died(p)
}

// settleLate makes what is late take effect.
func (w *simWorld) settleLate(n int) {
	for ; n != 0 && len(w.late) > 0; n-- {
		do := w.late[0]
		w.late = w.late[1:]
		do()
	}
}

func (w *simWorld) count(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts[what]++
}

// env is what a process's engine gets from outside.
func (p *simProc) env() Environment {
	m, w := p.m, p.w
	e := Environment{
		Host: fmt.Sprint("m", m.n), Hardware: m.hardware, Rand: &m.random,
		Clock:  func() time.Time { return w.now().Add(m.skew + time.Duration(p.ticks.Add(1))) },
		Wrap:   func(backend.Backend) backend.Backend { return p },
		Secret: func(context.Context) (string, error) { return faultPass, nil },
	}
	e.weaken = func(st *log.State, verdict error) error {
		if verdict != nil {
			w.count("fenced")
		}
		if w.weaken != nil {
			return w.weaken(p, st, verdict)
		}
		return verdict
	}
	if len(m.source.files) > partialCheck {
		e.PartialEvery = 1
	}
	return e
}

// session runs fn with the vault opened, as a command does it.
func (p *simProc) session(fn func(context.Context, *Session) error) error {
	h, err := home.Open(p.home)
	if err != nil {
		return err
	}
	if err := h.Lock(); err != nil {
		return err
	}
	defer h.Unlock()
	s, err := Open(p.ctx, p.env(), h, "")
	if err != nil {
		return err
	}
	defer s.Close()
	err = fn(p.ctx, s)
	p.w.oracle.sees(p, s.vault.Log.Head())
	return err
}
