package log

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tharsis-backup/tharsis/chunk"
)

// ID is short for the tests.
type ID = chunk.ID

// However a log is read, its State is the same.
func TestReplayIsOne(t *testing.T) {
	var ignored, purged, partials int
	for round := range 3 {
		s := newSite(t, 3)
		m := maker{s.rng}
		writer := s.open(t, Options{})
		reader := s.open(t, Options{})
		cache := &memoryCache{}
		signers := append(slices.Clone(s.machines), s.admin, s.admin, s.admin, s.admin, s.admin, s.stranger)
		// The machines are enrolled anew at times, sometimes under keys 4 to 7.
		for i := range 4 {
			signers = append(signers, keyOf(uint64(i)), keyOf(uint64(i+4)))
		}
		for writer.next < 600 {
			typ := Type(1 + m.IntN(int(TypeSettings)))
			if m.IntN(2) == 0 {
				typ = []Type{TypeCommit, TypeForget, TypePartial, TypePurge, TypeUnhold}[m.IntN(5)]
			}
			if writer.next%256 == 0 && round == 1 {
				if err := writer.ensureBundle(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			body := m.body(typ)
			signer := signers[m.IntN(len(signers))]
			if m.IntN(2) == 0 {
				signer = rightful(s, writer.State(), body)
			}
			s.force(t, writer, signer, body)
			if m.IntN(20) == 0 {
				if err := reader.Refresh(t.Context()); err != nil {
					t.Fatal(err)
				}
				sameState(t, "refreshed", reader.State(), writer.State())
			}
			if m.IntN(60) == 0 {
				sameState(t, "cached", s.open(t, Options{Cache: cache}).State(), writer.State())
			}
		}
		sameState(t, "from 0", s.open(t, Options{}).State(), writer.State())
		st := writer.State()
		ignored, purged, partials = ignored+st.Ignored(), purged+len(st.byID)-len(st.Points()), partials+len(st.Partials())
		checkQueries(t, st)
	}
	if ignored == 0 || purged == 0 || partials == 0 {
		t.Errorf("the random logs say too little: %d ignored, %d purged, %d partials", ignored, purged, partials)
	}
}

// rightful gives a signer who may write body, if there is one.
func rightful(s *site, st *State, body Body) ed25519.PrivateKey {
	for i := range uint64(8) {
		if st.mayWrite(&Entry{Seq: 1, Writer: PublicOf(keyOf(i)), Body: body}) {
			return keyOf(i)
		}
	}
	return s.admin
}

// checkQueries checks that the answers of a State agree with each other.
func checkQueries(t *testing.T, s *State) {
	t.Helper()
	live := s.Runs()
	for id := range s.runs {
		if s.RunLive(id) != slices.Contains(live, id) {
			t.Errorf("run %s: live or not", id.Short())
		}
	}
	untrusted := false
	for id, mark := range s.packs {
		untrusted = untrusted || mark.flags&packUnusable != 0
		if s.Usable(id) != (mark.flags&packUnusable == 0) {
			t.Errorf("pack %s: usable or not", id.Short())
		}
	}
	if untrusted != s.HasUntrusted() {
		t.Error("untrusted or not")
	}
	for _, p := range s.Points() {
		if q, err := s.PointByPrefix(p.Point.ID.String()); err != nil || !reflect.DeepEqual(p, q) {
			t.Errorf("point %s by its name: %v", p.Point.ID, err)
		}
		for _, src := range p.Point.Sources {
			base, ok := s.BaseFor(src.ID)
			if src.Status == StatusFailed {
				continue
			}
			if !ok || base.Entry.Seq < p.Entry.Seq || !s.Stands(src.ID, base.Entry.Seq) || !s.Stands(src.ID, p.Entry.Seq) {
				t.Errorf("point %s: base of %q", p.Point.ID, src.Path)
			}
		}
	}
	for _, seq := range s.Unnoted() {
		if len(s.forgets[seq]) == 0 {
			t.Errorf("FORGET %d has no point", seq)
		}
	}
}

// effect tells whether a body by a signer changes the State that setup made.
func effect(t *testing.T, signer ed25519.PrivateKey, setup func(*site, *Log), b Body) (changed bool, ignored int) {
	t.Helper()
	s := newSite(t, 2)
	l := s.open(t, Options{})
	if setup != nil {
		setup(s, l)
	}
	before := s.open(t, Options{}).State()
	was := before.Ignored()
	s.force(t, l, signer, b)
	after := l.State()
	before.head, before.ignored = after.head, after.ignored
	return !reflect.DeepEqual(before, after), after.Ignored() - was
}

func TestAuthority(t *testing.T) {
	s := newSite(t, 2)
	one, all := PointID{1}, []PointID{{1}, {2}}
	// Machine 0 made point 1, machine 1 point 2; key 50 was machine 0's once.
	setup := func(s *site, l *Log) {
		old := s.enrol(0)
		old.Key = PublicOf(keyOf(50))
		s.force(t, l, s.admin, old)
		s.force(t, l, keyOf(50), &Commit{Point: s.pointOf(0, 1)})
		s.force(t, l, s.admin, s.enrol(0))
		s.force(t, l, s.machines[1], &Commit{Point: s.pointOf(1, 2)})
	}
	forgotten := func(s *site, l *Log) {
		setup(s, l)
		s.force(t, l, s.admin, &Forget{Points: all})
	}
	held := func(s *site, l *Log) {
		setup(s, l)
		s.force(t, l, s.admin, &Hold{Points: all})
	}
	commit, partial := s.pointOf(0, 3), s.pointOf(0, 4)
	const admin, machine0, machine1, oldKey, nobody = 1, 2, 4, 8, 16
	signers := map[int]ed25519.PrivateKey{
		admin: s.admin, machine0: s.machines[0], machine1: s.machines[1], oldKey: keyOf(50), nobody: s.stranger,
	}
	g := s.genesis()
	g.Admin = PublicOf(s.stranger)
	for _, test := range []struct {
		body  Body
		setup func(*site, *Log)
		may   int
	}{
		{&g, nil, 0},
		{&Machine{ID: machineID(5), Key: PublicOf(s.stranger)}, setup, admin},
		{&Commit{Point: commit}, setup, machine0},
		{&Partial{Point: partial}, setup, machine0},
		{&Index{Adds: []ID{{1}}}, setup, admin | machine0 | machine1},
		{&Quarantine{Packs: []ID{{1}}}, setup, admin | machine0 | machine1},
		{&Forget{Points: []PointID{one}}, setup, admin | machine0},
		{&Forget{Points: all}, setup, admin},
		{&Unforget{Points: []PointID{one}}, forgotten, admin | machine0},
		{&Unforget{Points: all}, forgotten, admin},
		{&Hold{Points: []PointID{one}}, setup, admin | machine0},
		{&Hold{Points: all}, setup, admin},
		{&Unhold{Points: []PointID{one}}, held, admin | machine0},
		{&Unhold{Points: all}, held, admin},
		{&Purge{Points: []PointID{one}}, forgotten, admin},
		{&Repack{Adds: []ID{{1}}, Replaced: []ID{{2}}}, setup, admin},
		{&Condemn{Packs: []ID{{1}}, Runs: []ID{{2}}}, setup, admin},
		{&Swept{Packs: []ID{{1}}, Runs: []ID{{2}}}, setup, admin},
		{&KeyChange{Added: []Slot{{ID: SlotID{9}, Kind: SlotRecovery}}}, setup, admin},
		{&Noted{Forgets: []uint64{7}}, forgotten, admin},
		{&Settings{SoftDeleteDays: 30}, setup, admin},
	} {
		for _, who := range slices.Sorted(maps.Keys(signers)) {
			changed, ignored := effect(t, signers[who], test.setup, test.body)
			if may := test.may&who != 0; changed != may || (ignored == 0) != may {
				t.Errorf("%s by %d: changed %v, ignored %d", test.body.Type(), who, changed, ignored)
			}
		}
	}
}

// story is a State made step by step.
type story struct {
	*testing.T
	*site
	l *Log
}

func newStory(t *testing.T) story {
	s := newSite(t, 2)
	return story{t, s, s.open(t, Options{})}
}

func (s story) do(signer ed25519.PrivateKey, b Body) uint64 {
	s.force(s.T, s.l, signer, b)
	return s.l.Head().Seq
}

func (s story) point(id byte) PointInfo {
	s.Helper()
	p, ok := s.l.State().Point(PointID{id})
	if !ok {
		s.Fatalf("no point %d", id)
	}
	return p
}

func TestLifeOfAPoint(t *testing.T) {
	s := newStory(t)
	st, ids := s.l.State(), []PointID{{1}}
	s.do(s.machines[0], &Commit{Point: s.pointOf(0, 1)})
	// A purge of a point that nobody forgot does nothing.
	s.do(s.admin, &Purge{Points: ids})
	if s.point(1).Purged {
		t.Fatal("purged without a FORGET")
	}
	first := s.do(s.machines[0], &Forget{Points: ids, Reason: "old"})
	s.do(s.machines[0], &Forget{Points: ids, Reason: "again"})
	if p := s.point(1); p.Forgotten != first || p.ForgottenAt != int64(first)*1e9 || p.ForgetReason != "old" || p.Noted != 0 {
		t.Fatalf("%+v", p)
	}
	if _, ok := st.PurgeableFrom(PointID{1}); ok || !slices.Equal(st.Unnoted(), []uint64{first}) {
		t.Fatal("the period runs before anybody noted it")
	}
	noted := s.do(s.admin, &Noted{Forgets: []uint64{first, 999, 0}})
	s.do(s.admin, &Noted{Forgets: []uint64{first}})
	want := time.Unix(int64(noted), 0).Add(14 * 24 * time.Hour)
	if at, ok := st.PurgeableFrom(PointID{1}); !ok || !at.Equal(want) || st.Unnoted() != nil {
		t.Fatal(at, want)
	}
	// It is brought back, and forgotten anew: the old NOTED counts no more.
	s.do(s.machines[0], &Unforget{Points: ids})
	if p := s.point(1); p.Forgotten != 0 || p.ForgottenAt != 0 || p.Noted != 0 {
		t.Fatalf("%+v", p)
	}
	second := s.do(s.machines[0], &Forget{Points: ids})
	s.do(s.admin, &Noted{Forgets: []uint64{first}})
	if s.point(1).Noted != 0 {
		t.Fatal("an old NOTED counts")
	}
	// A hold keeps it from a purge, and, once it was brought back, from FORGET.
	s.do(s.admin, &Hold{Points: ids, Reason: "court"})
	s.do(s.admin, &Noted{Forgets: []uint64{second}})
	s.do(s.admin, &Purge{Points: ids})
	if p := s.point(1); p.Purged || !p.Held || p.HoldReason != "court" || p.Forgotten != second {
		t.Fatalf("%+v", p)
	}
	s.do(s.admin, &Unforget{Points: ids})
	s.do(s.admin, &Forget{Points: ids})
	if s.point(1).Forgotten != 0 {
		t.Fatal("forgotten although held")
	}
	s.do(s.admin, &Unhold{Points: ids})
	s.do(s.admin, &Forget{Points: ids})
	s.do(s.machines[0], &Purge{Points: ids})
	if s.point(1).Purged {
		t.Fatal("a machine purged")
	}
	s.do(s.admin, &Purge{Points: ids})
	s.do(s.admin, &Unforget{Points: ids})
	if p := s.point(1); !p.Purged || len(p.Point.Sources) != 0 || len(st.Points()) != 0 {
		t.Fatalf("%+v", p)
	}
	_, err := st.PointByPrefix("01")
	if !errors.Is(err, ErrNoPoint) || !strings.Contains(err.Error(), "was purged") {
		t.Fatal(err)
	}
	// Its COMMIT stays the machine's last one.
	if c, ok := st.LastCommit(machineID(0)); !ok || c.Point != (PointID{1}) {
		t.Fatal(c)
	}
	// A start that it shares with one that is there names that one.
	other := s.pointOf(0, 1)
	other.ID[1] = 1
	s.do(s.machines[0], &Commit{Point: other})
	if p, err := st.PointByPrefix("01"); err != nil || p.Point.ID != other.ID {
		t.Fatal(p, err)
	}
}

// The newest SETTINGS counts, for what was deleted before it too; GENESIS stays
// what it was.
func TestSettings(t *testing.T) {
	s := newStory(t)
	st, id := s.l.State(), PointID{1}
	s.do(s.machines[0], &Commit{Point: s.pointOf(0, 1)})
	forgot := s.do(s.machines[0], &Forget{Points: []PointID{id}})
	noted := s.do(s.admin, &Noted{Forgets: []uint64{forgot}})
	for _, step := range []struct {
		signer    ed25519.PrivateKey
		set, want int
	}{
		{nil, 0, 14}, {s.admin, 30, 30}, {s.machines[0], 60, 30}, {s.stranger, 60, 30}, {s.admin, 180, 180}, {s.admin, 14, 14},
	} {
		if step.signer != nil {
			s.do(step.signer, &Settings{SoftDeleteDays: step.set})
		}
		want := time.Unix(int64(noted), 0).Add(time.Duration(step.want) * 24 * time.Hour)
		if at, ok := st.PurgeableFrom(id); !ok || !at.Equal(want) || st.SoftDeleteDays() != step.want {
			t.Errorf("after %d: %d days, %v, want %v", step.set, st.SoftDeleteDays(), at, want)
		}
	}
	s.do(s.admin, &Settings{SoftDeleteDays: 40})
	if g, _ := st.Genesis(); g.SoftDeleteDays != 14 {
		t.Error("the genesis changed")
	}
}

func TestBasesAndPartials(t *testing.T) {
	s := newStory(t)
	st := s.l.State()
	a, b := NewSourceID(machineID(0), "/a"), NewSourceID(machineID(0), "/b")
	check := func(what string, id SourceID, want uint64) {
		t.Helper()
		base, ok := st.BaseFor(id)
		if !ok {
			base.Entry.Seq = 0
		}
		if base.Entry.Seq != want || ok && !st.Stands(id, want) {
			t.Errorf("%s: base %d, want %d", what, base.Entry.Seq, want)
		}
	}
	check("nothing", a, 0)
	c1 := s.do(s.machines[0], &Commit{Point: s.pointOf(0, 1, "/a", "/b")})
	c2 := s.do(s.machines[0], &Commit{Point: s.pointOf(0, 2, "/a")})
	check("a", a, c2)
	check("b", b, c1)
	p1 := s.do(s.machines[0], &Partial{Point: s.pointOf(0, 3, "/a", "/b")})
	p2 := s.do(s.machines[0], &Partial{Point: s.pointOf(0, 3, "/a")})
	check("a in the second PARTIAL", a, p2)
	check("b in the first PARTIAL", b, p1)
	if st.Stands(a, p1) || !st.Stands(a, c1) {
		t.Error("a replaced PARTIAL stands, or a point does not")
	}
	if n := len(st.Partials()); n != 2 {
		t.Errorf("%d partials", n)
	}
	failed := s.pointOf(0, 4, "/a", "/b")
	failed.Sources[0].Status, failed.Sources[0].Root = StatusFailed, ID{}
	c3 := s.do(s.machines[0], &Commit{Point: failed})
	check("a failed", a, p2)
	check("b after it", b, c3)
	c4 := s.do(s.machines[0], &Commit{Point: s.pointOf(0, 5, "/a")})
	check("a after it", a, c4)
	if len(st.Partials()) != 0 || st.Stands(a, p2) {
		t.Error("partials are left")
	}
	// A purged point is no base; a forgotten one is.
	s.do(s.admin, &Forget{Points: []PointID{{5}}})
	check("a forgotten", a, c4)
	s.do(s.admin, &Purge{Points: []PointID{{5}}})
	check("a purged", a, c2)
	if st.Stands(a, c4) {
		t.Error("a purged point stands")
	}
	if p, err := st.PointByPrefix("01000"); err != nil || p.Entry.Seq != c1 {
		t.Error(err)
	}
	for _, bad := range []string{"", "0", "ff", "zz"} {
		if _, err := st.PointByPrefix(bad); !errors.Is(err, ErrNoPoint) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestRunsAndPacks(t *testing.T) {
	s := newStory(t)
	st := s.l.State()
	run := func(b byte) ID { return ID{b} }
	live := func(want ...ID) {
		t.Helper()
		if got := st.Runs(); !slices.Equal(got, want) {
			t.Errorf("live runs %v, want %v", got, want)
		}
	}
	commit := func(id byte, runs ...ID) {
		p := s.pointOf(0, id)
		p.Runs = runs
		s.do(s.machines[0], &Commit{Point: p})
	}
	commit(1, run(1), run(2))
	commit(1, run(9)) // the same job again: ignored as a whole
	commit(2, run(2), run(3))
	live(run(1), run(2), run(3))
	merged := s.do(s.machines[1], &Index{Adds: []ID{run(4)}, Supersedes: []ID{run(1), run(3)}})
	live(run(2), run(4))
	commit(3, run(1), run(5)) // a superseded run stays so
	live(run(2), run(4), run(5))
	s.do(s.admin, &Condemn{Runs: []ID{run(6), run(4)}})
	live(run(2), run(4), run(5)) // readers need it until it is swept
	commit(4, run(6))
	live(run(2), run(4), run(5))
	if !st.RunGone(run(6)) || !st.RunGone(run(1)) || st.RunGone(run(2)) {
		t.Error("gone or not")
	}
	pending := st.PendingRuns()
	if len(pending) != 4 || pending[0] != (Retired{ID: run(1), Seq: merged, Time: st.Time()}) { // not its machine's own time
		t.Errorf("%v", pending)
	}
	s.do(s.admin, &Swept{Runs: []ID{run(1), run(4), run(6)}})
	live(run(2), run(5))
	if len(st.PendingRuns()) != 1 || !st.Swept(run(4)) || st.Swept(run(3)) {
		t.Error(st.PendingRuns())
	}

	if st.HasUntrusted() || !st.Usable(ID{50}) {
		t.Error("a pack has lost trust")
	}
	s.do(s.admin, &Repack{Adds: []ID{run(7)}, Replaced: []ID{{50}}})
	live(run(2), run(5), run(7))
	if st.HasUntrusted() || !st.Usable(ID{50}) || !slices.Equal(st.Replaced(), []ID{{50}}) {
		t.Error("a replaced pack")
	}
	first := s.do(s.admin, &Condemn{Packs: []ID{{50}}})
	s.do(s.admin, &Condemn{Packs: []ID{{50}, {51}}})
	s.do(s.machines[1], &Quarantine{Packs: []ID{{52}}})
	packs := st.PendingPacks()
	if len(packs) != 2 || packs[0] != (Retired{ID: ID{50}, Seq: first, Time: int64(first) * 1e9}) {
		t.Errorf("%v", packs)
	}
	s.do(s.admin, &Swept{Packs: []ID{{50}}})
	if len(st.PendingPacks()) != 1 || len(st.Replaced()) != 0 || !slices.Equal(st.Quarantined(), []ID{{52}}) {
		t.Error("after the sweep")
	}
	for i, usable := range []bool{false, false, false, true} {
		if st.Usable(ID{byte(50 + i)}) != usable {
			t.Errorf("pack %d", 50+i)
		}
	}
}

func TestMachinesAndSlots(t *testing.T) {
	s := newStory(t)
	st := s.l.State()
	if _, ok := st.Owner(); ok {
		t.Error("an owner")
	}
	again := s.enrol(0)
	again.Name, again.Owner = "renamed", true
	s.do(s.admin, again)
	s.do(s.admin, s.enrol(1))
	if o, ok := st.Owner(); !ok || o != machineID(0) {
		t.Error(o, ok)
	}
	all := st.Machines()
	if len(all) != 2 || all[0].Name != "renamed" || all[0].Seq != 1 || all[1].ID != machineID(1) {
		t.Errorf("%+v", all)
	}
	if m, ok := st.Machine(machineID(1)); !ok || m.Key != PublicOf(s.machines[1]) {
		t.Error(m)
	}
	names := func() string {
		var n string
		for _, slot := range st.Slots() {
			n += fmt.Sprint(slot.ID[0], slot.Label, " ")
		}
		return n
	}
	slot := func(id byte, label string) Slot { return Slot{ID: SlotID{id}, Kind: SlotRecovery, Label: label} }
	var many []Slot
	for i := range MaxSlots {
		many = append(many, slot(byte(100+i), "m"))
	}
	for _, step := range []struct {
		change KeyChange
		want   string
	}{
		{KeyChange{Added: []Slot{slot(2, "b")}}, "1first 2b "},
		{KeyChange{Removed: []SlotID{{1}, {2}}}, "1first 2b "}, // it would lock all out
		{KeyChange{Added: many}, "1first 2b "},                 // too many
		{KeyChange{Added: []Slot{slot(1, "new")}, Removed: []SlotID{{9}}}, "2b 1new "},
		{KeyChange{Added: []Slot{slot(3, "c")}, Removed: []SlotID{{1}, {2}}}, "3c "},
	} {
		s.do(s.admin, &step.change)
		if names() != step.want {
			t.Errorf("%+v: %q, want %q", step.change, names(), step.want)
		}
	}
	if g, at := st.Genesis(); g.Slots[0].Label != "first" || at == 0 {
		t.Error("the genesis changed")
	}
	if !st.SlotNamed(SlotID{3}, [32]byte{}) || st.SlotNamed(SlotID{3}, [32]byte{1}) || st.SlotNamed(SlotID{1}, [32]byte{}) {
		t.Error("a slot is named or not")
	}
}
