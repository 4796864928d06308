package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tharsis-backup/tharsis/vault/key"
)

// sameKeys gives two vaults the same root key and the same admin key: what is 32
// bytes long when a vault is made is the same each time, the rest is random.
type sameKeys struct{ n byte }

func (s *sameKeys) Read(p []byte) (int, error) {
	if len(p) != 32 {
		return rand.Read(p)
	}
	s.n++
	for i := range p {
		p[i] = s.n + byte(i)
	}
	return len(p), nil
}

// TestFaultTwins has two vaults of one machine, one source and one passphrase, and
// then of one root key as well, as if somebody had copied a machine's keys. Objects of
// the one are put into the other, each in the place of each of its kind and whole
// kinds at once: they are never taken for its own, and what is restored is what was
// backed up there, or is named. Beside those that are there they change nothing.
func TestFaultTwins(t *testing.T) {
	for name, oneRoot := range map[string]bool{"one passphrase": false, "one root key": true} {
		t.Run(name, func(t *testing.T) { twins(t, oneRoot) })
	}
}

func twins(t *testing.T, oneRoot bool) {
	ctx := t.Context()
	r := newFaultRig(t)
	ours, theirs := r.world("ours"), r.world("theirs")
	for i, w := range []*faultWorld{ours, theirs} {
		if oneRoot {
			w.rand = &sameKeys{}
		}
		if err := w.init(ctx); err != nil {
			t.Fatal(err)
		}
		w.rand = nil
		for k := range 2 {
			r.edit((i + k) % 3)
			if _, err := w.backup(ctx, r.src); err != nil {
				t.Fatal(err)
			}
		}
	}
	if oneRoot != twinRoots(t, ours, theirs) {
		t.Fatal("the root keys are not as the test needs them")
	}
	tw := &twinTest{t: t, r: r, ours: ours, theirs: theirs, want: []string{r.want[0], r.want[1]}}
	tw.beside(ctx)
	cases := 0
	for _, kind := range []string{"config", "keys", "packs", "index", "log"} {
		for _, a := range twinObjects(t, ours, kind) {
			for _, b := range twinObjects(t, theirs, kind) {
				cases++
				tw.swapped(ctx, fmt.Sprintf("%.12s has %.12s", a, b), map[string]string{a: b})
			}
		}
	}
	for _, kinds := range [][]string{{"log"}, {"log", "index"}, {"log", "index", "packs"}, {"log", "index", "packs", "keys"}, {"config", "keys"}, {"config", "log"}} {
		all := map[string]string{}
		for _, kind := range kinds {
			for _, a := range twinObjects(t, ours, kind) {
				all[a] = ""
			}
			for _, b := range twinObjects(t, theirs, kind) {
				all[b] = b
			}
		}
		cases++
		tw.swapped(ctx, "all of "+strings.Join(kinds, ", "), all)
	}
	t.Logf("%d cases", cases)
}

func twinRoots(t *testing.T, ours, theirs *faultWorld) (same bool) {
	t.Helper()
	var roots [2]key.Root
	for i, w := range []*faultWorld{ours, theirs} {
		if err := w.session(t.Context(), false, func(s *Session) error { roots[i] = s.keys.Root; return nil }); err != nil {
			t.Fatal(err)
		}
	}
	return roots[0] == roots[1]
}

// twinObjects are the names of a vault's objects of a kind.
func twinObjects(t *testing.T, w *faultWorld, kind string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(w.vault, kind), func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			names = append(names, strings.TrimPrefix(path, w.vault+"/"))
		}
		return err
	})
	if err != nil || len(names) == 0 {
		t.Fatalf("objects %s: %q, %v", kind, names, err)
	}
	return names
}

type twinTest struct {
	t            *testing.T
	r            *faultRig
	ours, theirs *faultWorld
	want         []string // what our points show
}

// copied is our vault with some objects of theirs: changes maps the names of ours to
// those of theirs, or to "" where ours goes away.
func (tw *twinTest) copied(changes map[string]string) *faultWorld {
	tw.t.Helper()
	w := tw.r.world("case")
	faultImage(tw.t, tw.ours, w)
	for name, from := range changes {
		path := filepath.Join(w.vault, name)
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			tw.t.Fatal(err)
		}
		if from == "" {
			continue
		}
		b, err := os.ReadFile(filepath.Join(tw.theirs.vault, from))
		if err == nil {
			err = errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, b, 0o600))
		}
		if err != nil {
			tw.t.Fatal(err)
		}
	}
	return w
}

func (tw *twinTest) drop(w *faultWorld) { os.RemoveAll(filepath.Dir(w.home)) }

// beside puts all of their objects that have a name of their own beside ours.
func (tw *twinTest) beside(ctx context.Context) {
	tw.t.Helper()
	all := map[string]string{}
	for _, kind := range []string{"keys", "packs", "index"} {
		for _, b := range twinObjects(tw.t, tw.theirs, kind) {
			all[b] = b
		}
	}
	w := tw.copied(all)
	defer tw.drop(w)
	fresh := &faultWorld{home: w.home + "-fresh", vault: w.vault, host: "fresh"}
	for name, m := range map[string]*faultWorld{"the machine": w, "a new machine": fresh} {
		if v, err := m.verify(ctx); err != nil || len(v.Damage) > 0 {
			tw.t.Errorf("%s, with theirs beside ours: verify: %v, %v", name, err, v.Damage)
		}
		if restored, err := tw.restores(ctx, m); err != nil || restored != len(tw.want) {
			tw.t.Errorf("%s, with theirs beside ours: %d points restore: %v", name, restored, err)
		}
	}
	tw.r.edit(2)
	if _, err := w.backup(ctx, tw.r.src); err != nil {
		tw.t.Errorf("with theirs beside ours: backup: %v", err)
	} else if err := w.restoresTo(ctx, tw.t, "latest", tw.r.src, tw.r.want[2]); err != nil {
		tw.t.Errorf("with theirs beside ours: %v", err)
	}
}

// swapped looks at our vault with objects of theirs in the place of ours, as the machine
// that knows it and as a new one.
func (tw *twinTest) swapped(ctx context.Context, what string, changes map[string]string) {
	tw.t.Helper()
	w := tw.copied(changes)
	defer tw.drop(w)
	fresh := &faultWorld{home: w.home + "-fresh", vault: w.vault, host: "fresh"}
	keysOnly := true
	for name := range changes {
		keysOnly = keysOnly && strings.HasPrefix(name, "keys/")
	}
	for name, m := range map[string]*faultWorld{"the machine": w, "a new machine": fresh} {
		restored, rerr := tw.restores(ctx, m)
		v, verr := m.verify(ctx)
		whole := verr == nil && len(v.Damage) == 0
		switch {
		case errors.Is(rerr, errTwin):
			tw.t.Errorf("%s: %s: %v", what, name, rerr)
		case keysOnly && m == w && restored != len(tw.want):
			tw.t.Errorf("%s: %s holds its key, and: %v", what, name, rerr)
		case keysOnly && m == fresh && restored != len(tw.want) && !errors.Is(rerr, key.ErrWrongKey):
			tw.t.Errorf("%s: %s: %v", what, name, rerr)
		case whole:
			tw.t.Errorf("%s: %s finds nothing", what, name)
		}
	}
}

// errTwin is for content that is not what was backed up in our vault.
var errTwin = errors.New("it is not ours")

// restores restores all points, and counts those that are exact. An error that wraps
// errTwin is for one that is not and was said to be.
func (tw *twinTest) restores(ctx context.Context, w *faultWorld) (exact int, err error) {
	points, err := w.points(ctx)
	if err != nil {
		return 0, err
	}
	if len(points) != len(tw.want) {
		return 0, fmt.Errorf("%w: %d points", errTwin, len(points))
	}
	for i, p := range points {
		target := filepath.Join(filepath.Dir(w.home), "target")
		res, rerr := w.restore(ctx, p.ID.String(), target)
		if rerr == nil && res.Failed == 0 {
			if derr := faultSame(tw.want[i], filepath.Join(target, tw.r.src)); derr != nil {
				return exact, fmt.Errorf("%w: point %d: %w", errTwin, i, derr)
			}
			exact++
		} else {
			err = errors.Join(err, rerr)
			if werr := wholeFiles(tw.want[i], filepath.Join(target, tw.r.src)); werr != nil {
				return exact, fmt.Errorf("%w: point %d: %w", errTwin, i, werr)
			}
		}
		if err := os.RemoveAll(target); err != nil {
			return exact, err
		}
	}
	return exact, err
}
