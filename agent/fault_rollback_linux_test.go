package agent

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tharsis-backup/tharsis/agent/home"
	"github.com/tharsis-backup/tharsis/vault/log"
)

// faultFiles are the contents of all files below a folder.
func faultFiles(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	m := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		m[rel], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestFaultRollback puts another state of the vault in the place of the one that a
// machine knows: nothing is done there, by no command, until somebody looked.
func TestFaultRollback(t *testing.T) {
	ctx := t.Context()
	r := newFaultRig(t)
	w := r.world("box")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	backup := func(w *faultWorld, state int) {
		t.Helper()
		r.edit(state)
		_, err := w.backup(ctx, r.src)
		must(err)
	}
	must(w.init(ctx))
	backup(w, 0)
	old := r.world("old") // the machine and its vault after one point
	faultImage(t, w, old)
	forked := r.world("forked") // the same, and then another way
	faultImage(t, w, forked)
	backup(w, 1)
	backup(forked, 2)
	short := r.world("short") // forked off, and ends before
	faultImage(t, old, short)
	backup(w, 2)
	longer := r.world("longer") // forked off, and longer
	faultImage(t, forked, longer)
	backup(longer, 0)
	backup(longer, 1)
	backup(longer, 2)
	other := r.world("other")
	must(other.init(ctx))
	backup(other, 0)
	r.edit(1)

	for _, c := range []struct {
		name  string
		vault string
		want  error
	}{
		{"an old copy", old.vault, log.ErrRollback},
		{"a fork that is shorter", forked.vault, log.ErrRollback},
		{"a fork that is longer", longer.vault, log.ErrForked},
		{"another vault", other.vault, log.ErrForked},
	} {
		for _, cache := range []string{"with a cache", "without a cache", "with a cache and no head"} {
			what := c.name + ", " + cache
			m := r.world("machine")
			faultImage(t, w, m)
			must(os.RemoveAll(m.vault))
			must(faultCopy(c.vault, m.vault, true))
			switch cache {
			case "without a cache":
				must(os.RemoveAll(filepath.Join(m.home, "cache")))
			case "with a cache and no head":
				must(os.RemoveAll(filepath.Join(m.home, "heads")))
			}
			before := faultFiles(t, m.vault)
			for name, command := range refused(ctx, r, m) {
				if err := command(); !errors.Is(err, c.want) {
					t.Errorf("%s: %s: %v, want %v", what, name, err, c.want)
				}
			}
			if !equalObjects(before, faultFiles(t, m.vault)) {
				t.Errorf("%s: the vault was changed", what)
			}
			// The right vault back in its place, all is as before.
			must(os.RemoveAll(m.vault))
			must(faultCopy(w.vault, m.vault, true))
			if res, err := m.backup(ctx, r.src); err != nil {
				t.Errorf("%s: with the vault back: %v", what, err)
			} else if err := m.restoresTo(ctx, t, res.Point, r.src, r.want[1]); err != nil {
				t.Errorf("%s: with the vault back: %v", what, err)
			}
			must(os.RemoveAll(filepath.Dir(m.home)))
		}
	}
}

// refused are commands that must not work on a vault that was rolled back.
func refused(ctx context.Context, r *faultRig, m *faultWorld) map[string]func() error {
	return map[string]func() error{
		"backup": func() error { _, err := m.backup(ctx, r.src); return err },
		"points": func() error { _, err := m.points(ctx); return err },
		"verify": func() error { _, err := m.verify(ctx); return err },
		"restore": func() error {
			_, err := m.restore(ctx, "latest", filepath.Join(filepath.Dir(m.home), "target"))
			return err
		},
		"key change": func() error { return m.changePassphrase(ctx, faultPass, faultNewPass) },
	}
}

// TestFaultRollbackMeanwhile rolls the vault back under an open session.
func TestFaultRollbackMeanwhile(t *testing.T) {
	ctx := t.Context()
	r := newFaultRig(t)
	w := r.world("box")
	if err := w.init(ctx); err != nil {
		t.Fatal(err)
	}
	r.edit(0)
	if _, err := w.backup(ctx, r.src); err != nil {
		t.Fatal(err)
	}
	old := r.world("old")
	faultImage(t, w, old)
	r.edit(1)
	if _, err := w.backup(ctx, r.src); err != nil {
		t.Fatal(err)
	}
	err := w.locked(func(h *home.Home) error {
		s, err := Open(ctx, w.env(), h, "")
		if err != nil {
			return err
		}
		defer s.Close()
		kept := faultFiles(t, old.vault)
		for name := range faultFiles(t, w.vault) {
			if _, ok := kept[name]; !ok {
				os.Remove(filepath.Join(w.vault, name))
			}
		}
		_, err = s.Backup(ctx, BackupOptions{Paths: []string{r.src}})
		return err
	})
	if !errors.Is(err, log.ErrRollback) {
		t.Errorf("got %v, want %v", err, log.ErrRollback)
	}
}

// TestFaultSpoiltCache spoils the derived data of a machine: only time is lost (I7).
func TestFaultSpoiltCache(t *testing.T) {
	ctx := t.Context()
	r := newFaultRig(t)
	w := r.world("box")
	if err := w.init(ctx); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		r.edit(i)
		if _, err := w.backup(ctx, r.src); err != nil {
			t.Fatal(err)
		}
	}
	r.edit(2)
	w.partial = 1 // a journal and a PARTIAL are left
	before := partialCheck
	partialCheck = 3
	w.dies(t, r, "log/", 1)
	partialCheck, w.partial = before, 0
	files := faultFiles(t, filepath.Join(w.home, "cache"))
	names := slices.Sorted(maps.Keys(files))
	cases := faultSample(len(names)*len(spoils), 40)
	for _, n := range cases {
		name, how := names[n/len(spoils)], spoils[n%len(spoils)]
		m := r.world("machine")
		faultImage(t, w, m)
		how.do(t, filepath.Join(m.home, "cache", name), files[name], files[names[(n/len(spoils)+1)%len(names)]])
		s := &faultScript{r: r, w: m, acked: []int{0, 1}}
		if err := s.recovers(ctx); err != nil {
			t.Errorf("%s is %s: %v", name, how.name, err)
		}
		os.RemoveAll(filepath.Dir(m.home))
	}
	t.Logf("%d files, %d cases", len(files), len(cases))
}

// spoils are what may become of a file of the cache; other is another one's content.
var spoils = []struct {
	name string
	do   func(t *testing.T, path string, data, other []byte)
}{
	{"gone", func(_ *testing.T, path string, _, _ []byte) { os.Remove(path) }},
	{"empty", func(t *testing.T, path string, _, _ []byte) { faultWrite(t, path, nil) }},
	{"cut", func(t *testing.T, path string, data, _ []byte) { faultWrite(t, path, data[:len(data)*2/3]) }},
	{"longer", func(t *testing.T, path string, data, _ []byte) {
		faultWrite(t, path, append(bytes.Clone(data), data...))
	}},
	{"zeroed", func(t *testing.T, path string, data, _ []byte) { faultWrite(t, path, make([]byte, len(data))) }},
	{"another's", func(t *testing.T, path string, _, other []byte) { faultWrite(t, path, other) }},
	{"flipped", func(t *testing.T, path string, data, _ []byte) {
		data = bytes.Clone(data)
		if len(data) > 0 {
			data[len(data)/2] ^= 1
		}
		faultWrite(t, path, data)
	}},
	{"flipped at its end", func(t *testing.T, path string, data, _ []byte) {
		data = bytes.Clone(data)
		if len(data) > 10 {
			data[len(data)-10] ^= 0x80
		}
		faultWrite(t, path, data)
	}},
}

func faultWrite(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
