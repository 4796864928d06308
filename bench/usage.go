package main

import (
	"strings"
	"time"
)

// The kernel counts a program's peak memory from the fork on, so that a child
// seems to need at least what its parent needed then. Between the benchmark and
// each measured program stands therefore a launcher: this very binary, called
// with launchWord, which has done nothing else and is small.

// launchWord, as the first argument, makes this program a launcher.
const launchWord = "launch-and-measure"

// usage is what one command took.
type usage struct {
	Wall   time.Duration `json:"wall_ns"`
	User   time.Duration `json:"user_ns"` // CPU time of the program and all its children
	System time.Duration `json:"system_ns"`
	Peak   int64         `json:"peak_bytes"` // of memory; of several processes, the largest one's
	Exit   int           `json:"exit"`
}

// tail keeps the last bytes that are written to it.
type tail struct {
	max int
	b   []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if len(t.b) > t.max {
		t.b = append(t.b[:0], t.b[len(t.b)-t.max:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return strings.TrimSpace(string(t.b)) }
