package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
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
			from = 1 + i%3 // and one of its first three
			to = from
		}
		for n := from; n <= to; n++ {
			for _, part := range []string{"home", "vault"} {
				r.copy(filepath.Join(r.dir, part+".before"), filepath.Join(r.dir, part))
			}
			cases++
			log := filepath.Join(r.dir, "log")
			what := fmt.Sprintf("%s number %d of a thread gives %s", in.call, n, in.errno)
			code, said := r.run([]string{
				strace, "-f", "-qq", "-y", "-o", log, "-e", "trace=fsync," + in.call,
				"-e", fmt.Sprintf("inject=%s:error=%s:when=%d", in.call, in.errno, n),
			}, "backup-now", r.src)
			text, err := os.ReadFile(log)
			if err != nil {
				t.Fatal(err)
			}
			injected := strings.Count(string(text), "(INJECTED)")
			if injected == 0 {
				break // so many calls no thread makes
			}
			hit++
			if code != 0 {
				failed++
			} else if err := r.restores("latest", second); err != nil {
				t.Errorf("%s: the backup says that all is well: %v", what, err)
			}
			if again := syncedAgain(string(text)); again != "" {
				t.Errorf("%s: %s was synced again", what, again)
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

var fsyncCall = regexp.MustCompile(`fsync\([0-9]+<([^>]*)>\) += (0|-1)`)

// syncedAgain finds a file, but not a folder, that was synced after a sync of it had
// failed.
func syncedAgain(log string) string {
	failed := map[string]bool{}
	for _, m := range fsyncCall.FindAllStringSubmatch(log, -1) {
		path, result := m[1], m[2]
		if failed[path] {
			return path
		}
		if info, err := os.Stat(path); result == "-1" && (err != nil || !info.IsDir()) {
			failed[path] = true
		}
	}
	return ""
}
