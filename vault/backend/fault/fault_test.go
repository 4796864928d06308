package fault_test

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/backend/backendtest"
	"github.com/tharsis-backup/tharsis/vault/backend/fault"
	"github.com/tharsis-backup/tharsis/vault/backend/mem"
)

func TestConformance(t *testing.T) {
	for name, plan := range map[string]fault.Plan{
		"NoPlan":   nil,
		"Harmless": func(fault.Op) fault.Action { return fault.Action{} },
	} {
		t.Run(name, func(t *testing.T) {
			backendtest.Run(t, func(*testing.T) backend.Backend { return fault.New(mem.New(), plan) })
		})
	}
}

// filled is a decorated backend with three objects, put as operations 0 to 2.
func filled(t *testing.T) (*fault.Backend, *mem.Backend) {
	t.Helper()
	inner := mem.New()
	b := fault.New(inner, nil)
	for i := range 3 {
		if err := put(t, b, fmt.Sprintf("a/%d", i), fmt.Sprintf("content %d", i)); err != nil {
			t.Fatal(err)
		}
	}
	return b, inner
}

func put(t *testing.T, b backend.Backend, name, data string) error {
	return backend.PutBytes(t.Context(), b, name, []byte(data))
}

func get(t *testing.T, b backend.Backend, name string) (string, error) {
	data, err := backend.ReadAll(t.Context(), b, name, 1000)
	return string(data), err
}

func list(t *testing.T, b backend.Backend) (string, error) {
	var names []string
	for info, err := range b.List(t.Context(), "a/") {
		if err != nil {
			return strings.Join(names, " "), err
		}
		names = append(names, fmt.Sprint(strings.TrimPrefix(info.Name, "a/"), ":", info.Size))
	}
	return strings.Join(names, " "), nil
}

// next is the plan for the next operation.
func next(b *fault.Backend, after bool, a fault.Action) { b.SetPlan(fault.At(b.Count(), after, a)) }

func TestFailAndKill(t *testing.T) {
	mine := errors.New("mine")
	for _, after := range []bool{false, true} {
		for _, c := range []struct {
			action fault.Action
			want   error
			dead   bool
		}{
			{fault.Fail(nil), fault.ErrInjected, false},
			{fault.Fail(mine), mine, false},
			{fault.Kill(nil), fault.ErrKilled, true},
		} {
			b, inner := filled(t)
			for _, op := range []func() error{
				func() error { return put(t, b, "a/3", "new") },
				func() error { return b.Delete(t.Context(), "a/0") },
				func() error { _, err := get(t, b, "a/1"); return err },
				func() error { _, err := list(t, b); return err },
			} {
				next(b, after, c.action)
				if err := op(); !errors.Is(err, c.want) {
					t.Errorf("got %v, want %v", err, c.want)
				}
				_, err := get(t, b, "a/2")
				if dead := errors.Is(err, fault.ErrKilled); dead != c.dead {
					t.Errorf("dead %v, want %v", dead, c.dead)
				}
			}
			names := []string{"a/0", "a/1", "a/2"}
			if after {
				names = []string{"a/1", "a/2", "a/3"}
			}
			if got := inner.Names(); !slices.Equal(got, names) {
				t.Errorf("after %v: %q, want %q", after, got, names)
			}
		}
	}
}

func TestKillCalls(t *testing.T) {
	b, _ := filled(t)
	called := 0
	next(b, false, fault.Kill(func() { called++ }))
	for range 3 {
		if err := put(t, b, "a/3", ""); !errors.Is(err, fault.ErrKilled) {
			t.Error(err)
		}
	}
	if called != 1 {
		t.Errorf("called %d times", called)
	}
	b.SetPlan(nil)
	if err := put(t, b, "a/3", ""); err != nil {
		t.Errorf("after the new start: %v", err)
	}
	next(b, false, fault.Kill(func() { panic("dead") }))
	defer func() {
		if recover() != "dead" || b.Count() != 8 {
			t.Errorf("no panic, or %d operations", b.Count())
		}
	}()
	_ = put(t, b, "a/4", "")
}

func TestSpoiltReads(t *testing.T) {
	b, _ := filled(t)
	for _, c := range []struct {
		action fault.Action
		name   string
		want   string
		err    error
	}{
		{fault.ShortRead(3, nil), "a/0", "con", nil},
		{fault.ShortRead(0, nil), "a/0", "", nil},
		{fault.ShortRead(3, io.ErrClosedPipe), "a/0", "", io.ErrClosedPipe},
		{fault.ShortRead(99, nil), "a/0", "content 0", nil},
		{fault.WrongObject("a/2"), "a/0", "content 2", nil},
		{fault.WrongObject(""), "a/0", "content 1", nil},
		{fault.WrongObject(""), "a/2", "content 0", nil},
		{fault.WrongObject("a/7"), "a/2", "", backend.ErrNotFound},
		{fault.EmptyList(), "a/0", "content 0", nil},
	} {
		next(b, false, c.action)
		if got, err := get(t, b, c.name); got != c.want || !errors.Is(err, c.err) {
			t.Errorf("got %q, %v, want %q, %v", got, err, c.want, c.err)
		}
	}
}

func TestSpoiltLists(t *testing.T) {
	b, _ := filled(t)
	if err := b.Delete(t.Context(), "a/1"); err != nil { // operation 3
		t.Fatal(err)
	}
	if err := put(t, b, "a/1", "again"); err != nil { // operation 4
		t.Fatal(err)
	}
	for i, c := range []struct {
		action fault.Action
		want   string
	}{
		{fault.Action{}, "0:9 1:5 2:9"},
		{fault.EmptyList(), ""},
		{fault.PartialList(2), "0:9 1:5"},
		{fault.PartialList(9), "0:9 1:5 2:9"},
		{fault.StaleList(5), "0:9 1:5 2:9"},
		{fault.StaleList(4), "0:9 2:9"},
		{fault.StaleList(3), "0:9 1:9 2:9"},
		{fault.StaleList(1), "0:9"},
		{fault.StaleList(0), ""},
	} {
		next(b, false, c.action)
		if got, err := list(t, b); got != c.want || err != nil {
			t.Errorf("list %d: got %q, %v, want %q", i, got, err, c.want)
		}
	}
	next(b, true, fault.Fail(nil))
	if got, err := list(t, b); got != "0:9 1:5 2:9" || !errors.Is(err, fault.ErrInjected) {
		t.Errorf("an error at the end: got %q, %v", got, err)
	}
}

func TestDuplicatePut(t *testing.T) {
	b, inner := filled(t)
	next(b, false, fault.DuplicatePut())
	if err := put(t, b, "a/3", "x"); !errors.Is(err, backend.ErrExists) {
		t.Error(err)
	}
	if data, ok := inner.Data("a/3"); !ok || string(data) != "x" {
		t.Errorf("%q, %v", data, ok)
	}
	if r := b.Ops()[3]; !r.Effect || !errors.Is(r.Err, backend.ErrExists) {
		t.Errorf("recorded: %+v", r)
	}
}

func TestRecords(t *testing.T) {
	b, _ := filled(t)
	if err := backend.ReadAt(t.Context(), b, "a/1", 2, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	_ = put(t, b, "a/0", "x")
	_ = b.Delete(t.Context(), "a/2")
	_, _ = list(t, b)
	var got []string
	for _, r := range b.Ops() {
		got = append(got, fmt.Sprint(r.N, r.Kind, r.Name, r.Off, r.Size, r.Effect, r.Done, r.Err != nil))
	}
	want := []string{
		"0puta/00 9 true true false", "1puta/10 9 true true false", "2puta/20 9 true true false",
		"3geta/12 4 false true false", "4puta/00 1 false true true", "5deletea/20 9 true true false",
		"6lista/0 0 false true false",
	}
	for i := range want {
		// fmt.Sprint sets no space beside strings: only the order matters.
		if strings.ReplaceAll(got[i], " ", "") != strings.ReplaceAll(want[i], " ", "") {
			t.Errorf("operation %d: got %q, want %q", i, got[i], want[i])
		}
	}
	if len(got) != len(want) || b.Count() != len(want) {
		t.Errorf("%d operations", len(got))
	}
}

// TestConcurrent numbers the operations of many goroutines without gaps, and
// asks the plan twice about each.
func TestConcurrent(t *testing.T) {
	const n = 200
	var mu sync.Mutex
	asked := map[fault.Op]int{}
	b := fault.New(mem.New(), func(op fault.Op) fault.Action {
		mu.Lock()
		defer mu.Unlock()
		op.Name = ""
		asked[op]++
		return fault.Action{}
	})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { _ = put(t, b, fmt.Sprintf("a/%d", i), "x") })
	}
	wg.Wait()
	for i := range n {
		for _, after := range []bool{false, true} {
			if asked[fault.Op{N: i, Kind: fault.Put, After: after}] != 1 {
				t.Errorf("operation %d, after %v: not asked once", i, after)
			}
		}
	}
	if b.Count() != n || len(asked) != 2*n {
		t.Errorf("%d operations, %d questions", b.Count(), len(asked))
	}
}

// TestRandom wants the same plan from the same seed, another from another, and
// about as many faults as asked for.
func TestRandom(t *testing.T) {
	hits := func(seed uint64) (hits []int) {
		plan := fault.Random(seed, 0.25, fault.Fail(nil))
		b := fault.New(mem.New(), plan)
		for i := range 400 {
			if err := put(t, b, fmt.Sprintf("a/%d", i), ""); err != nil {
				hits = append(hits, i)
			}
		}
		return hits
	}
	one := hits(1)
	if !slices.Equal(one, hits(1)) || slices.Equal(one, hits(2)) {
		t.Error("not determined by the seed")
	}
	if len(one) < 100 || len(one) > 250 { // 400 * (1 - 0.75²) = 175
		t.Errorf("%d of 400 hit", len(one))
	}
}
