package log

import (
	"errors"
	"io"
	"testing"
)

// replaces makes the store one whose Put replaces what is there.
func (m *memory) replaces(put func(name string, store func())) {
	m.onPut = func(name string, real func() error) error {
		put(name, func() {
			m.mu.Lock()
			delete(m.objects, name)
			m.mu.Unlock()
			_ = real()
		})
		return nil
	}
}

func allow(*State, Body) error { return nil }

// Who may not write puts nothing, and is asked again with the newer State after
// another was faster.
func TestSoleIsAskedWithTheNewestState(t *testing.T) {
	s := newSite(t, 2)
	taken := errors.New("another machine took over")
	l := s.open(t, Options{Sole: func(st *State, _ Body) error {
		if owner, ok := st.Owner(); ok && owner != machineID(0) {
			return taken
		}
		return nil
	}})
	s.append(t, l, s.machines[0], &Commit{Point: s.pointOf(0, 1)})
	over := s.enrol(1)
	over.Owner = true
	calls := 0
	_, err := l.Append(t.Context(), s.machines[0], func(*State) (Body, error) {
		if calls++; calls == 1 {
			s.append(t, s.open(t, Options{}), s.admin, over)
		}
		return &Commit{Point: s.pointOf(0, 2)}, nil
	})
	if err != taken || calls != 2 {
		t.Fatal(err, calls)
	}
	if n := len(s.store.objects); n != 5 {
		t.Errorf("%d objects", n)
	}
	if _, ok := l.State().Owner(); !ok {
		t.Error("the take-over was not read")
	}
}

// An entry that was overwritten right after its Put is not reported as there: the
// other one has the number, and it is appended behind that.
func TestSoleReadsBack(t *testing.T) {
	s := newSite(t, 2)
	l := s.open(t, Options{Sole: allow})
	theirs := s.pointOf(1, 7)
	rival, err := s.open(t, Options{}).sealNext(s.machines[1], &Commit{Point: theirs})
	if err != nil {
		t.Fatal(err)
	}
	object, err := rival.All()
	if err != nil {
		t.Fatal(err)
	}
	raced := false
	s.store.replaces(func(name string, store func()) {
		store()
		if !raced {
			raced = true
			s.store.objects[name] = object
		}
	})
	at := s.append(t, l, s.machines[0], &Commit{Point: s.pointOf(0, 1)})
	st := s.open(t, Options{Expect: &at}).State()
	for _, id := range []PointID{{1}, {7}} {
		if _, ok := st.Point(id); !ok {
			t.Errorf("point %s is not there", id.Short())
		}
	}
}

// A look before the Put finds an entry that appeared since the last reading.
func TestSoleLooksBeforePut(t *testing.T) {
	s := newSite(t, 2)
	l := s.open(t, Options{Sole: allow})
	calls := 0
	theirs := s.pointOf(1, 7)
	s.store.replaces(func(_ string, store func()) { store() })
	_, err := l.Append(t.Context(), s.machines[0], func(*State) (Body, error) {
		if calls++; calls == 1 {
			s.append(t, s.open(t, Options{}), s.machines[1], &Commit{Point: theirs})
		}
		return &Commit{Point: s.pointOf(0, 1)}, nil
	})
	if err != nil || calls != 2 {
		t.Fatal(err, calls)
	}
	if n := len(s.open(t, Options{}).State().Points()); n != 2 {
		t.Errorf("%d points", n)
	}
}

// A store that says yes and has nothing is no success.
func TestSoleVanishes(t *testing.T) {
	s := newSite(t, 1)
	l := s.open(t, Options{Sole: allow})
	s.store.replaces(func(string, func()) {})
	_, err := l.Append(t.Context(), s.machines[0], func(*State) (Body, error) { return &Commit{Point: s.pointOf(0, 1)}, nil })
	if err == nil || errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
}
