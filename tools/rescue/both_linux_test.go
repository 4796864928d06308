package rescue

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestBothReaders restores two points of a nasty tree with both readers, before and
// after index runs were merged, and compares all with each other and the source.
func TestBothReaders(t *testing.T) {
	needPython(t)
	n, m := newNasty(t), newMachine(t)
	file := filepath.Join(t.TempDir(), "a file as a source")
	noErr(t, os.WriteFile(file, []byte("alone"), 0o640))
	first := m.backup(n.dir, file)
	old := m.restore(first)
	same(t, n.dir, old+n.dir)
	points := 1
	var last string
	for ; points < 10; points++ {
		n.edit(points)
		last = m.backup()
	}
	if runs, err := os.ReadDir(filepath.Join(m.vault, "index")); err != nil || len(runs) <= points {
		t.Fatalf("no index run was merged: %d runs, %v", len(runs), err)
	}

	out := m.target() // once with the passphrase, and below with the recovery key
	if res := rescue(t, m.vault, "restore", last, out); res.code != 0 {
		t.Fatal(res)
	}
	same(t, n.dir, out+n.dir)
	same(t, file, out+file)
	same(t, m.restore(last)+n.dir, out+n.dir)
	out, _ = m.rescue(0, first[:8])
	same(t, old+n.dir, out+n.dir)
	m.agent(0, "forget", first)
	m.agent(0, "hold", last, "--reason", "a test")
	out, _ = m.rescue(0, first, file) // a deleted point can be restored
	same(t, file, out+file)

	listed := rescue(t, "--recovery-key-file", m.recovery, m.vault, "points")
	lines := strings.Split(strings.TrimSpace(listed.out), "\n")
	if listed.code != 0 || len(lines) != points || !strings.HasPrefix(lines[0], first) || !strings.HasPrefix(lines[points-1], last) ||
		!strings.Contains(lines[0], file) || !strings.Contains(lines[0], "  deleted  ") || !strings.Contains(lines[points-1], "  held  ") {
		t.Errorf("points: %v", listed)
	}
	if res := rescue(t, "--recovery-key-file", m.recovery, m.vault, "check"); res.code != 0 || strings.Count(res.out, "whole") != points {
		t.Errorf("check: %v", res)
	}
}

// TestPaths restores parts of a point: they come back with the folders above them.
func TestPaths(t *testing.T) {
	needPython(t)
	n, m := newNasty(t), newMachine(t)
	point := m.backup(n.dir)
	out, _ := m.rescue(0, point, n.path("closed"), n.path("links/text"), n.path("names/\xff\xfe not UTF-8"))
	want := m.target()
	m.agent(0, "restore", "--point", point, "--target", want, n.path("closed"), n.path("links/text"), n.path("names/\xff\xfe not UTF-8"))
	same(t, want+n.path("closed"), out+n.path("closed"))
	same(t, n.path("links/text"), out+n.path("links/text"))
	same(t, n.path("names/\xff\xfe not UTF-8"), out+n.path("names/\xff\xfe not UTF-8"))
	for folder, count := range map[string]int{"": 3, "links": 1, "names": 1} {
		if names, err := os.ReadDir(out + n.path(folder)); err != nil || len(names) != count {
			t.Errorf("%q has %v, want %d: %v", folder, names, count, err)
		}
	}
	for _, missing := range []string{n.path("closed/nothing"), "/nowhere"} {
		target := m.target()
		res := rescue(t, "--recovery-key-file", m.recovery, m.vault, "restore", point, target, missing)
		if _, err := os.Lstat(target); res.code != 1 || err == nil {
			t.Errorf("%s: %v", missing, res)
		}
	}
}

// TestUsage: what a user meets who types something wrong.
func TestUsage(t *testing.T) {
	needPython(t)
	m := newMachine(t)
	full := filepath.Join(m.dir, "full")
	noErr(t, os.MkdirAll(filepath.Join(full, "x"), 0o755))
	source := filepath.Join(m.dir, "source")
	noErr(t, os.Mkdir(source, 0o755))
	m.backup(source)
	key := "--recovery-key-file"
	for _, c := range []struct {
		code int
		args []string
	}{
		{10, []string{m.dir, "points"}},
		{10, []string{filepath.Join(m.dir, "nothing"), "points"}},
		{1, nil},
		{1, []string{m.vault, "nonsense"}},
		{1, []string{key, m.recovery, m.vault, "restore", "latest", full}},
		{1, []string{key, m.recovery, m.vault, "restore", "zz", m.target()}},
		{12, []string{key, "rescue.py", m.vault, "points"}},
		{0, []string{m.vault, "points", key, m.recovery}},
	} {
		if res := rescue(t, c.args...); res.code != c.code || strings.Contains(res.errors, "Traceback") || c.code != 0 && res.out != "" {
			t.Errorf("%q: want exit %d, got %v", c.args, c.code, res)
		}
	}
	wrong := command(t, []string{"THARSIS_PASSPHRASE=another passphrase of some length"}, needPython(t), "-B", "rescue.py", m.vault, "points")
	if wrong.code != 12 {
		t.Errorf("a wrong passphrase: %v", wrong)
	}
}
