package agent

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/tharsis-backup/tharsis/agent/home"
	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/log"
)

// Tests need not delete 64,000 points to have several entries.
func init() {
	maxEntryPoints = 3
	maxEntryForgets = 2
}

// errAsked is what a person who has no passphrase says.
var errAsked = errors.New("a passphrase was asked for")

// lifeRig is a vault with machines that have an open session each, and points of
// no content, for what happens to points after they were made. The first machine
// has the admin key; the others have none, and nobody there knows a passphrase.
type lifeRig struct {
	*rig
	machines []*Session
	rigs     []*rig
	now      time.Time // the clock of all of them
	ids      []log.PointID
}

func newLifeRig(t testing.TB, others int) *lifeRig {
	t.Helper()
	l := &lifeRig{rig: newRig(t), now: time.Now()}
	l.join(l.rig)
	for i := range others {
		l.join(l.peer(string(rune('a' + i))))
	}
	return l
}

// join enrols a machine and opens a session of it, with what its home then has.
func (l *lifeRig) join(r *rig) {
	l.t.Helper()
	r.env.Clock = func() time.Time { return l.now }
	noErr(l.t, r.session(l.t.Context(), func(s *Session) error { return s.enrol(l.t.Context()) }))
	r.env.Secret = func(context.Context) (string, error) { return "", errAsked }
	l.rigs = append(l.rigs, r)
	l.machines = append(l.machines, r.opened())
}

// opened is a session that is open until the test ends. Its home is not locked.
func (r *rig) opened() *Session {
	r.t.Helper()
	h, err := home.Open(r.home)
	noErr(r.t, err)
	s, err := Open(r.t.Context(), r.env, h, r.vault)
	noErr(r.t, err)
	r.t.Cleanup(func() { s.Close() })
	return s
}

// source is a source of a point without content.
type lifeSource struct {
	path   string
	status log.Status
}

// commit makes a point of a machine. It is suspect where a source is.
func (l *lifeRig) commit(machine int, sources ...lifeSource) string {
	l.t.Helper()
	return l.commitOf(l.machines[machine], sources...)
}

func (l *lifeRig) commitOf(s *Session, sources ...lifeSource) string {
	l.t.Helper()
	if len(sources) == 0 {
		sources = []lifeSource{{"/src", log.StatusComplete}}
	}
	p := log.Point{
		Machine: s.machine.ID, Install: s.machine.Nonce, Previous: s.lastCommit(s.vault.Log.State()), Host: s.host, Agent: Version,
		Started: l.now.UnixNano(), Ended: l.now.UnixNano(),
	}
	noErr(l.t, s.random(p.ID[:]))
	for _, src := range sources {
		o := log.Source{ID: sourceID(p.Machine, src.path), Path: src.path, Status: src.status, Base: log.None}
		if src.status != log.StatusFailed {
			o.Root = chunk.ID{1}
		}
		p.Suspect = p.Suspect || src.status == log.StatusSuspect
		p.Sources = append(p.Sources, o)
	}
	_, err := s.vault.Log.Append(l.t.Context(), s.machine.Key, func(*log.State) (log.Body, error) { return &log.Commit{Point: p}, nil })
	noErr(l.t, err)
	l.ids = append(l.ids, p.ID)
	return p.ID.String()
}

// asAdmin appends what no command of these writes.
func (l *lifeRig) asAdmin(body log.Body) {
	l.t.Helper()
	s := l.machines[0]
	admin, err := s.admin(l.t.Context(), "test")
	noErr(l.t, err)
	_, err = s.vault.Log.Append(l.t.Context(), admin, func(*log.State) (log.Body, error) { return body, nil })
	noErr(l.t, err)
}

// purge purges points as a prune does.
func (l *lifeRig) purge(ids ...string) {
	l.t.Helper()
	var points []log.PointID
	for _, id := range ids {
		p, err := log.ParsePointID(id)
		noErr(l.t, err)
		points = append(points, p)
	}
	l.asAdmin(&log.Purge{Points: points})
}

// state is a point as the log has it now.
func (l *lifeRig) state(id string) log.PointInfo {
	l.t.Helper()
	noErr(l.t, l.machines[0].refresh(l.t.Context()))
	pid, err := log.ParsePointID(id)
	noErr(l.t, err)
	p, ok := l.machines[0].vault.Log.State().Point(pid)
	if !ok {
		l.t.Fatalf("no point %s", id)
	}
	return p
}

// entries is how many entries the log has.
func (l *lifeRig) entries() uint64 {
	l.t.Helper()
	noErr(l.t, l.machines[0].refresh(l.t.Context()))
	return l.machines[0].vault.Log.Head().Seq + 1
}

// listed are the IDs that a machine lists.
func (l *lifeRig) listed(machine int, deleted bool) (ids []string) {
	l.t.Helper()
	noErr(l.t, l.machines[machine].refresh(l.t.Context()))
	points, err := l.machines[machine].Points(l.t.Context(), PointFilter{Deleted: deleted})
	noErr(l.t, err)
	for _, p := range points {
		ids = append(ids, p.ID.String())
	}
	return ids
}

// lists checks what all machines list.
func (l *lifeRig) lists(there, deleted []string) {
	l.t.Helper()
	for i := range l.machines {
		if got := l.listed(i, false); !slices.Equal(got, there) {
			l.t.Fatalf("machine %d lists %v, want %v", i, got, there)
		}
		if got := l.listed(i, true); !slices.Equal(got, deleted) {
			l.t.Fatalf("machine %d lists as deleted %v, want %v", i, got, deleted)
		}
	}
}

// seen checks that the home of a machine knows the log's head: what was written last
// cannot be taken back without its notice.
func (l *lifeRig) seen(machine int) {
	l.t.Helper()
	s := l.machines[machine]
	head, ok, err := s.home.Head(s.vault.Config.Vault)
	if err != nil || !ok || head.Head != s.vault.Log.Head() {
		l.t.Fatalf("the home knows %v, the log's head is %v: %v", head.Head, s.vault.Log.Head(), err)
	}
}

func (l *lifeRig) forget(machine int, o ForgetOptions, names ...string) (ForgetResult, error) {
	return l.machines[machine].Forget(l.t.Context(), names, o)
}
