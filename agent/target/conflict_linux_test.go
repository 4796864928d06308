package target

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// before puts something under the name, with an mtime that is earlier or later
// than that of entries.
func before(t *testing.T, path, what string, later bool) {
	t.Helper()
	switch what {
	case "nothing":
		return
	case "file":
		must(t, os.WriteFile(path, []byte("old"), 0o600))
	case "folder", "empty folder":
		must(t, os.Mkdir(path, 0o700))
		if what == "folder" {
			must(t, os.WriteFile(filepath.Join(path, "old"), []byte("old"), 0o600))
		}
	case "symlink":
		must(t, os.Symlink("elsewhere", path))
	case "symlink to folder":
		must(t, os.Symlink("..", path))
	case "fifo":
		must(t, unix.Mkfifo(path, 0o600))
	case "socket":
		must(t, unix.Mknod(path, unix.S_IFSOCK|0o600, 0))
	case "device":
		must(t, unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	}
	sec := int64(1_400_000_000)
	if later {
		sec = 1_600_000_000
	}
	ts := []unix.Timespec{{Sec: sec}, {Sec: sec}}
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW))
}

// restoreAs restores an entry of the kind under the name x, content "new".
func restoreAs(t *testing.T, r *Root, kind string) (Outcome, error) {
	t.Helper()
	switch kind {
	case "file":
		return r.Top().WriteFile("x", fileEntry("new"), []byte("new"), nil)
	case "folder":
		d, out, err := r.Top().Enter("x", entry(manifest.KindDir, 0o755), nil)
		if d != nil {
			write(t, d, "new", "new")
			d.Leave()
		}
		return out, err
	case "symlink":
		return r.Top().Make("x", linkEntry("new"), nil)
	case "fifo":
		return r.Top().Make("x", entry(manifest.KindFIFO, 0o640), nil)
	case "device":
		e := entry(manifest.KindChar, 0o640)
		e.Major, e.Minor = 1, 5
		return r.Top().Make("x", e, nil)
	case "link":
		e := fileEntry("new")
		e.LinkKey = 7
		if _, err := r.Top().WriteFile("first", e, []byte("new"), nil); err != nil {
			return 0, err
		}
		var out Outcome
		var err error
		if !r.Top().Link("x", e, func(o Outcome, e error) { out, err = o, e }) {
			t.Fatal("not linked")
		}
		return out, err
	}
	panic(kind)
}

// checkNew checks that path is what restoreAs restores.
func checkNew(t *testing.T, path, kind string) {
	t.Helper()
	st := lstat(t, path)
	if st.Mtim.Sec != 1_500_000_000 {
		t.Errorf("mtime is %d", st.Mtim.Sec)
	}
	ok := false
	switch toKind(st.Mode) {
	case manifest.KindFile:
		ok = (kind == "file" || kind == "link" && st.Nlink == 2) && read(t, path) == "new"
	case manifest.KindDir:
		ok = kind == "folder" && read(t, filepath.Join(path, "new")) == "new"
	case manifest.KindSymlink:
		to, _ := os.Readlink(path)
		ok = kind == "symlink" && to == "new"
	case manifest.KindFIFO:
		ok = kind == "fifo"
	case manifest.KindChar:
		ok = kind == "device" && unix.Minor(st.Rdev) == 5
	}
	if !ok {
		t.Errorf("%q is not the restored %s: %+v", path, kind, st)
	}
}

func TestConflicts(t *testing.T) {
	olds := []string{"nothing", "file", "folder", "empty folder", "symlink", "symlink to folder", "fifo", "socket", "device"}
	kinds := []string{"file", "folder", "symlink", "fifo", "device", "link"}
	rules := map[Conflict]string{Copy: "copy", Overwrite: "overwrite", Skip: "skip", Newer: "newer"}
	for _, old := range olds {
		for _, kind := range kinds {
			for rule, ruleName := range rules {
				for _, later := range []bool{false, true} {
					if !isRoot && (old == "device" || kind == "device") {
						continue
					}
					name := fmt.Sprintf("%s over %s, %s, later %v", kind, old, ruleName, later)
					t.Run(name, func(t *testing.T) { conflict(t, old, kind, rule, later) })
				}
			}
		}
	}
}

func conflict(t *testing.T, old, kind string, rule Conflict, later bool) {
	outer := scratch(t)
	dir := filepath.Join(outer, "t")
	must(t, os.Mkdir(dir, 0o700))
	path := filepath.Join(dir, "x")
	before(t, path, old, later)
	oldIno := uint64(0)
	if old != "nothing" {
		oldIno = lstat(t, path).Ino
	}
	r := open(t, dir, Options{Conflict: rule})
	out, err := restoreAs(t, r, kind)
	finish(t, r)
	noTemp(t, dir)
	if len(listing(t, outer)) != 1 {
		t.Errorf("outside: %v", listing(t, outer))
	}
	if rule == Newer {
		rule = Overwrite
		if later {
			rule = Skip
		}
	}
	isFolder := old == "folder" || old == "empty folder"
	switch {
	case old == "nothing" || kind == "folder" && isFolder:
		if out != Restored || err != nil {
			t.Errorf("outcome %v, %v", out, err)
		}
		checkNew(t, path, kind)
		return
	case rule == Overwrite && old == "folder":
		wantErr(t, "outcome", err, ErrFolder)
	case rule == Overwrite:
		if (out != Replaced && (out != Restored || !isFolder)) || err != nil {
			t.Errorf("outcome %v, %v", out, err)
		}
		checkNew(t, path, kind)
		return
	case rule == Skip:
		if out != Kept || err != nil {
			t.Errorf("outcome %v, %v", out, err)
		}
	default:
		if out != Copied || err != nil {
			t.Errorf("outcome %v, %v", out, err)
		}
		checkNew(t, path+" (restored)", kind)
	}
	if st := lstat(t, path); st.Ino != oldIno || st.Mtim.Sec == 1_500_000_000 {
		t.Errorf("what was there is changed: %+v", st)
	}
	if old == "folder" && read(t, filepath.Join(path, "old")) != "old" {
		t.Error("content of the folder is changed")
	}
}

func TestCopiesCount(t *testing.T) {
	dir := scratch(t)
	r := open(t, dir, Options{Suffix: " (restored 2026-11-23 14-05)"})
	for _, want := range []Outcome{Restored, Copied, Copied} {
		if out := write(t, r.Top(), "a.txt", "x"); out != want {
			t.Errorf("outcome %v, want %v", out, want)
		}
	}
	must(t, os.Symlink("a.txt", filepath.Join(dir, "d")))
	for range 2 { // a copy of a folder is filled, too
		d, out, err := r.Top().Enter("d", entry(manifest.KindDir, 0o755), nil)
		if err != nil || out != Copied {
			t.Fatalf("%v, %v", out, err)
		}
		d.Leave()
	}
	finish(t, r)
	got := fmt.Sprintf("%q", listing(t, dir))
	want := `["a (restored 2026-11-23 14-05) 2.txt" "a (restored 2026-11-23 14-05).txt" "a.txt" "d" "d (restored 2026-11-23 14-05)"]`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	for _, bad := range []string{"/", "a\x00", string(make([]byte, 101))} {
		if _, err := Open(dir, Options{Suffix: bad}); err == nil {
			t.Errorf("suffix %q is allowed", bad)
		}
	}
}

func TestExisting(t *testing.T) {
	dir := scratch(t)
	for _, what := range []string{"file", "folder", "symlink", "fifo", "socket"} {
		before(t, filepath.Join(dir, what), what, false)
	}
	r := open(t, dir, Options{})
	at := func(e *manifest.Entry) *manifest.Entry { e.MTime = manifest.Time{Sec: 1_400_000_000}; return e }
	entries := map[string]*manifest.Entry{
		"file": at(fileEntry("old")), "symlink": at(linkEntry("elsewhere")), "fifo": at(entry(manifest.KindFIFO, 0o640)),
		"folder": at(entry(manifest.KindDir, 0o700)), "socket": at(entry(0, 0)),
	}
	for name := range entries {
		x, err := r.Top().Existing(name)
		must(t, err)
		for other, e := range entries {
			if want := other == name && name != "folder" && name != "socket"; x.Like(e) != want {
				t.Errorf("%s like %s is %v", name, other, !want)
			}
		}
		x.Close()
	}
	if _, err := r.Top().Existing("none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nothing there: %v", err)
	}
	x, err := r.Top().Existing("file")
	must(t, err)
	for _, e := range []*manifest.Entry{at(fileEntry("olds")), fileEntry("old"), at(linkEntry("old"))} {
		if x.Like(e) {
			t.Errorf("file is like %+v", e)
		}
	}
	var buf [4]byte
	if n, err := x.ReadAt(buf[:], 0); n != 3 || err == nil || string(buf[:3]) != "old" {
		t.Errorf("read %d, %v", n, err)
	}
	e := at(fileEntry("old"))
	e.Mode = 0o444
	attrs := []manifest.Xattr{{Name: "user.a", Value: []byte("1")}}
	must(t, unix.Setxattr(filepath.Join(dir, "file"), "user.b", []byte("2"), 0))
	for range 2 { // the second time the file can't be written to
		must(t, x.SetMeta(e, attrs))
		attrs[0].Value = []byte("3")
	}
	x.Close()
	checkMeta(t, filepath.Join(dir, "file"), e)
	checkXattrs(t, filepath.Join(dir, "file"), attrs)
	if err := x.SetMeta(linkEntry("x"), nil); err == nil {
		t.Error("metadata of another kind was set")
	}
	for _, name := range []string{"symlink", "fifo"} {
		x, err := r.Top().Existing(name)
		must(t, err)
		entries[name].MTime.Nsec = 7
		must(t, x.SetMeta(entries[name], nil))
		x.Close()
		checkMeta(t, filepath.Join(dir, name), entries[name])
	}
	finish(t, r)
}

func TestExistingSwapped(t *testing.T) {
	dir := scratch(t)
	path := filepath.Join(dir, "file")
	canary := filepath.Join(scratch(t), "canary")
	for _, f := range []string{path, canary} {
		must(t, os.WriteFile(f, []byte("old"), 0o600))
	}
	r := open(t, dir, Options{})
	x, err := r.Top().Existing("file")
	must(t, err)
	must(t, os.Remove(path))
	must(t, os.Symlink(canary, path))
	was := snapshot(t, filepath.Dir(canary))
	_, err = x.ReadAt(make([]byte, 3), 0)
	if err == nil {
		t.Error("read through a symlink")
	}
	wantErr(t, "SetMeta", x.SetMeta(fileEntry("old"), nil), errReplaced)
	x.Close()
	finish(t, r)
	if now := snapshot(t, filepath.Dir(canary)); now != was {
		t.Errorf("outside was\n%s\nis\n%s", was, now)
	}
}

// A file in the target may be a link to one that is none of our business.
func TestExistingForeignLink(t *testing.T) {
	if !isRoot {
		t.Skip("needs root")
	}
	outer := scratch(t)
	dir := filepath.Join(outer, "t")
	must(t, os.Mkdir(dir, 0o700))
	must(t, os.WriteFile(filepath.Join(outer, "precious"), []byte("old"), 0o600))
	must(t, os.Link(filepath.Join(outer, "precious"), filepath.Join(dir, "file")))
	was := snapshot(t, outer)
	r := open(t, dir, Options{})
	x, err := r.Top().Existing("file")
	must(t, err)
	e := fileEntry("old")
	e.UID, e.Mode = 1234, 0o777
	must(t, x.SetMeta(e, nil))
	x.Close()
	finish(t, r)
	if now := snapshot(t, outer); now != was {
		t.Errorf("was\n%s\nis\n%s", was, now)
	}
	if n := r.Notes(); len(n) != 1 || n[0].What != noteForeign {
		t.Errorf("notes %v", n)
	}
}

func TestSameTime(t *testing.T) {
	want := manifest.Time{Sec: -5, Nsec: 123_456_789}
	for nsec, ok := range map[uint32]bool{123_456_789: true, 123_456_700: true, 123_456_000: true, 0: true, 123_456_788: false, 123_000_000: false, 1: false} {
		if sameTime(manifest.Time{Sec: -5, Nsec: nsec}, want) != ok {
			t.Errorf("%d is %v", nsec, !ok)
		}
	}
	if sameTime(manifest.Time{Sec: -4}, want) {
		t.Error("another second is the same")
	}
}
