package agent

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// breaker makes the descriptors of a file fail once a job reads it.
type breaker struct {
	*noteBook
	path string
	done atomic.Int32
}

func (b *breaker) Progress(p Progress) {
	if p.Phase != "read" || p.Current != b.path || b.done.Add(1) > 1 {
		return
	}
	var pipe [2]int
	if unix.Pipe(pipe[:]) != nil {
		return
	}
	fds, _ := os.ReadDir("/proc/self/fd")
	for _, fd := range fds {
		if to, _ := os.Readlink("/proc/self/fd/" + fd.Name()); to == b.path {
			n := 0
			for _, c := range fd.Name() {
				n = n*10 + int(c-'0')
			}
			unix.Dup3(pipe[0], n, unix.O_CLOEXEC)
		}
	}
}

// A large file that cannot be read to its end leaves no chunk on its way when
// the job goes on: the packs are closed behind it.
func TestUnreadableEndOfLargeFile(t *testing.T) {
	for range 5 {
		r := newRigCut(t, smallCut)
		rng := rand.New(rand.NewPCG(41, 42))
		r.write("a", noise(rng, 30<<20))
		b := &breaker{noteBook: r.notes, path: filepath.Join(r.src, "a")}
		r.env.Report = b
		res, err := r.try(t.Context(), BackupOptions{})
		if err != nil {
			t.Fatalf("%v: %s", err, r.notes)
		}
		if b.done.Load() == 0 || !strings.Contains(r.notes.String(), "illegal seek") {
			t.Logf("did not break: %+v %s", res, r.notes)
		}
		r.verified()
	}
}
