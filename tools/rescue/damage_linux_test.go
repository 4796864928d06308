package rescue

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/tharsis-backup/tharsis/internal/treecmp"
)

// flip changes one bit of a file, at an offset from its beginning, or from its
// end where that is negative.
func flip(t *testing.T, path string, at int) {
	t.Helper()
	b, err := os.ReadFile(path)
	noErr(t, err)
	if at < 0 {
		at += len(b)
	}
	b[at] ^= 0x10
	noErr(t, os.Chmod(path, 0o600))
	noErr(t, os.WriteFile(path, b, 0o600))
}

// objects are the objects of a folder of the vault, the largest first; those of
// packs are only the ones of a type.
func (m *machine) objects(folder string, kind byte) (paths []string) {
	m.t.Helper()
	size := map[string]int64{}
	noErr(m.t, filepath.WalkDir(filepath.Join(m.vault, folder), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err == nil && (folder != "packs" || b[5] == kind) {
			size[path] = int64(len(b))
			paths = append(paths, path)
		}
		return err
	}))
	slices.SortFunc(paths, func(a, b string) int { return int(size[b] - size[a]) })
	if len(paths) == 0 {
		m.t.Fatalf("the vault has no %s of type %d", folder, kind)
	}
	return paths
}

const (
	dataPack     = 3
	manifestPack = 4
)

// TestDamage: whatever is damaged, it is named, the rest is restored, and nothing
// passes for what it is not.
func TestDamage(t *testing.T) {
	needPython(t)
	n, whole := newPlain(t), newMachine(t)
	whole.backup(n.dir)
	for _, c := range []struct {
		name   string
		damage func(t *testing.T, m *machine)
		code   int // of restore; check never gives 0
		says   string
	}{
		{"a record of a data pack", func(t *testing.T, m *machine) { flip(t, m.objects("packs", dataPack)[0], 5000) }, 3, n.dir},
		{"a data pack is gone", func(t *testing.T, m *machine) { noErr(t, os.Remove(m.objects("packs", dataPack)[0])) }, 3, n.dir},
		{"a data pack is cut", func(t *testing.T, m *machine) { noErr(t, os.Truncate(m.objects("packs", dataPack)[0], 300_000)) }, 3, n.dir},
		{"the header of a data pack", func(t *testing.T, m *machine) { flip(t, m.objects("packs", dataPack)[0], 20) }, 0, "packs/"},
		{"a page of a manifest", func(t *testing.T, m *machine) { flip(t, m.objects("packs", manifestPack)[0], 200) }, 3, "entries are lost"},
		{"all of a manifest", func(t *testing.T, m *machine) { noErr(t, os.Remove(m.objects("packs", manifestPack)[0])) }, 3, n.dir},
		{"an index block", func(t *testing.T, m *machine) { flip(t, m.objects("index", 0)[0], 60) }, 0, "index/"},
		{"an index footer", func(t *testing.T, m *machine) { flip(t, m.objects("index", 0)[0], -20) }, 0, "index/"},
		{"the index is gone", func(t *testing.T, m *machine) { noErr(t, os.RemoveAll(filepath.Join(m.vault, "index"))) }, 0, "index/"},
		{"a log entry", func(t *testing.T, m *machine) { flip(t, m.log(1), 100) }, 1, "log/"},
		{"the header of a log entry", func(t *testing.T, m *machine) { flip(t, m.log(0), 9) }, 1, "log/"},
		{"the version of a log entry", func(t *testing.T, m *machine) { flip(t, m.log(1), 4) }, 1, "was changed"},
		{"the version of config", func(t *testing.T, m *machine) { flip(t, m.vault+"/config", 4) }, 1, "newer"},
		{"a log entry is gone", func(t *testing.T, m *machine) { noErr(t, os.Remove(m.log(1))) }, 1, "log/"},
		{"a log entry is twice", func(t *testing.T, m *machine) { noErr(t, os.Link(m.log(2), m.log(3))) }, 1, "log/"},
		{"config", func(t *testing.T, m *machine) { flip(t, m.vault+"/config", 47) }, 1, "config"},
		{"the vault's ID", func(t *testing.T, m *machine) { flip(t, m.vault+"/config", 9) }, 12, "belongs elsewhere"},
		{"a slot", func(t *testing.T, m *machine) { flip(t, m.slot(2), -1) }, 12, "keys/"},
		{"the other slot", func(t *testing.T, m *machine) { flip(t, m.slot(1), -1) }, 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := whole.copied(t)
			c.damage(t, m)
			target, res := m.rescue(c.code, "latest")
			if !strings.Contains(res.errors, c.says) || strings.Contains(res.errors, "Traceback") {
				t.Fatalf("it is not said: %v", res)
			}
			if c.code == 0 {
				same(t, n.dir, target+n.dir)
			}
			if c.code == 3 {
				namedOrWhole(t, n.dir, target, res.errors)
			}
			if c.code != 0 && c.code != 3 {
				if _, err := os.Lstat(target); err == nil {
					t.Errorf("a target was made: %v", res)
				}
				m.salvaged(n.dir, c.name)
				return
			}
			if res := rescue(t, "--recovery-key-file", m.recovery, m.vault, "check"); (res.code == 0) != (c.says == "") {
				t.Errorf("check: %v", res)
			}
		})
	}
}

// salvaged checks that all of source comes back in spite of a log or a config that is
// damaged. A secret that opens nothing is none of that.
func (m *machine) salvaged(source, name string) {
	m.t.Helper()
	if name == "a slot" {
		m.rescue(12, "latest", "--salvage")
		return
	}
	target, res := m.rescue(3, "latest", "--salvage")
	same(m.t, source, target+source)
	if !strings.Contains(res.errors, "log/") && !strings.Contains(res.errors, "config") {
		m.t.Errorf("it is not said: %v", res)
	}
}

// TestSalvage: of a log with several points each entry is damaged or gone in turn; all
// points but at most the one that it commits come back.
func TestSalvage(t *testing.T) {
	needPython(t)
	m, n := newMachine(t), newPlain(t)
	var points, trees []string
	for i := range 3 {
		noErr(t, os.WriteFile(filepath.Join(n.dir, "more"), []byte{byte(i)}, 0o644))
		points = append(points, m.backup(n.dir))
		trees = append(trees, m.restore(points[i])+n.dir)
	}
	for seq := range len(m.objects("log", 0)) {
		for _, gone := range []bool{false, true} {
			c := m.copied(t)
			if gone {
				noErr(t, os.Remove(c.log(seq)))
			} else {
				flip(t, c.log(seq), 100)
			}
			listed := rescue(t, "--recovery-key-file", c.recovery, "--salvage", c.vault, "points")
			lost, newest := 0, -1
			for i, point := range points {
				if strings.Contains(listed.out, point[:12]) {
					newest = i
				} else {
					lost++
				}
			}
			target := c.target()
			res := rescue(t, "--recovery-key-file", c.recovery, "--salvage", c.vault, "restore", "latest", target)
			if res.code != 3 && !(res.code == 0 && gone) || newest < 0 {
				t.Fatalf("entry %d, gone %v: %v\n%v", seq, gone, listed, res)
			}
			same(t, trees[newest], target+n.dir)
			if lost > 1 {
				t.Errorf("entry %d, gone %v: %d points are lost", seq, gone, lost)
			}
		}
	}
}

func (m *machine) log(seq int) string {
	name := strconv.FormatInt(int64(seq), 16)
	return filepath.Join(m.vault, "log", strings.Repeat("0", 16-len(name))+name)
}

// slot is the slot of a kind.
func (m *machine) slot(kind byte) string {
	m.t.Helper()
	for _, path := range m.objects("keys", 0) {
		if b, err := os.ReadFile(path); err == nil && b[6] == kind {
			return path
		}
	}
	m.t.Fatal("no such slot")
	return ""
}

// namedOrWhole checks that all of source is in the target, but for what is named:
// an entry, or a range of entries that begins in a folder.
func namedOrWhole(t *testing.T, source, target, said string) {
	t.Helper()
	lost := strings.Contains(said, "entries are lost")
	if _, err := os.Lstat(target + source); lost && err != nil {
		return // all of it
	}
	var stats treecmp.Stats
	diffs, err := treecmp.Compare(source, target+source, treecmp.Options{Max: 1 << 20, Stats: &stats})
	noErr(t, err)
	if len(diffs) == 0 {
		t.Errorf("nothing is missing, but it says %s", said)
	}
	for _, d := range diffs {
		path := filepath.Join(source, d.Path)
		switch {
		case strings.Contains(said, shown(path)+": "):
		case lost: // a range is named by its beginning
		case d.Aspect == treecmp.Missing:
			t.Errorf("%q is missing and not named", path)
		default:
			t.Errorf("%v", d)
		}
	}
	if !lost && stats.Entries < 20 {
		t.Errorf("only %d entries were restored", stats.Entries)
	}
}

// shown is how rescue.py shows a path: as it is if a terminal can print it, and
// else as a Python string of ASCII.
func shown(path string) string {
	if utf8.ValidString(path) && !strings.ContainsFunc(path, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return path
	}
	var b strings.Builder
	for rest := path; rest != ""; {
		r, n := utf8.DecodeRuneInString(rest)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, "\\udc%02x", rest[0])
		case r == '\n' || r == '\\':
			b.WriteString(strings.Trim(strconv.Quote(string(r)), `"`))
		case r < 0x20 || r >= 0x7f && r < 0x100:
			fmt.Fprintf(&b, "\\x%02x", r)
		case r >= 0x100:
			fmt.Fprintf(&b, "\\u%04x", r)
		default:
			b.WriteRune(r)
		}
		rest = rest[n:]
	}
	return "'" + b.String() + "'"
}
