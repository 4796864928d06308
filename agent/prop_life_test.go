package agent

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tharsis-backup/tharsis/vault/log"
)

// modelPoint is what a user thinks of a point.
type modelPoint struct {
	id      string
	machine int
	sources []lifeSource

	deleted   bool
	deletedAt time.Time
	reason    string
	noted     time.Time // zero: not yet
	held      bool
	hold      string
	purged    bool
}

// lifeModel is a vault as its users think of it.
type lifeModel struct {
	points []*modelPoint // oldest first
	days   int
}

func (p *modelPoint) good(path string) bool {
	has := false
	for _, s := range p.sources {
		if s.status == log.StatusSuspect {
			return false
		}
		has = has || s.path == path && s.status != log.StatusFailed
	}
	return has && !p.deleted && !p.purged
}

// newest tells whether a point is the newest good one of one of its sources.
func (m *lifeModel) newest(p *modelPoint) bool {
	for _, s := range p.sources {
		if !p.good(s.path) {
			continue
		}
		after := m.points[slices.Index(m.points, p)+1:]
		if !slices.ContainsFunc(after, func(q *modelPoint) bool { return q.machine == p.machine && q.good(s.path) }) {
			return true
		}
	}
	return false
}

// purgeFrom is when the point may be purged; zero for not yet.
func (m *lifeModel) purgeFrom(p *modelPoint) time.Time {
	if !p.deleted || p.held || p.noted.IsZero() {
		return time.Time{}
	}
	return p.noted.Add(time.Duration(m.days) * 24 * time.Hour)
}

// lifeStory is a random sequence of commands, and what is expected of it.
type lifeStory struct {
	*lifeRig
	lifeModel
	rng *rand.Rand
	did []string
	was map[string]int // how often each outcome came
}

// Whatever two machines and an admin do to points, what all of them see is what a
// simple model says, and what is refused changes nothing.
func TestLifeOfPointsModel(t *testing.T) {
	total := map[string]int{}
	for seed := range envInt("THARSIS_SEEDS", 4) {
		seed += envInt("THARSIS_SEED", 1)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			s := &lifeStory{
				lifeRig: newLifeRig(t, 2), lifeModel: lifeModel{days: 14}, was: total,
				rng: rand.New(rand.NewPCG(uint64(seed), 0x6c696665)),
			}
			defer func() {
				if t.Failed() {
					t.Logf("THARSIS_SEED=%d; the steps:\n%s", seed, strings.Join(s.did, "\n"))
				}
			}()
			for range 200 {
				s.step()
				s.compare()
			}
		})
	}
	t.Logf("what came of it: %v", total)
	for _, what := range []string{
		"forget: done", "forget: ErrHeld", "forget: ErrNewest", "forget: ErrNoPoint", "forget: asked", "forget: same",
		"undelete: done", "undelete: ErrNoPoint", "undelete: asked", "undelete: same",
		"hold: done", "hold: ErrNoPoint", "hold: asked", "unhold: done", "unhold: asked", "unhold: same", "purge",
	} {
		if total[what] == 0 && !t.Failed() && envInt("THARSIS_SEEDS", 4) >= 4 {
			t.Errorf("it never came to: %s", what)
		}
	}
}

// step does one thing and tells the model.
func (s *lifeStory) step() {
	s.t.Helper()
	actor := s.rng.IntN(3)
	switch n := s.rng.IntN(22); {
	case n < 4 || len(s.points) < 4:
		s.make(actor)
	case n < 9:
		s.change(actor, "forget")
	case n < 11:
		s.change(actor, "undelete")
	case n < 12:
		s.change(actor, "hold")
	case n < 15:
		s.change(actor, "unhold")
	case n < 16:
		s.days = min(s.days+s.rng.IntN(2), log.MaxSoftDeleteDays)
		s.did = append(s.did, fmt.Sprintf("%d days", s.days))
		_, err := s.machines[0].SetSoftDelete(s.t.Context(), s.days)
		noErr(s.t, err)
	case n < 18:
		s.prune()
	default:
		s.now = s.now.Add(time.Duration(s.rng.Int64N(int64(20 * 24 * time.Hour))))
		s.did = append(s.did, "it is "+s.now.Format(time.DateTime))
	}
}

// make commits a point of some sources, some of them failed or suspect.
func (s *lifeStory) make(machine int) {
	p := &modelPoint{machine: machine}
	for _, path := range []string{"/a", "/b", "/c"} {
		if s.rng.IntN(3) > 0 {
			status := []log.Status{
				log.StatusComplete, log.StatusComplete, log.StatusWarnings, log.StatusFailed, log.StatusSuspect,
			}[s.rng.IntN(5)]
			p.sources = append(p.sources, lifeSource{path, status})
		}
	}
	if len(p.sources) == 0 {
		p.sources = []lifeSource{{"/a", log.StatusComplete}}
	}
	p.id = s.commit(machine, p.sources...)
	s.points = append(s.points, p)
	s.did = append(s.did, fmt.Sprintf("machine %d makes %.6s of %v", machine, p.id, p.sources))
}

// some are points that a user names, in a random order.
func (s *lifeStory) some(actor int) (some []*modelPoint, names []string) {
	own := s.rng.IntN(3) > 0
	for _, i := range s.rng.Perm(len(s.points)) {
		p := s.points[i]
		if len(some) < 1+s.rng.IntN(4) && (!own || p.machine == actor) && (!p.purged || s.rng.IntN(6) == 0) {
			some = append(some, p)
			names = append(names, p.id[:10+s.rng.IntN(23)])
		}
	}
	return some, names
}

// change does one of the four commands.
func (s *lifeStory) change(actor int, verb string) {
	s.t.Helper()
	some, names := s.some(actor)
	if len(some) == 0 {
		return
	}
	reason, last := []string{"", "old", "court"}[s.rng.IntN(3)], s.rng.IntN(2) == 0
	s.did = append(s.did, fmt.Sprintf("machine %d: %s %.6s, reason %q, last %v", actor, verb, names, reason, last))
	todo, want := s.expect(actor, verb, some, reason, last)
	got, err := s.command(actor, verb, names, reason, last)
	outcome := map[error]string{ErrHeld: "ErrHeld", ErrNewest: "ErrNewest", ErrNoPoint: "ErrNoPoint", errAsked: "asked"}[want]
	if !errors.Is(err, want) {
		s.t.Fatalf("%s: %v, want %v", s.did[len(s.did)-1], err, want)
	}
	if want != nil {
		s.was[verb+": "+outcome]++
		return
	}
	s.was[verb+": "+map[bool]string{true: "done", false: "same"}[len(todo) > 0]]++
	var ids []string
	for _, p := range todo {
		ids = append(ids, p.id)
		s.apply(p, verb, reason)
	}
	if verb == "forget" && actor == 0 { // it has the admin key
		for _, p := range s.points {
			if p.deleted && p.noted.IsZero() {
				p.noted = s.now
			}
		}
	}
	if !slices.Equal(got, ids) {
		s.t.Fatalf("%s: changed %v, want %v", s.did[len(s.did)-1], got, ids)
	}
}

// expect is the error, or what changes.
func (s *lifeStory) expect(actor int, verb string, some []*modelPoint, reason string, last bool) (todo []*modelPoint, err error) {
	foreign := false
	for _, p := range some {
		if p.purged {
			return nil, ErrNoPoint
		}
		foreign = foreign || p.machine != actor
	}
	for _, p := range some {
		differs := map[string]bool{
			"forget": !p.deleted, "undelete": p.deleted, "hold": !p.held || p.hold != reason, "unhold": p.held,
		}[verb]
		if !differs {
			continue
		}
		if verb == "forget" && p.held {
			return nil, ErrHeld
		}
		if verb == "forget" && !last && s.newest(p) {
			return nil, ErrNewest
		}
		todo = append(todo, p)
	}
	if foreign && len(todo) > 0 && actor != 0 {
		return nil, errAsked
	}
	return todo, nil
}

func (s *lifeStory) apply(p *modelPoint, verb, reason string) {
	switch verb {
	case "forget":
		p.deleted, p.deletedAt, p.reason, p.noted = true, s.now, reason, time.Time{}
	case "undelete":
		p.deleted, p.reason = false, ""
	case "hold":
		p.held, p.hold = true, reason
	case "unhold":
		p.held, p.hold = false, ""
	}
}

func (s *lifeStory) command(actor int, verb string, names []string, reason string, last bool) (ids []string, err error) {
	m, ctx := s.machines[actor], s.t.Context()
	var points []PointInfo
	switch verb {
	case "forget":
		var res ForgetResult
		res, err = m.Forget(ctx, names, ForgetOptions{Reason: reason, Last: last})
		points = res.Points
	case "undelete":
		points, err = m.Undelete(ctx, names)
	case "hold":
		points, err = m.Hold(ctx, names, reason)
	case "unhold":
		points, err = m.Unhold(ctx, names)
	}
	for _, p := range points {
		ids = append(ids, p.ID.String())
	}
	return ids, err
}

// prune purges what may be purged, by what the listing says.
func (s *lifeStory) prune() {
	s.t.Helper()
	noErr(s.t, s.machines[0].refresh(s.t.Context()))
	points, err := s.machines[0].Points(s.t.Context(), PointFilter{Deleted: true})
	noErr(s.t, err)
	for _, p := range points {
		if !p.PurgeFrom.IsZero() && !p.PurgeFrom.After(s.now) {
			s.purge(p.ID.String())
		}
	}
	for _, p := range s.points {
		if from := s.purgeFrom(p); !from.IsZero() && !from.After(s.now) {
			s.did = append(s.did, fmt.Sprintf("%.6s is purged", p.id))
			p.deleted, p.purged = false, true
			s.was["purge"]++
		}
	}
}

// compare checks what each machine sees.
func (s *lifeStory) compare() {
	s.t.Helper()
	for i, m := range s.machines {
		noErr(s.t, m.refresh(s.t.Context()))
		for _, deleted := range []bool{false, true} {
			points, err := m.Points(s.t.Context(), PointFilter{Deleted: deleted})
			noErr(s.t, err)
			const format = "%s deleted %v held %v %q %q at %d purge %d"
			var got, want []string
			for _, p := range points {
				got = append(got, fmt.Sprintf(format, p.ID.String(), p.Deleted, p.Held, p.HoldReason, p.ForgetReason, stamp(p.DeletedAt), stamp(p.PurgeFrom)))
			}
			for _, p := range s.points {
				if !p.purged && p.deleted == deleted {
					at := time.Time{}
					if deleted {
						at = p.deletedAt
					}
					want = append(want, fmt.Sprintf(format, p.id, p.deleted, p.held, p.hold, p.reason, stamp(at), stamp(s.purgeFrom(p))))
				}
			}
			if !slices.Equal(got, want) {
				s.t.Fatalf("machine %d lists (deleted %v)\n%s\nwant\n%s", i, deleted, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		}
		s.compareLatest(m, i)
	}
}

func stamp(t time.Time) int64 { return cmp.Or(t, time.Unix(0, 0)).UnixNano() }

// compareLatest checks what a machine's next restore and backup go by, and that a
// point can be named for as long as it is not purged.
func (s *lifeStory) compareLatest(m *Session, machine int) {
	s.t.Helper()
	latest := &modelPoint{}
	for _, p := range s.points {
		if p.machine == machine && !p.deleted && !p.purged {
			latest = p
		}
		if _, err := m.resolve(p.id, "", ""); (err != nil) != p.purged {
			s.t.Fatalf("machine %d: point %s: %v, purged %v", machine, p.id, err, p.purged)
		}
	}
	name := m.machine.ID.String()
	if p, err := m.resolve("latest", name, ""); (err == nil) != (latest.id != "") || err == nil && p.Point.ID.String() != latest.id {
		s.t.Fatalf("machine %d: latest is %v, want %q: %v", machine, p.Point, latest.id, err)
	}
	if p, err := m.resolve(s.now.Format(time.RFC3339Nano), name, ""); err == nil && p.Point.ID.String() != latest.id {
		s.t.Fatalf("machine %d: now is %s, want %q", machine, p.Point.ID, latest.id)
	}
	var paths []string
	for _, src := range latest.sources {
		paths = append(paths, src.path)
	}
	if got := m.lastSources(); !slices.Equal(got, paths) {
		s.t.Fatalf("machine %d backs up %v, want %v", machine, got, paths)
	}
}
