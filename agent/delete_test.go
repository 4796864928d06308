package agent

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/log"
)

// fails checks that an error is, and says what is given, and that nothing was written.
func (l *lifeRig) fails(before uint64, err, is error, says ...string) {
	l.t.Helper()
	if !errors.Is(err, is) {
		l.t.Fatalf("%v, want %v", err, is)
	}
	for _, text := range says {
		if !strings.Contains(err.Error(), text) {
			l.t.Errorf("%q does not say %q", err, text)
		}
	}
	if now := l.entries(); now != before {
		l.t.Errorf("%d entries were written all the same", now-before)
	}
}

// A machine deletes its own points without a passphrase, and the period begins when
// somebody with the admin key notes it.
func TestForgetOwn(t *testing.T) {
	l := newLifeRig(t, 1)
	one, two, three := l.commit(1), l.commit(1), l.commit(1)
	deleted := l.now
	res, err := l.forget(1, ForgetOptions{Reason: "too old"}, one, two[:8])
	noErr(t, err)
	l.lists([]string{three}, []string{one, two})
	l.seen(1)
	if len(res.Points) != 2 || res.Noted || !res.Points[1].Deleted || !res.Points[1].PurgeFrom.IsZero() {
		t.Fatalf("%+v", res)
	}
	if p := res.Points[0]; p.ID.String() != one || p.ForgetReason != "too old" || !p.DeletedAt.Equal(deleted) {
		t.Fatalf("%+v", p)
	}
	// Deleted once more it stays as it is, with a note.
	l.now = l.now.Add(time.Hour)
	before := l.entries()
	res, err = l.forget(1, ForgetOptions{Reason: "again"}, one)
	if err != nil || len(res.Points) != 0 || l.state(one).ForgetReason != "too old" || l.entries() != before {
		t.Fatalf("%v %+v", err, res)
	}
	if !l.rigs[1].notes.has(Info, "", one+" was deleted already") {
		t.Error(l.rigs[1].notes)
	}
	// The machine with the admin key notes it, whatever it deletes itself.
	res, err = l.forget(0, ForgetOptions{}, two)
	if err != nil || !res.Noted || len(res.Points) != 0 {
		t.Fatalf("%v %+v", err, res)
	}
	l.seen(0)
	points, err := l.machines[0].Points(t.Context(), PointFilter{Deleted: true})
	noErr(t, err)
	for _, p := range points {
		if !p.PurgeFrom.Equal(l.now.Add(14*24*time.Hour)) || !p.DeletedAt.Equal(deleted) {
			t.Errorf("%+v", p)
		}
	}
}

// Points of others need the admin key, for each of the four commands; a home that
// has it is not asked for a passphrase.
func TestPointsOfOthers(t *testing.T) {
	l := newLifeRig(t, 2)
	mine, other := l.commit(1), l.commit(2)
	l.commit(1)
	l.commit(2)
	ctx := t.Context()
	commands := map[string]func(s *Session, names ...string) error{
		"forget":   func(s *Session, names ...string) error { _, err := s.Forget(ctx, names, ForgetOptions{}); return err },
		"undelete": func(s *Session, names ...string) error { _, err := s.Undelete(ctx, names); return err },
		"hold":     func(s *Session, names ...string) error { _, err := s.Hold(ctx, names, "why"); return err },
		"unhold":   func(s *Session, names ...string) error { _, err := s.Unhold(ctx, names); return err },
	}
	for _, name := range []string{"hold", "unhold", "forget", "undelete"} {
		run, before := commands[name], l.entries()
		l.fails(before, run(l.machines[1], mine, other), errAsked)
		noErr(t, run(l.machines[1], mine))
		noErr(t, run(l.machines[0], mine, other))
		if name == "forget" && l.entries() != before+3 { // a FORGET each, and a NOTED for both
			t.Errorf("%s: %d entries", name, l.entries()-before)
		}
	}
	// With the passphrase the other machine may too, and notes it at once.
	l.rigs[1].env.Secret = l.peer("x").env.Secret
	s := l.rigs[1].opened()
	res, err := s.Forget(ctx, []string{other}, ForgetOptions{})
	if err != nil || !res.Noted || res.Points[0].PurgeFrom.IsZero() {
		t.Fatalf("%v %+v", err, res)
	}
}

// The newest good point of a source goes only with Last; what is suspect or has
// nothing of the source is not good, nor is what was deleted.
func TestForgetNewest(t *testing.T) {
	l := newLifeRig(t, 1)
	ok, warned, bad, none := log.StatusComplete, log.StatusWarnings, log.StatusSuspect, log.StatusFailed
	both := l.commit(1, lifeSource{"/a", ok}, lifeSource{"/b", ok}, lifeSource{"/c", ok})
	a := l.commit(1, lifeSource{"/a", warned}, lifeSource{"/b", none})
	suspect := l.commit(1, lifeSource{"/a", bad}, lifeSource{"/b", bad})
	failed := l.commit(1, lifeSource{"/a", none}, lifeSource{"/d", ok})
	elsewhere := l.commit(0, lifeSource{"/a", ok})
	refused := func(id string, says ...string) {
		t.Helper()
		_, err := l.forget(1, ForgetOptions{}, suspect, id)
		l.fails(l.entries(), err, ErrNewest, append(says, id)...)
	}
	host := l.machines[1].host
	refused(both, "/b on "+host, "1 more")
	refused(a, "/a on "+host)
	refused(failed, "/d on ")
	_, err := l.forget(1, ForgetOptions{}, suspect)
	noErr(t, err)
	// Where a newer one was brought back, it is the newest again.
	_, err = l.forget(1, ForgetOptions{Last: true}, a[:6])
	noErr(t, err)
	refused(both, "/a on "+host, "2 more")
	_, err = l.machines[1].Undelete(t.Context(), []string{a})
	noErr(t, err)
	refused(a)
	// All of them may go, if that is meant; another machine's does not count.
	_, err = l.forget(1, ForgetOptions{Last: true}, both, a, failed)
	noErr(t, err)
	l.lists([]string{elsewhere}, []string{both, a, suspect, failed})
	_, err = l.forget(0, ForgetOptions{}, elsewhere)
	l.fails(l.entries(), err, ErrNewest)
}

// What is held is not deleted, and says why; what is deleted can be held from
// being purged.
func TestHold(t *testing.T) {
	l := newLifeRig(t, 1)
	ctx, s := t.Context(), l.machines[1]
	one, two, last := l.commit(1), l.commit(1), l.commit(1)
	held, err := s.Hold(ctx, []string{one}, "for the court")
	if err != nil || len(held) != 1 || !held[0].Held || held[0].HoldReason != "for the court" {
		t.Fatalf("%v %+v", err, held)
	}
	_, err = l.forget(1, ForgetOptions{Last: true}, two, one)
	l.fails(l.entries(), err, ErrHeld, one, "for the court")
	// The same once more is nothing; another reason takes its place.
	before := l.entries()
	if held, err := s.Hold(ctx, []string{one}, "for the court"); err != nil || len(held) != 0 || l.entries() != before {
		t.Fatalf("%v %+v", err, held)
	}
	if !l.rigs[1].notes.has(Info, "", "held for this reason already") {
		t.Error(l.rigs[1].notes)
	}
	held, err = s.Hold(ctx, []string{one, two}, "")
	if err != nil || len(held) != 2 || l.state(one).HoldReason != "" {
		t.Fatalf("%v %+v", err, held)
	}
	_, err = l.forget(1, ForgetOptions{}, two)
	l.fails(l.entries(), err, ErrHeld)
	if strings.HasSuffix(err.Error(), ": ") {
		t.Error(err)
	}
	freed, err := s.Unhold(ctx, []string{one, two, last})
	if err != nil || len(freed) != 2 || freed[0].Held || !l.rigs[1].notes.has(Info, "", last+" is not held") {
		t.Fatalf("%v %+v", err, freed)
	}
	// A deleted point that is held is not to be purged, and is again when it is not.
	_, err = l.forget(0, ForgetOptions{}, one)
	noErr(t, err)
	held, err = s.Hold(ctx, []string{one}, "wait")
	if err != nil || len(held) != 1 || !held[0].Deleted || !held[0].PurgeFrom.IsZero() {
		t.Fatalf("%v %+v", err, held)
	}
	if res, err := l.forget(1, ForgetOptions{}, one); err != nil || len(res.Points) != 0 {
		t.Errorf("a deleted point that is held: %v %+v", err, res)
	}
	freed, err = s.Unhold(ctx, []string{one})
	if err != nil || freed[0].PurgeFrom.IsZero() {
		t.Fatalf("%v %+v", err, freed)
	}
}

// What was purged is gone, and each command says so.
func TestPurgedStaysGone(t *testing.T) {
	l := newLifeRig(t, 0)
	ctx, s := t.Context(), l.machines[0]
	one, two := l.commit(0), l.commit(0)
	_, err := l.forget(0, ForgetOptions{}, one)
	noErr(t, err)
	l.purge(one)
	l.lists([]string{two}, nil)
	_, err = s.Undelete(ctx, []string{two, one})
	l.fails(l.entries(), err, ErrNoPoint, one, "was purged")
	_, err = s.Hold(ctx, []string{one[:8]}, "x")
	l.fails(l.entries(), err, ErrNoPoint, "was purged")
	_, err = s.resolve(one, "", "")
	l.fails(l.entries(), err, ErrNoPoint, "was purged")
	if back, err := s.Undelete(ctx, []string{two}); err != nil || len(back) != 0 || !l.notes.has(Info, "", two+" is not deleted") {
		t.Errorf("%v %+v %s", err, back, l.notes)
	}
}

// Only IDs name points here, and all names are looked at before anything is done.
func TestPointNames(t *testing.T) {
	l := newLifeRig(t, 1)
	one, two := l.commit(0), l.commit(0)
	l.commit(0)
	before := l.entries()
	for name, says := range map[string]string{
		"latest": "too dangerous", "2026-01-01": "too dangerous", "2026-01-01 10:00": "too dangerous",
		time.Now().Format(time.RFC3339): "too dangerous", "": "4 or more digits", one[:3]: "4 or more digits",
		"xyzw": "4 or more digits", "00000000000000000000000000000000": "no such point", one + "0": "no such point",
	} {
		for _, names := range [][]string{{name}, {one, name}, {name, one}} {
			_, err := l.forget(0, ForgetOptions{}, names...)
			l.fails(before, err, ErrNoPoint, says)
			_, err = l.machines[0].Undelete(t.Context(), names)
			l.fails(before, err, ErrNoPoint, says)
			_, err = l.machines[0].Hold(t.Context(), names, "x")
			l.fails(before, err, ErrNoPoint, says)
			_, err = l.machines[0].Unhold(t.Context(), names)
			l.fails(before, err, ErrNoPoint, says)
		}
	}
	// A reason that no entry holds is refused before a passphrase is asked for.
	for _, reason := range []string{"\xff", strings.Repeat("x", log.MaxTextBytes+1)} {
		if _, err := l.forget(1, ForgetOptions{Reason: reason}, one); err == nil || errors.Is(err, errAsked) {
			t.Errorf("a reason of %d bytes: %v", len(reason), err)
		}
		if _, err := l.machines[1].Hold(t.Context(), []string{one}, reason); err == nil || errors.Is(err, errAsked) {
			t.Errorf("a reason of %d bytes: %v", len(reason), err)
		}
	}
	// Named in several ways it is one point.
	res, err := l.forget(0, ForgetOptions{}, two, one[:5], strings.ToUpper(one), two)
	if err != nil || len(res.Points) != 2 || res.Points[0].ID.String() != two || res.Points[1].ID.String() != one {
		t.Errorf("%v %+v", err, res.Points)
	}
}

// In a vault that lets one machine write, the others change no point and no period.
func TestOnlyOwnerChangesPoints(t *testing.T) {
	l := newLifeRig(t, 1)
	one := l.commit(1)
	l.commit(1)
	ctx, s := t.Context(), l.machines[1]
	s.vault.Config.Mode, s.vault.Config.Owner = key.ModeOwner, [16]byte(l.machines[0].machine.ID)
	for name, run := range map[string]func() error{
		"forget":      func() error { _, err := s.Forget(ctx, []string{one}, ForgetOptions{}); return err },
		"undelete":    func() error { _, err := s.Undelete(ctx, []string{one}); return err },
		"hold":        func() error { _, err := s.Hold(ctx, []string{one}, "x"); return err },
		"unhold":      func() error { _, err := s.Unhold(ctx, []string{one}); return err },
		"soft-delete": func() error { _, err := s.SetSoftDelete(ctx, 30); return err },
	} {
		before := l.entries()
		if err := run(); !errors.Is(err, vault.ErrNotOwner) || l.entries() != before {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.vault.Config.Owner = [16]byte(s.machine.ID)
	if _, err := s.Forget(ctx, []string{one}, ForgetOptions{}); err != nil {
		t.Errorf("the owner: %v", err)
	}
}

// Long lists take several entries, and each fits.
func TestManyPoints(t *testing.T) {
	l := newLifeRig(t, 1)
	var ids []string
	for range 8 {
		ids = append(ids, l.commit(1))
	}
	before := l.entries()
	res, err := l.forget(1, ForgetOptions{Reason: "all"}, ids[:7]...)
	if err != nil || len(res.Points) != 7 || l.entries() != before+3 {
		t.Fatalf("%v, %d points, %d entries", err, len(res.Points), l.entries()-before)
	}
	// Two NOTED name the three FORGETs.
	before = l.entries()
	if res, err = l.forget(0, ForgetOptions{}, ids[0]); err != nil || !res.Noted || l.entries() != before+2 {
		t.Fatalf("%v %+v, %d entries", err, res, l.entries()-before)
	}
	back, err := l.machines[1].Undelete(t.Context(), ids)
	if err != nil || len(back) != 7 {
		t.Fatalf("%v, %d points", err, len(back))
	}
	l.lists(ids, nil)
	l.seen(1)
	points, reason := make([]log.PointID, entryPoints), strings.Repeat("x", log.MaxTextBytes)
	for _, body := range []log.Body{
		&log.Forget{Points: points, Reason: reason}, &log.Unforget{Points: points}, &log.Hold{Points: points, Reason: reason},
		&log.Unhold{Points: points}, &log.Noted{Forgets: make([]uint64, entryForgets)},
	} {
		if _, err := log.EncodeBody(body); err != nil {
			t.Error(err)
		}
	}
}
