//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/tharsis-backup/tharsis/internal/treecmp"
)

// TestApply: a folder becomes the tree of a state from whatever it was, also from
// what a cut left of it, and neighbouring states differ.
func TestApply(t *testing.T) {
	dir, fresh := filepath.Join(t.TempDir(), "a"), t.TempDir()
	for seed := range uint64(2) {
		for state := range 30 {
			if state%5 == 4 {
				spoil(t, dir)
			}
			want := filepath.Join(fresh, fmt.Sprint(seed, "-", state))
			for _, d := range []string{dir, want} {
				if err := apply(d, treeAt(seed, state)); err != nil {
					t.Fatal(err)
				}
			}
			ignore := treecmp.DirTimes
			if diffs, err := treecmp.Compare(want, dir, treecmp.Options{Ignore: ignore}); err != nil || len(diffs) > 0 {
				t.Fatalf("seed %d, state %d: %v %v", seed, state, diffs, err)
			}
			if state > 0 && reflect.DeepEqual(treeAt(seed, state), treeAt(seed, state-1)) {
				t.Errorf("seed %d: state %d is as the one before it", seed, state)
			}
		}
	}
	if !reflect.DeepEqual(treeAt(7, 12), treeAt(7, 12)) {
		t.Error("a state is not the same twice")
	}
}

// spoil does to some files what a cut may do.
func spoil(t *testing.T, dir string) {
	t.Helper()
	paths, err := filepath.Glob(dir + "/*/*")
	if err != nil {
		t.Fatal(err)
	}
	for i, path := range paths {
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case i%4 == 0:
			err = os.Remove(path)
		case info.Mode().IsRegular() && i%4 == 1:
			err = os.Truncate(path, info.Size()/2)
		case info.Mode().IsRegular() && i%4 == 2: // the size and the time of a file whose content never came
			if err = os.WriteFile(path, make([]byte, info.Size()), 0); err == nil {
				err = os.Chtimes(path, info.ModTime(), info.ModTime())
			}
		default:
			err = os.WriteFile(path+".new", nil, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestModel: what must, may and must not be listed after what was told.
func TestModel(t *testing.T) {
	m := newModel(1)
	for _, e := range []event{
		{aboutToBackUp, 1, "", ""}, {backedUp, 1, "a", ""}, {backedUp, 2, "b", ""}, {backedUp, 3, "c", ""},
		{aboutToForget, 3, "a", ""}, {forgot, 3, "a", ""}, {aboutToForget, 3, "b", ""}, {aboutToEdit, 4, "", ""},
	} {
		m.tell(e)
	}
	for _, c := range []struct {
		listed map[string]int
		ok     bool
	}{
		{map[string]int{"c": 3}, true}, {map[string]int{"b": 2, "c": 3}, true}, {map[string]int{"c": 3, "new": 4}, true},
		{map[string]int{"b": 2}, false}, {map[string]int{"a": 1, "c": 3}, false}, {map[string]int{"c": 3, "new": 3}, false},
		{map[string]int{"c": 2}, false}, {nil, false},
	} {
		if wrong := m.compare(c.listed); (wrong == "") != c.ok {
			t.Errorf("%v: %q", c.listed, wrong)
		}
	}
	was := m.clone()
	m.settle(map[string]int{"c": 3, "new": 4})
	if m.compare(map[string]int{"c": 3}) == "" || m.compare(map[string]int{"b": 2, "c": 3, "new": 4}) == "" {
		t.Error("what was found does not stay")
	}
	if was.compare(map[string]int{"c": 3}) != "" {
		t.Error("the copy changed, too")
	}
	m.tell(event{brought, 4, "a", ""})
	if m.compare(map[string]int{"a": 1, "c": 3, "new": 4}) != "" {
		t.Error("what was brought back is not known")
	}
}
