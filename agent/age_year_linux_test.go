package agent

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/key"
)

const (
	ageFiles = 400
	// ageWaste is how much larger than what its points need a vault may be, in percent.
	ageWaste = 30
	// ageRequest is what a request of a far store costs, in bytes that could be read
	// meanwhile: 50 ms at 100 Mbit/s.
	ageRequest = 625_000
	// ageReads is how much more a restore may cost than the first did, in percent.
	ageReads = 50
)

// A vault grows old. A machine backs up each hour what has changed, which is a
// hundredth of its files. What a policy does
// not keep is deleted each day, and a prune follows, unasked. A point is held and let
// go; half-way the passphrase is lost, and the recovery key gives another one.
//
// The vault, all of it, stays below 1.3 times what its points need; the number of its
// packs and runs stays below a bound that does not know how long it went on (the log
// keeps an object an entry); and the newest point is restored at 1.5 times the cost of
// the first one, in bytes and requests, at most.
//
// A plain run does a month, at a backup in three hours.
func TestYear(t *testing.T) {
	days, every, shrink := 30, 3*time.Hour, 64
	switch {
	case raceOn:
		days = 3
	case os.Getenv(faultAllEnv) != "":
		// Larger, so that the log of a year is as small beside it as it is in life.
		days, every, shrink = 365, time.Hour, 16
	}
	w := newAgeWorld(t, shrink)
	m := w.machine("box", ageFiles, 2<<20/shrink)
	y := &ageYear{t: t, m: m, r: rand.New(rand.NewPCG(1, 0x79656172)), held: map[string]bool{}, perDay: int(24 * time.Hour / every)}
	noErr(t, m.session(t.Context(), true, y.backup))
	first := m.restored(y.points[0].id, y.points[0].versions)
	for day := range days {
		y.day(every)
		switch day {
		case days / 3:
			y.hold(len(y.points) - 3)
		case days / 2:
			y.loseKey()
		case days * 5 / 6:
			y.unhold()
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("after %d days: %d of %d points, %s", days, len(y.points), y.made, y.last)
	for _, p := range someOf(y.points, 12) {
		m.restored(p.id, p.versions)
	}
	last := y.points[len(y.points)-1]
	newest := m.restored(last.id, last.versions)
	t.Logf("the first restore read %+v, the newest %+v", first, newest)
	if a, b := first.cost(shrink), newest.cost(shrink); b*100 > a*(100+ageReads) {
		t.Errorf("the newest restore costs as much as %d bytes, the first %d", b, a)
	}
}

// cost is that of a restore from a far store, in bytes. Requests cost as much less as
// packs are smaller.
func (r ageRead) cost(shrink int) int64 { return r.Bytes + r.Gets*ageRequest/int64(shrink) }

// ageYear is what goes on.
type ageYear struct {
	t      *testing.T
	m      *ageMachine
	r      *rand.Rand
	points []agePoint // that were not purged
	held   map[string]bool
	perDay int // backups
	made   int
	last   ageState
}

// day is a day of a machine whose agent goes on running.
func (y *ageYear) day(every time.Duration) {
	noErr(y.t, y.m.session(y.t.Context(), true, func(s *Session) error {
		at := y.r.IntN(y.perDay) // timers are not at the same minute each day
		for i := range y.perDay {
			y.m.w.pass(every)
			y.work()
			if err := y.backup(s); err != nil {
				return err
			}
			if i != at {
				continue
			}
			if err := y.reclaim(s); err != nil {
				return err
			}
			y.judge()
		}
		return nil
	}))
}

// work edits a hundredth of the files.
func (y *ageYear) work() {
	chosen := map[int]bool{}
	for len(chosen) < y.m.files/100 {
		chosen[y.r.IntN(y.m.files)] = true
	}
	for i := range y.m.files {
		if chosen[i] {
			y.m.edit(i)
		}
	}
}

func (y *ageYear) backup(s *Session) error {
	res, err := s.Backup(y.t.Context(), BackupOptions{Paths: []string{y.m.src}})
	y.made++
	y.points = append(y.points, agePoint{res.Point, y.m.w.clock(), slices.Clone(y.m.versions)})
	return err
}

// reclaim deletes what the policy does not keep, and prunes, as a timer does it.
func (y *ageYear) reclaim(s *Session) error {
	ctx := y.t.Context()
	keep := ageKeep(y.points)
	var forget []string
	for _, p := range s.vault.Log.State().Points() {
		if id := p.Point.ID.String(); !keep[id] && !p.Held && p.Forgotten == 0 {
			forget = append(forget, id)
		}
	}
	if len(forget) > 0 {
		if _, err := s.Forget(ctx, forget, ForgetOptions{}); err != nil {
			return err
		}
	}
	res, err := s.Prune(ctx, PruneOptions{})
	y.last.Live = res.LiveBytes
	there := map[string]bool{}
	for _, p := range s.vault.Log.State().Points() {
		there[p.Point.ID.String()] = true
	}
	y.points = slices.DeleteFunc(y.points, func(p agePoint) bool { return !there[p.id] })
	return err
}

// ageState is what a vault holds, and what is in it.
type ageState struct {
	Objects, LogObjects int64
	Bytes               int64
	Live                int64 // what points need, as stored
	worst               int64 // percent of Live that Bytes were
	most                int64 // objects
}

func (s ageState) String() string {
	return fmt.Sprintf("%d packs and runs (%d at most), %d objects of the log, %d bytes of %d live ones (%d%%, %d%% at most)",
		s.Objects, s.most, s.LogObjects, s.Bytes, s.Live, s.Bytes*100/s.Live, s.worst)
}

// judge looks at what the vault holds.
func (y *ageYear) judge() {
	w, s := y.m.w, &y.last
	packs, _ := w.size("packs/")
	runs, _ := w.size("index/")
	s.Objects = packs + runs
	s.LogObjects, _ = w.size("log/")
	_, s.Bytes = w.size("")
	s.worst, s.most = max(s.worst, s.Bytes*100/s.Live), max(s.most, s.Objects)
	if s.Bytes*100 > s.Live*(100+ageWaste) || s.Objects > y.objects() {
		y.t.Errorf("backup %d, %d points: %s", y.made, len(y.points), s)
	}
	// What points need is what the prune says: by the test's own books, the content that
	// they had when it came, and manifests of up to 32 KiB each.
	var states [][]uint32
	for _, p := range y.points {
		states = append(states, p.versions)
	}
	data := y.m.liveBytes(states)
	if s.Live < data || s.Live > data*101/100+int64(len(y.points)+1)*(32<<10) {
		y.t.Errorf("backup %d: the prune says that %d bytes are needed of %d points with %d bytes of content", y.made, s.Live, len(y.points), data)
	}
}

// objects bounds the vault's packs and index runs: a pack of data and one of pages for
// each backup of the soft-delete period, until it ends, is swept and the next prune
// comes; two runs for each of those that are superseded and not swept; what is not
// written together yet; and what else a policy keeps, which is.
func (y *ageYear) objects() int64 {
	const graceDays = 4
	return int64(2*y.perDay*(vault.DefaultSoftDeleteDays+1+graceDays) + 2*y.perDay*graceDays + 2*manySmall)
}

// hold holds a point that the policy would not keep for long.
func (y *ageYear) hold(n int) {
	id := y.points[n].id
	y.held[id] = true
	noErr(y.t, y.m.session(y.t.Context(), true, func(s *Session) error {
		_, err := s.Hold(y.t.Context(), []string{id}, "an audit")
		return err
	}))
}

// unhold lets go what is held, which has to be there.
func (y *ageYear) unhold() {
	for id := range y.held {
		at := slices.IndexFunc(y.points, func(p agePoint) bool { return p.id == id })
		if at < 0 {
			y.t.Errorf("the held point %.8s is gone", id)
			continue
		}
		y.m.restored(id, y.points[at].versions)
		noErr(y.t, y.m.session(y.t.Context(), true, func(s *Session) error {
			_, err := s.Unhold(y.t.Context(), []string{id})
			return err
		}))
	}
	clear(y.held)
}

// loseKey is the day on which nobody knows the passphrase any more.
func (y *ageYear) loseKey() {
	ctx := y.t.Context()
	noErr(y.t, y.m.changePassphrase(ctx, y.m.w.recovery.String(), faultNewPass))
	for _, c := range []struct {
		secret string
		want   error
	}{{faultPass, key.ErrWrongKey}, {faultNewPass, nil}} {
		other := *y.m.faultWorld
		other.home, other.secret = filepath.Join(y.m.w.dir, "new-"+c.secret[:4]), c.secret
		if _, err := other.points(ctx); !errors.Is(err, c.want) {
			y.t.Errorf("with passphrase %q: %v", c.secret, err)
		}
	}
}
