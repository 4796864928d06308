package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// shortMachine is a machine that is short of something.
type shortMachine struct {
	name   string
	files  int // small ones in the source, in a plain and in a full run
	all    int
	large  int // MiB of the one large file, likewise
	most   int
	shared int                                       // files with a chunk of their own and one that all have
	under  func(t *testing.T, r *realAgent) []string // what the agent runs behind
	env    []string
	pulse  bool // stop it for nine tenths of the time
	slow   bool // a plain run does less of it
}

// memoryLimit is what the agent has to do with on a machine that holds its key: no
// passphrase is stretched there.
const memoryLimit = 256 << 20

func shortMachines() []shortMachine {
	return []shortMachine{
		{name: "64 descriptors", files: 500, all: 5000, large: 16, most: 300, shared: 60,
			under: func(*testing.T, *realAgent) []string { return descriptors(64) }},
		{name: "256 MiB", files: 500, all: 5000, large: 24, most: 300, under: littleMemory},
		{name: "GOMEMLIMIT", files: 500, all: 5000, large: 16, most: 300, env: []string{"GOMEMLIMIT=24MiB", "GOGC=20"}},
		{name: "a tenth of a CPU", files: 100, all: 3000, large: 2, most: 300, under: littleCPU, slow: true},
		{name: "stopped most of the time", files: 100, all: 1000, large: 2, most: 30, pulse: true, slow: true},
	}
}

func descriptors(n int) []string {
	return []string{"sh", "-c", fmt.Sprintf(`ulimit -n %d; exec "$@"`, n), "sh"}
}

// TestFaultResources backs up, checks and restores many small files and a large one
// on machines that are short of one thing: all of it works, and comes back exactly.
func TestFaultResources(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector takes many times more of everything")
	}
	for _, m := range shortMachines() {
		t.Run(m.name, func(t *testing.T) {
			r := newRealAgent(t, t.TempDir()) // on a disk: what is in memory would count
			files, large := m.files, m.large
			if all() {
				files, large = m.all, m.most
			}
			r.fill("small", files)
			r.writeLarge("large", large)
			r.shareChunks("shared", m.shared)
			r.short(m, "backup-now", r.src)
			r.short(m, "verify", "--read-data")
			r.restoresShort(m)
			if m.slow && !all() {
				return
			}
			r.fill("more", files/10)
			r.write("small/00/0001.txt", []byte("changed"))
			r.short(m, "backup-now", r.src)
			r.restoresShort(m)
		})
	}
}

// writeLarge makes a file of so many MiB, piece by piece: a child is counted as having
// used what this process did when it was started.
func (r *realAgent) writeLarge(name string, mib int) {
	r.t.Helper()
	f, err := os.Create(filepath.Join(r.src, name))
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	for i := range mib {
		if _, err := f.Write(noise(uint64(i), 1<<20)); err != nil {
			r.t.Fatal(err)
		}
	}
}

// shareChunks makes files whose content lies in two places of the vault each.
func (r *realAgent) shareChunks(name string, files int) {
	r.t.Helper()
	common := noise(1000, 1<<20)
	for i := range files {
		r.write(fmt.Sprint(name, "/", i), append(common[:len(common):len(common)], noise(uint64(1001+i), 20<<10)...))
	}
}

// short runs the agent on a machine that is short of something. Its memory is
// looked at in any case.
func (r *realAgent) short(m shortMachine, args ...string) {
	r.t.Helper()
	var under []string
	if m.under != nil {
		under = m.under(r.t.(*testing.T), r)
	}
	cmd := r.command(under, args...)
	cmd.Env = append(cmd.Env, m.env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	if m.pulse {
		stop := pulses(cmd.Process)
		defer stop()
	}
	err := cmd.Wait()
	peak := cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10
	if err != nil {
		r.t.Fatalf("%s: agent %s: %v: %s", m.name, args[0], err, out.String())
	}
	if peak > memoryLimit {
		r.t.Errorf("%s: agent %s took %d MiB", m.name, args[0], peak>>20)
	}
	r.t.Logf("agent %s: %d MiB, %v of CPU time", args[0], peak>>20, (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Round(time.Millisecond))
}

func (r *realAgent) restoresShort(m shortMachine) {
	r.t.Helper()
	target := filepath.Join(r.dir, "target")
	defer os.RemoveAll(target)
	r.short(m, "restore", "--point", "latest", "--target", target)
	if err := sameTree(r.src, filepath.Join(target, r.src)); err != nil {
		r.t.Error(err)
	}
}

// pulses lets a process run for a tenth of the time.
func pulses(p *os.Process) (stop func()) {
	const run, rest = 5 * time.Millisecond, 45 * time.Millisecond
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			for _, step := range []struct {
				signal os.Signal
				wait   time.Duration
			}{{syscall.SIGSTOP, rest}, {syscall.SIGCONT, run}} {
				if p.Signal(step.signal) != nil {
					return // it has ended
				}
				select {
				case <-end:
					return
				case <-time.After(step.wait):
				}
			}
		}
	}()
	return func() { close(end); <-ended }
}

// littleMemory and littleCPU run a command in a control group of its own, of either
// version. Where there are none, the memory is looked at all the same, and the CPU
// by the pulses of another case.
func littleMemory(t *testing.T, r *realAgent) []string {
	return inGroup(t, r, "memory", map[string]string{
		"memory.limit_in_bytes": strconv.Itoa(memoryLimit), "memory.max": strconv.Itoa(memoryLimit),
	})
}

func littleCPU(t *testing.T, r *realAgent) []string {
	under := inGroup(t, r, "cpu", map[string]string{"cpu.cfs_quota_us": "10000", "cpu.max": "10000 100000"})
	return append(under, needs(t, "taskset"), "-c", firstCPU(t))
}

// firstCPU is a CPU that this process may use.
func firstCPU(t *testing.T) string {
	t.Helper()
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		t.Fatal(err)
	}
	for i := range 1024 {
		if set.IsSet(i) {
			return strconv.Itoa(i)
		}
	}
	t.Fatal("no CPU")
	return ""
}

// inGroup makes a control group with those of the settings that it knows, and
// gives the words that run a command in it.
func inGroup(t *testing.T, r *realAgent, controller string, settings map[string]string) []string {
	t.Helper()
	name := "tharsis-" + filepath.Base(filepath.Dir(r.dir)) + "-" + controller
	for _, root := range []string{"/sys/fs/cgroup/" + controller, "/sys/fs/cgroup"} {
		dir := filepath.Join(root, name)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			continue
		}
		t.Cleanup(func() { os.Remove(dir) })
		set := false
		for file, value := range settings {
			// Opened to be written only where it is there: the kernel makes none.
			set = os.WriteFile(filepath.Join(dir, file), []byte(value), 0) == nil || set
		}
		if set {
			return []string{"sh", "-c", `echo $$ >"$0/cgroup.procs" && exec "$@"`, dir}
		}
	}
	t.Logf("no control group for %s here", controller)
	return nil
}

// leastDescriptors are those without which Go's runtime ends a program before it has
// begun.
const leastDescriptors = 8

// TestFaultDescriptors gives the agent fewer and fewer descriptors: it works, or says
// what it is short of, or names the files that it could not read; with enough of
// them it goes on, and all comes back exactly.
func TestFaultDescriptors(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector has descriptors of its own")
	}
	r := newRealAgent(t, memoryDir(t))
	r.fill("small", 300)
	r.write("large", noise(1, 3<<20))
	limits := []int{8, 10, 13, 18, 26}
	if all() {
		limits = limits[:0]
		for n := leastDescriptors; n <= 64; n++ {
			limits = append(limits, n)
		}
	}
	worked := 0
	for _, n := range limits {
		r.write("changing", fmt.Appendf(nil, "with %d", n))
		r.write("new/"+strconv.Itoa(n), noise(uint64(n), 1000))
		code, said := r.run(descriptors(n), "backup-now", r.src)
		if short(t, n, "backup-now", code, said) {
			if err := r.restores("latest", r.src); err != nil {
				t.Errorf("%d descriptors: the backup says that all is well: %v", n, err)
			}
			worked++
		}
		r.must("backup-now", r.src)
		target := filepath.Join(r.dir, "short")
		code, said = r.run(descriptors(n), "restore", "--point", "latest", "--target", target)
		if short(t, n, "restore", code, said) {
			if err := sameTree(r.src, filepath.Join(target, r.src)); err != nil {
				t.Errorf("%d descriptors: the restore says that all is well: %v", n, err)
			}
		}
		if err := os.RemoveAll(target); err != nil {
			t.Fatal(err)
		}
		code, said = r.run(descriptors(n), "verify", "--read-data")
		short(t, n, "verify", code, said)
		if err := r.restores("latest", r.src); err != nil {
			t.Errorf("%d descriptors: %v", n, err)
		}
	}
	if worked == 0 || worked == len(limits) {
		t.Errorf("%d of %d backups worked", worked, len(limits))
	}
	t.Logf("%d of %d backups worked", worked, len(limits))
}

// short tells whether a command succeeded, and fails the test where it failed without
// saying why.
func short(t *testing.T, n int, command string, code int, said string) bool {
	t.Helper()
	clear := strings.Contains(said, "too many open files")
	switch {
	case code == exitOK:
		return true
	case code != exitError && code != exitPartial || !clear || strings.Contains(said, "goroutine "):
		t.Errorf("%d descriptors: agent %s: exit %d: %s", n, command, code, tail(said))
	}
	return false
}

func tail(s string) string { return s[max(0, len(s)-600):] }
