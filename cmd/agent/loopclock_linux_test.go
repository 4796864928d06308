package main

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"os"
	"strings"
	"time"

	"github.com/tharsis-backup/tharsis/vault/backend"
)

// clockEnv names the file of a loopClock to an agent-clocked.
const clockEnv = "CLOCK"

// loopClock is a clock that jumps: from each real time on it is so much later. All
// processes and the store go by the same one, and each process by what it was when
// the process began, so that some are days behind.
type loopClock struct {
	Steps []clockStep
}

type clockStep struct {
	From time.Time
	Late time.Duration
}

// step makes it later from a real time on.
func (c *loopClock) step(from time.Time, by time.Duration) {
	c.Steps = append(c.Steps, clockStep{from, c.late() + by})
}

// late is how late it is now.
func (c *loopClock) late() time.Duration {
	if len(c.Steps) == 0 {
		return 0
	}
	return c.Steps[len(c.Steps)-1].Late
}

// at is what the clock showed at a real time.
func (c *loopClock) at(real time.Time) time.Time {
	late := time.Duration(0)
	for _, s := range c.Steps {
		if real.Before(s.From) {
			break
		}
		late = s.Late
	}
	return real.Add(late)
}

// save writes the clock so that a reader has all of it.
func (c *loopClock) save(file string) error {
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// clockedCommand is an agent that goes by the clock in the file $CLOCK, as its store does.
func clockedCommand() {
	var c loopClock
	b, err := os.ReadFile(os.Getenv(clockEnv))
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "CLOCK:", err)
		os.Exit(99)
	}
	seams.now = func() time.Time { return time.Now().Add(c.late()) }
	seams.wrap = func(b backend.Backend) backend.Backend { return clockedStore{b, &c} }
	agentCommand()
}

// clockedStore tells when objects were stored by the clock. A probe, which is there for
// a moment, is never of a time before the clock last jumped: else it would be taken for
// one that was left.
type clockedStore struct {
	backend.Backend
	clock *loopClock
}

func (b clockedStore) List(ctx context.Context, prefix string) iter.Seq2[backend.Info, error] {
	return func(yield func(backend.Info, error) bool) {
		for info, err := range b.Backend.List(ctx, prefix) {
			if strings.HasPrefix(info.Name, "probe/") {
				info.Modified = info.Modified.Add(b.clock.late())
			} else {
				info.Modified = b.clock.at(info.Modified)
			}
			if !yield(info, err) {
				return
			}
		}
	}
}
