package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	// loopEnv says how long the loop of TestLoop goes on; scripts/loop sets it.
	loopEnv = "THARSIS_LOOP"
	// loopPlain is how long it goes on in a plain run, and loopPatience how much longer
	// than wanted where nothing came to its end until then.
	loopPlain    = 4 * time.Second
	loopPatience = time.Minute
	loopMachines = 3
	loopPruners  = 2
)

// loopPoint is a point and a copy of what its source then was.
type loopPoint struct {
	id      string
	src     string
	want    string
	deleted bool
}

// loop is three machines that back up and two homes that prune, as processes of their
// own, on one vault, while days pass within minutes: each prune moves the clock of all
// that start after it.
type loop struct {
	t      *testing.T
	dir    string
	vault  string
	steps  time.Duration // of the clock, with each prune
	keeps  int           // points of a machine that are not deleted
	begun  time.Time
	until  time.Time
	shared [][]byte // content that all machines have some of

	mu     sync.Mutex // guards the rest
	clock  loopClock
	points []*loopPoint
	counts map[string]int64
	failed bool
}

func newLoop(t *testing.T, d time.Duration) *loop {
	l := &loop{t: t, dir: memoryDir(t), begun: time.Now(), until: time.Now().Add(d), counts: map[string]int64{}, steps: 60 * time.Hour, keeps: 1}
	if d > loopPatience {
		l.steps, l.keeps = 12*time.Hour, 5
	}
	l.vault = filepath.Join(l.dir, "vault")
	for i := range 20 {
		l.shared = append(l.shared, noise(uint64(1000+i), 3000+i*700))
	}
	l.tick(0)
	return l
}

// tick moves the clock, and writes it down for processes to come.
func (l *loop) tick(by time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clock.step(time.Now(), by)
	if err := l.clock.save(filepath.Join(l.dir, "clock")); err != nil {
		l.t.Fatal(err)
	}
}

// agent runs a command with a home of its own and gives its exit code, its JSON
// summary, and what it said on stderr.
func (l *loop) agent(home string, args ...string) (code int, sum map[string]any, said string) {
	path, err := exec.LookPath("agent-clocked")
	if err != nil {
		l.t.Error(err)
		return -1, nil, ""
	}
	cmd := exec.Command(path, append([]string{"--quiet", "--json"}, args...)...)
	cmd.Env = append(os.Environ(), "THARSIS_HOME="+filepath.Join(l.dir, home), "THARSIS_PASSPHRASE=correct horse battery staple",
		clockEnv+"="+filepath.Join(l.dir, "clock"))
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		l.t.Error(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	_ = json.Unmarshal([]byte(lines[len(lines)-1]), &sum)
	return cmd.ProcessState.ExitCode(), sum, errs.String()
}

// must runs a command that has to succeed.
func (l *loop) must(home string, args ...string) map[string]any {
	code, sum, said := l.agent(home, args...)
	if code != 0 {
		l.fail("%s: agent %s: exit %d: %s", home, strings.Join(args, " "), code, said)
	}
	return sum
}

func (l *loop) fail(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = true
	l.t.Errorf("after %s, %s on the clock: %s", time.Since(l.begun).Round(time.Second), l.clock.late(), fmt.Sprintf(format, args...))
}

func (l *loop) add(what string, n float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts[what] += int64(n)
}

// more tells whether the loop goes on: until its time is over, and something was swept.
func (l *loop) more() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	return !l.failed && (now.Before(l.until) || !l.ended() && now.Before(l.until.Add(loopPatience)))
}

// ended tells whether points and packs came to their end.
func (l *loop) ended() bool {
	return l.counts["points purged"] > 0 && l.counts["packs condemned"] > 0 && l.counts["objects deleted"] > 0
}

// machine backs up an ever changing source, and deletes its points but the newest.
func (l *loop) machine(n int) {
	home, rng := fmt.Sprint("machine-", n), rand.New(rand.NewPCG(uint64(n), 1))
	src := filepath.Join(l.dir, fmt.Sprint("source-", n))
	var mine []*loopPoint
	for i := 0; l.more(); i++ {
		l.edit(src, rng, i == 0)
		want := filepath.Join(l.dir, "want", fmt.Sprint(n, "-", i))
		if out, err := exec.Command("cp", "-a", src, want).CombinedOutput(); err != nil {
			l.fail("copy %s: %v: %s", src, err, out)
			return
		}
		sum := l.must(home, "backup-now", src, "--vault", l.vault)
		id, _ := sum["point"].(string)
		if id == "" {
			return
		}
		p := &loopPoint{id: id, src: src, want: want}
		mine = append(mine, p)
		l.mu.Lock()
		l.points = append(l.points, p)
		l.mu.Unlock()
		l.add("backups", 1)
		l.add("bytes stored", sum["bytes_stored"].(float64))
		if len(mine) > l.keeps {
			k := rng.IntN(l.keeps)
			l.must(home, "forget", mine[k].id)
			l.mu.Lock()
			mine[k].deleted = true
			l.mu.Unlock()
			mine = slices.Delete(mine, k, k+1)
			l.add("points deleted", 1)
		}
	}
}

// edit changes a source: files of its own and of what all machines have come, change
// and go, some of each.
func (l *loop) edit(src string, rng *rand.Rand, first bool) {
	edits := 4
	if first {
		edits = 40
	}
	for range edits {
		path := filepath.Join(src, fmt.Sprintf("d%d/f%02d", rng.IntN(4), rng.IntN(12)))
		var err error
		switch kind := rng.IntN(10); {
		case kind == 0 && !first:
			if err = os.Remove(path); errors.Is(err, os.ErrNotExist) {
				err = nil
			}
		case kind < 5:
			err = loopWrite(path, l.shared[rng.IntN(len(l.shared))])
		default:
			err = loopWrite(path, noise(rng.Uint64(), 1000+rng.IntN(40_000)))
		}
		if err != nil {
			l.fail("edit: %v", err)
		}
	}
}

func loopWrite(path string, data []byte) error {
	return errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o644))
}

// pruner prunes, and says --confirm where it is asked to. After each prune it is later.
func (l *loop) pruner(n int) {
	home := fmt.Sprint("pruner-", n)
	for l.more() {
		args := []string{"prune", "--vault", l.vault}
		code, sum, said := l.agent(home, args...)
		if code == 1 && strings.Contains(said, "not done without confirmation") {
			l.add("prunes that asked", 1)
			code, sum, said = l.agent(home, append(args, "--confirm")...)
		}
		if code != 0 {
			l.fail("%s: prune: exit %d: %s", home, code, said)
			return
		}
		l.add("prunes", 1)
		for key, what := range map[string]string{
			"points_purged": "points purged", "packs_condemned": "packs condemned", "packs_repacked": "packs repacked",
			"objects_deleted": "objects deleted", "bytes_freed": "bytes freed",
		} {
			l.add(what, sum[key].(float64))
		}
		l.tick(l.steps)
	}
}

// TestLoop lets three machines back up in a loop while two homes prune. In the end each
// point that is there, deleted or not, restores to just what its source was, and every
// byte of the vault is as it should be. scripts/loop runs it for ten minutes.
func TestLoop(t *testing.T) {
	d := loopPlain
	if s := os.Getenv(loopEnv); s != "" {
		var err error
		if d, err = time.ParseDuration(s); err != nil {
			t.Fatalf("%s: %v", loopEnv, err)
		}
	}
	l := newLoop(t, d)
	if err := os.Mkdir(filepath.Join(l.dir, "want"), 0o755); err != nil {
		t.Fatal(err)
	}
	l.must("machine-0", "init", "--vault", l.vault, "--soft-delete", "14")
	var wg sync.WaitGroup
	for n := range loopMachines {
		wg.Go(func() { l.machine(n) })
	}
	for n := range loopPruners {
		wg.Go(func() { l.pruner(n) })
	}
	wg.Wait()
	l.check()
	t.Logf("%s, in which %d days passed: %v", time.Since(l.begun).Round(time.Second), int(l.clock.late().Hours()/24), l.counts)
}

// check compares every point that the vault has with what it should be.
func (l *loop) check() {
	l.must("reader", "verify", "--read-data", "--vault", l.vault)
	target := filepath.Join(l.dir, "target")
	there := map[string]bool{}
	for _, args := range [][]string{{"points"}, {"points", "--deleted"}} {
		for _, id := range l.list(args) {
			there[id] = true
		}
	}
	for _, p := range l.points {
		if !there[p.id] {
			if !p.deleted {
				l.fail("point %s is gone", p.id)
			}
			l.add("points gone", 1)
			continue
		}
		l.must("reader", "restore", "--point", p.id, "--target", target)
		if err := sameTree(p.want, filepath.Join(target, p.src)); err != nil {
			l.fail("point %s, deleted %v: %v", p.id, p.deleted, err)
		}
		if err := os.RemoveAll(target); err != nil {
			l.t.Fatal(err)
		}
		l.add("points restored", 1)
	}
	if !l.ended() {
		l.fail("nothing came to its end")
	}
}

// list gives the IDs of the points that a command lists.
func (l *loop) list(args []string) (ids []string) {
	path, err := exec.LookPath("agent-clocked")
	if err != nil {
		l.t.Fatal(err)
	}
	cmd := exec.Command(path, append([]string{"--json"}, args...)...)
	cmd.Env = append(os.Environ(), "THARSIS_HOME="+filepath.Join(l.dir, "reader"), clockEnv+"="+filepath.Join(l.dir, "clock"))
	out, err := cmd.Output()
	if err != nil {
		l.t.Fatalf("%v: %v", args, err)
	}
	for _, m := range pointID.FindAllStringSubmatch(string(out), -1) {
		ids = append(ids, m[1])
	}
	return ids
}
