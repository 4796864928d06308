package agent

import (
	"context"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/backend/fault"
)

const (
	// firstSlot is what the link carries in half an hour, after which a job makes what it
	// has stored part of the vault.
	firstSlot = 400 << 10
	firstDay  = 48 * firstSlot
	// firstMost is how much of the data may be uploaded, in percent.
	firstMost = 110
	// firstShrink makes packs of 64 KiB: of those the link carries some in half an hour.
	firstShrink = 256
)

// A first backup takes two months: the link is slow, and each day the machine dies.
// Twice it loses its cache. At each noon another machine, in the midst of the job,
// makes a point, deletes older ones and prunes. In the end the backup is there, and no
// more was uploaded for it than 1.1 times the data, whatever was on its way when
// the machine died included.
//
// A plain run takes four days, with the same losses.
func TestFirstBackupOfMonths(t *testing.T) {
	days := 4
	switch {
	case raceOn:
		days = 2
	case os.Getenv(faultAllEnv) != "":
		days = 60
	}
	// There are as many fewer files as there is less data.
	defer func(n int) { partialCheck = n }(partialCheck)
	partialCheck = 1
	w := newAgeWorld(t, firstShrink)
	const fileBytes = 16 << 10
	other := w.machine("other", 40, fileBytes)
	m := w.machine("box", days*firstDay/fileBytes, fileBytes)
	link := &firstLink{w: w, noon: func() { w.noon(other) }}
	m.wrap = func(backend.Backend) backend.Backend { return link }
	data := int64(len(m.versions)) * fileBytes

	var point string
	day := 0
	for ; point == ""; day++ {
		if day > days*firstMost/100+1 {
			t.Fatalf("no end after %d days: %d bytes were uploaded of %d", day, link.stored, data)
		}
		link.begin(m)
		res, err := m.backup(t.Context(), m.src)
		if err == nil {
			point = res.Point
			break
		}
		if !link.dead {
			t.Fatalf("day %d: %v", day, err)
		}
		m.home = link.image
		if day == days/3 || day == 2*days/3 {
			noErr(t, os.RemoveAll(filepath.Join(m.home, "cache")))
		}
	}
	t.Logf("%d bytes were uploaded in %d days, %d%% of %d; %d PARTIALs and COMMITs; %d bytes by the other machine",
		link.stored, day+1, link.stored*100/data, data, link.entries, other.meter.stored)
	if link.stored*100 > data*firstMost {
		t.Errorf("%d bytes were uploaded of %d", link.stored, data)
	}
	m.wrap = func(backend.Backend) backend.Backend { return &m.meter }
	m.restored(point, m.versions)
	points, err := other.points(t.Context())
	noErr(t, err)
	for _, p := range points {
		if p.Machine == other.host && !p.Deleted {
			other.restored(p.ID.String(), other.versions)
		}
	}
}

// noon is what the other machine does each day.
func (w *ageWorld) noon(m *ageMachine) {
	ctx := w.t.Context()
	for i := range 8 {
		m.edit((int(w.tick) + i) % m.files)
	}
	_, err := m.backup(ctx, m.src)
	noErr(w.t, err)
	noErr(w.t, m.session(ctx, true, func(s *Session) error {
		points := s.vault.Log.State().Points()
		for _, p := range points[:len(points)-1] {
			if p.Forgotten == 0 && p.Point.Machine == s.machine.ID {
				if _, err := s.Forget(ctx, []string{p.Point.ID.String()}, ForgetOptions{}); err != nil {
					return fmt.Errorf("forget: %w", err)
				}
			}
		}
		// Much of what a vault has that is this young is what jobs replaced.
		_, err := s.Prune(ctx, PruneOptions{Confirm: true})
		return err
	}))
}

// firstLink is the slow link of a machine that dies each day: time passes as bytes
// go through it.
type firstLink struct {
	w    *ageWorld
	noon func()

	mu      sync.Mutex // guards the rest
	m       *ageMachine
	day     int64 // bytes of this day
	hadNoon bool
	dead    bool
	image   string // the home as death left it
	stored  int64
	entries int
}

// begin begins a day.
func (l *firstLink) begin(m *ageMachine) {
	l.m, l.day, l.dead, l.hadNoon = m, 0, false, false
}

// dies tells whether the machine is dead.
func (l *firstLink) dies() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead {
		return fault.ErrKilled
	}
	return nil
}

func (l *firstLink) Put(ctx context.Context, name string, body io.ReaderAt, size int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead {
		return fault.ErrKilled
	}
	if l.day > firstDay/2 && !l.hadNoon {
		l.hadNoon = true
		l.noon()
	}
	sent := min(size, firstDay-l.day)
	l.day += sent
	l.stored += sent
	l.w.pass(time.Duration(sent) * (30 * time.Minute / firstSlot))
	if sent < size {
		l.dead = true
		l.image = filepath.Join(l.w.dir, fmt.Sprint("box-", l.stored))
		if err := faultCopy(l.m.home, l.image, false); err != nil {
			return err
		}
		return fault.ErrKilled
	}
	if name[:4] == "log/" {
		l.entries++
	}
	return l.w.vault.Put(ctx, name, body, size)
}

func (l *firstLink) Get(ctx context.Context, name string, off, length int64) (io.ReadCloser, error) {
	if err := l.dies(); err != nil {
		return nil, err
	}
	return l.w.vault.Get(ctx, name, off, length)
}

func (l *firstLink) Delete(ctx context.Context, name string) error {
	if err := l.dies(); err != nil {
		return err
	}
	return l.w.vault.Delete(ctx, name)
}

func (l *firstLink) List(ctx context.Context, prefix string) iter.Seq2[backend.Info, error] {
	if err := l.dies(); err != nil {
		return func(yield func(backend.Info, error) bool) { yield(backend.Info{}, err) }
	}
	return l.w.vault.List(ctx, prefix)
}

func (l *firstLink) Close() error { return nil }
