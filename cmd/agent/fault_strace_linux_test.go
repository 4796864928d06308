package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// injections are the system calls that strace makes fail, and with what.
var injections = []struct{ call, errno string }{
	{"fsync", "EIO"}, {"fsync", "ENOSPC"},
	{"write", "ENOSPC"}, {"write", "EIO"}, {"pwrite64", "EDQUOT"}, {"pwrite64", "EIO"},
	{"close", "EIO"}, {"close", "EDQUOT"},
	{"renameat2", "EIO"}, {"renameat", "ENOSPC"}, {"renameat", "EIO"},
	{"mkdirat", "ENOSPC"}, {"unlinkat", "EIO"}, {"ftruncate", "EIO"}, {"linkat", "EIO"},
}

// straceMost is up to which call of a kind a full run goes; strace counts for each
// thread by itself.
const straceMost = 40

// TestFaultStrace lets the kernel refuse the Nth call of a kind to the agent as users
// run it, so that no file is changed by ways that the seam of the other tests does
// not know. The command may fail, or even die, but if it says that all is well the
// point is there; no file is synced again after a failed sync; plain commands go on,
// and both points restore.
func TestFaultStrace(t *testing.T) {
	strace := needs(t, "strace")
	if raceDetector {
		t.Skip("strace and the race detector together take minutes")
	}
	r := newRealAgent(t, memoryDir(t))
	r.fill("small", 60)
	r.write("large", noise(1, 3<<20))
	r.must("backup-now", r.src)
	first, oldest := r.keep("first"), r.point()
	r.write("large", noise(2, 2<<20))
	r.fill("more", 40)
	second := r.keep("second")
	for _, part := range []string{"home", "vault"} {
		r.copy(filepath.Join(r.dir, part), filepath.Join(r.dir, part+".before"))
	}
	cases, hit, failed := 0, 0, 0
	for i, in := range injections {
		from, to := 1, straceMost
		if !all() {
			if i > 0 && injections[i-1].call == in.call {
				continue // one error for each call,
			}
			from = 1 + i%3 // and one of its first three; all three of the most important
			if to = from; in.call == "fsync" {
				from, to = 1, 3
			}
		}
		for n := from; n <= to; n++ {
			for _, part := range []string{"home", "vault"} {
				r.copy(filepath.Join(r.dir, part+".before"), filepath.Join(r.dir, part))
			}
			cases++
			what := fmt.Sprintf("%s number %d of a thread gives %s", in.call, n, in.errno)
			logs := filepath.Join(r.dir, "logs")
			if err := errors.Join(os.RemoveAll(logs), os.Mkdir(logs, 0o755)); err != nil {
				t.Fatal(err)
			}
			code, said := r.run([]string{
				strace, "-ff", "-qq", "-y", "-ttt", "-o", filepath.Join(logs, "t"), "-e", "trace=fsync,renameat,renameat2," + in.call,
				"-e", fmt.Sprintf("inject=%s:error=%s:when=%d", in.call, in.errno, n),
			}, "backup-now", r.src)
			text := straceLines(t, logs)
			if !slices.ContainsFunc(text, func(l string) bool { return strings.HasSuffix(l, "(INJECTED)") }) {
				break // so many calls no thread makes
			}
			hit++
			if code != 0 {
				failed++
			} else if err := r.restores("latest", second); err != nil {
				t.Errorf("%s: the backup says that all is well: %v", what, err)
			}
			for _, wrong := range badSyncs(text, code == 0, filepath.Join(r.dir, "home", "cache")) {
				t.Errorf("%s: %s", what, wrong)
			}
			if err := r.goesOn(oldest, first, second); err != nil {
				t.Errorf("%s (exit %d, %s): %v", what, code, strings.TrimSpace(said), err)
			}
		}
	}
	if hit < cases/2 || failed == 0 {
		t.Errorf("only %d of %d cases met their call, in %d the backup failed", hit, cases, failed)
	}
	t.Logf("%d backups, of which %d met their call; the backup failed in %d", cases, hit, failed)
}

// goesOn runs plain commands after a failed one: the newest point is the source
// as it is, and the oldest one as it was.
func (r *realAgent) goesOn(oldest, first, second string) error {
	if code, said := r.run(nil, "backup-now", r.src); code != 0 {
		return fmt.Errorf("the next backup: exit %d: %s", code, said)
	}
	if code, said := r.run(nil, "verify", "--read-data"); code != 0 {
		return fmt.Errorf("verify: exit %d: %s", code, said)
	}
	if err := r.restores("latest", second); err != nil {
		return err
	}
	return r.restores(oldest, first)
}

// straceLines are what strace noted of all threads, in the order of time.
func straceLines(t *testing.T, dir string) (lines []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, strings.Split(strings.TrimSpace(string(b)), "\n")...)
	}
	slices.Sort(lines) // each begins with its time, in as many digits
	return lines
}

var (
	fsyncCall  = regexp.MustCompile(`fsync\([0-9]+<([^>]*)>\) += (0|-1)`)
	renameCall = regexp.MustCompile(`renameat2?\([^"]*"([^"]*)",.* += 0`)
)

// badSyncs finds what must not follow a failed sync: another sync of the same file, a
// name for it, and, where a folder could not be synced, a job that says that all is
// well. The cache may lose what it will.
func badSyncs(lines []string, well bool, cache string) (wrong []string) {
	failed := map[string]bool{}
	for _, l := range lines {
		if m := renameCall.FindStringSubmatch(l); m != nil && failed[m[1]] {
			wrong = append(wrong, m[1]+" got its name after its sync had failed")
		}
		m := fsyncCall.FindStringSubmatch(l)
		if m == nil || strings.HasPrefix(m[1], cache) {
			continue
		}
		path, result := m[1], m[2]
		if failed[path] {
			wrong = append(wrong, path+" was synced again after its sync had failed")
		}
		if result == "0" {
			continue
		}
		if info, err := os.Stat(path); err != nil || !info.IsDir() {
			failed[path] = true
		} else if well {
			wrong = append(wrong, "the backup says that all is well, and "+path+" could not be synced")
		}
	}
	return wrong
}
