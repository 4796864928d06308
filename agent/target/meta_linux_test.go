package target

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// acl makes the attribute of a POSIX ACL that gives user 1234 the permission.
func acl(owner, named, group, mask, other uint16) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range [][3]uint32{{1, uint32(owner), 1<<32 - 1}, {2, uint32(named), 1234}, {4, uint32(group), 1<<32 - 1},
		{16, uint32(mask), 1<<32 - 1}, {32, uint32(other), 1<<32 - 1}} {
		b = binary.LittleEndian.AppendUint16(b, uint16(e[0]))
		b = binary.LittleEndian.AppendUint16(b, uint16(e[1]))
		b = binary.LittleEndian.AppendUint32(b, e[2])
	}
	return b
}

// capNetRaw is security.capability with cap_net_raw=ep, revision 2.
var capNetRaw = []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

func checkXattrs(t *testing.T, path string, want []manifest.Xattr) {
	t.Helper()
	buf := make([]byte, 1<<16)
	n, err := unix.Llistxattr(path, buf)
	must(t, err)
	got := map[string]bool{}
	for _, name := range strings.Split(string(buf[:n]), "\x00") {
		if name != "" && name != "security.selinux" {
			got[name] = true
		}
	}
	for _, x := range want {
		n, err := unix.Lgetxattr(path, x.Name, buf)
		if err != nil || !bytes.Equal(buf[:max(n, 0)], x.Value) {
			t.Errorf("%q: %s is %x, %v, want %x", path, x.Name, buf[:max(n, 0)], err, x.Value)
		}
		delete(got, x.Name)
	}
	for name := range got {
		t.Errorf("%q has attribute %s", path, name)
	}
}

var someTimes = []manifest.Time{
	{}, {Sec: -1, Nsec: 999_999_999}, {Sec: -300_000_000, Nsec: 1}, // 1960
	{Sec: 7_000_000_000, Nsec: 5}, // 2191
	{Sec: 1_700_000_000, Nsec: 100},
}

func TestModesAndTimes(t *testing.T) {
	dir := scratch(t)
	for _, umask := range []int{0o022, 0o077, 0} {
		old := unix.Umask(umask)
		r := open(t, filepath.Join(dir, string(rune('a'+umask))), Options{})
		want := map[string]*manifest.Entry{}
		for mode := uint32(0); mode <= 0o7777; mode += 37 {
			name := "m" + string(rune('0'+mode%7)) + "-" + itoa(mode)
			e := fileEntry("x")
			e.Mode, e.MTime = mode, someTimes[mode%5]
			_, err := r.Top().WriteFile("f"+name, e, []byte("x"), nil)
			must(t, err)
			want["f"+name] = e
			e = entry(manifest.KindDir, mode)
			e.MTime = someTimes[mode%5]
			d := enter(t, r.Top(), "d"+name, e)
			write(t, d, "in", "y")
			d.Leave()
			want["d"+name] = e
			e = entry(manifest.KindFIFO, mode)
			e.MTime = someTimes[mode%5]
			_, err = r.Top().Make("p"+name, e, nil)
			must(t, err)
			want["p"+name] = e
		}
		finish(t, r)
		unix.Umask(old)
		for name, e := range want {
			checkMeta(t, filepath.Join(r.dir, name), e)
		}
		if n := r.Notes(); len(n) != 0 {
			t.Errorf("notes: %v", n)
		}
	}
}

func itoa(n uint32) string {
	const digits = "01234567"
	s := ""
	for ; n > 0; n /= 8 {
		s = string(digits[n%8]) + s
	}
	return "0" + s
}

func TestSymlinks(t *testing.T) {
	dir := scratch(t)
	r := open(t, dir, Options{})
	for i, to := range []string{"nowhere", "/etc/passwd", "..", "l2", "\xff\n", strings.Repeat("x/", 2000)} {
		e := linkEntry(to)
		e.MTime = someTimes[i%len(someTimes)]
		name := "l" + itoa(uint32(i))
		_, err := r.Top().Make(name, e, nil)
		must(t, err)
		checkMeta(t, filepath.Join(dir, name), e)
		if got, err := os.Readlink(filepath.Join(dir, name)); err != nil || got != to {
			t.Errorf("symlink to %q, %v, want %q", got, err, to)
		}
	}
	for _, bad := range []string{"", strings.Repeat("x", 5000), "a\x00b"} {
		if _, err := r.Top().Make("bad", linkEntry(bad), nil); err == nil {
			t.Errorf("a symlink to %d bytes was made", len(bad))
		}
	}
	finish(t, r)
	noTemp(t, dir)
}

func TestUserXattrs(t *testing.T) {
	dir := scratch(t)
	x := []manifest.Xattr{
		{Name: aclAccess, Value: acl(6, 4, 4, 4, 0)},
		{Name: "user.empty", Value: []byte{}},
		{Name: "user.\xff\n", Value: []byte("b\x00c")},
		{Name: "user.long", Value: bytes.Repeat([]byte("v"), 900)},
	}
	if err := unix.Setxattr(dir, "user.probe", nil, 0); err != nil {
		t.Skipf("no user attributes here: %v", err)
	}
	must(t, unix.Removexattr(dir, "user.probe"))
	r := open(t, dir, Options{})
	e := fileEntry("x")
	e.Mode = 0o640 // the mode's group bits are the ACL's mask
	_, err := r.Top().WriteFile("file", e, []byte("x"), x)
	must(t, err)
	ro := fileEntry("x")
	ro.Mode = 0o400
	_, err = r.Top().WriteFile("readonly", ro, []byte("x"), x[1:])
	must(t, err)
	de := entry(manifest.KindDir, 0o540)
	dx := append([]manifest.Xattr{{Name: aclDefault, Value: acl(7, 5, 5, 5, 0)}, {Name: aclAccess, Value: acl(5, 4, 4, 4, 0)}}, x[1:]...)
	d := enter(t, r.Top(), "dir", de, dx...)
	_, err = d.WriteFile("in", fileEntry("y"), []byte("y"), nil)
	must(t, err)
	sub := enter(t, d, "sub", entry(manifest.KindDir, 0o755))
	sub.Leave()
	d.Leave()
	finish(t, r)
	for _, n := range r.Notes() {
		t.Errorf("note: %+v", n)
	}
	checkXattrs(t, filepath.Join(dir, "file"), x)
	checkXattrs(t, filepath.Join(dir, "readonly"), x[1:])
	checkXattrs(t, filepath.Join(dir, "dir"), dx)
	checkMeta(t, filepath.Join(dir, "file"), e)
	checkMeta(t, filepath.Join(dir, "readonly"), ro)
	checkMeta(t, filepath.Join(dir, "dir"), de)
	must(t, os.Chmod(filepath.Join(dir, "dir"), 0o700))
	checkXattrs(t, filepath.Join(dir, "dir", "in"), nil)
	checkXattrs(t, filepath.Join(dir, "dir", "sub"), nil)
}

// What a folder gives to new files must not show in restored ones.
func TestInheritance(t *testing.T) {
	dir := scratch(t)
	must(t, os.Mkdir(filepath.Join(dir, "odd"), 0o700))
	must(t, os.Chmod(filepath.Join(dir, "odd"), os.ModeSetgid|0o755))
	if isRoot {
		must(t, os.Chown(filepath.Join(dir, "odd"), 0, 4321))
		must(t, os.Chmod(filepath.Join(dir, "odd"), os.ModeSetgid|0o755))
	}
	noACL := unix.Setxattr(filepath.Join(dir, "odd"), aclDefault, acl(7, 7, 7, 7, 7), 0)
	r := open(t, dir, Options{})
	d := enter(t, r.Top(), "odd", nil)
	want := map[string]*manifest.Entry{}
	for _, mode := range []uint32{0o644, 0o600, 0o777, 0} {
		e := fileEntry("x")
		e.Mode = mode
		_, err := d.WriteFile("f"+itoa(mode), e, []byte("x"), nil)
		must(t, err)
		want["f"+itoa(mode)] = e
		e = entry(manifest.KindFIFO, mode)
		_, err = d.Make("p"+itoa(mode), e, nil)
		must(t, err)
		want["p"+itoa(mode)] = e
		e = entry(manifest.KindDir, mode|0o700)
		sub := enter(t, d, "d"+itoa(mode), e)
		f := fileEntry("x")
		_, err = sub.WriteFile("f", f, []byte("x"), nil)
		must(t, err)
		want["d"+itoa(mode)+"/f"] = f
		sub.Leave()
		want["d"+itoa(mode)] = e
	}
	d.Leave()
	finish(t, r)
	for name, e := range want {
		path := filepath.Join(dir, "odd", name)
		checkMeta(t, path, e)
		if noACL == nil {
			checkXattrs(t, path, nil)
		}
	}
	if noACL == nil {
		checkXattrs(t, filepath.Join(dir, "odd"), []manifest.Xattr{{Name: aclDefault, Value: acl(7, 7, 7, 7, 7)}})
	}
}

func TestPrivileged(t *testing.T) {
	if !isRoot {
		t.Skip("needs root")
	}
	dir := scratch(t)
	r := open(t, dir, Options{})
	x := []manifest.Xattr{{Name: "trusted.x", Value: []byte("1")}, {Name: attrCap, Value: capNetRaw}}
	tx := x[:1]
	want := map[string]*manifest.Entry{}
	for i, own := range [][2]uint32{{0, 0}, {1234, 0}, {0, 4321}, {1234, 4321}, {1<<32 - 2, 1<<32 - 2}} {
		for _, mode := range []uint32{0o644, 0o6755, 0o640, 0o666, 0o7000, 0o2644} {
			for _, kind := range []manifest.Kind{manifest.KindFile, manifest.KindDir, manifest.KindSymlink, manifest.KindBlock, manifest.KindChar, manifest.KindFIFO} {
				e := entry(kind, mode)
				e.UID, e.GID = own[0], own[1]
				name := itoa(uint32(kind)) + "-" + itoa(mode) + "-" + itoa(uint32(i))
				want[name] = e
				var err error
				switch kind {
				case manifest.KindFile:
					e.Size = 1
					_, err = r.Top().WriteFile(name, e, []byte("x"), x)
				case manifest.KindDir:
					enter(t, r.Top(), name, e, tx...).Leave()
				default:
					e.Target, e.Major, e.Minor = "to", 4095, 1<<20-1
					if kind == manifest.KindSymlink || kind == manifest.KindFIFO {
						e.Major, e.Minor = 0, 0
					}
					_, err = r.Top().Make(name, e, tx)
				}
				must(t, err)
			}
		}
	}
	bad := entry(manifest.KindChar, 0o600)
	bad.Major = 1 << 12
	if _, err := r.Top().Make("bad", bad, nil); err == nil {
		t.Error("a device number was cut")
	}
	finish(t, r)
	for name, e := range want {
		path := filepath.Join(dir, name)
		checkMeta(t, path, e)
		if e.Kind == manifest.KindFile {
			checkXattrs(t, path, x)
		} else {
			checkXattrs(t, path, tx)
		}
		st := lstat(t, path)
		if m := unix.Major(st.Rdev); m != e.Major || unix.Minor(st.Rdev) != e.Minor {
			t.Errorf("%q is device %d:%d", path, m, unix.Minor(st.Rdev))
		}
	}
	if n := r.Notes(); len(n) != 0 {
		t.Errorf("notes: %+v", n)
	}
	noTemp(t, dir)
}

func TestOwnerNotRestored(t *testing.T) {
	dir := scratch(t)
	o := Options{NoOwner: true}
	if !isRoot {
		o.NoOwner = false // the system will see to it
	}
	r := open(t, dir, o)
	e := fileEntry("x")
	e.UID, e.GID, e.Mode = e.UID+1, e.GID+1, 0o6755
	for _, name := range []string{"a", "b"} {
		_, err := r.Top().WriteFile(name, e, []byte("x"), []manifest.Xattr{{Name: attrCap, Value: capNetRaw}})
		must(t, err)
		if st := lstat(t, filepath.Join(dir, name)); st.Mode&0o7777 != 0o755 {
			t.Errorf("mode is %o", st.Mode&0o7777)
		}
		checkXattrs(t, filepath.Join(dir, name), nil)
	}
	none := fileEntry("x")
	none.UID, none.Mode = 1<<32-1, 0o4755
	_, err := r.Top().WriteFile("none", none, []byte("x"), nil)
	must(t, err)
	if st := lstat(t, filepath.Join(dir, "none")); st.Mode&0o7777 != 0o755 {
		t.Errorf("mode is %o", st.Mode&0o7777)
	}
	if !isRoot {
		dev := entry(manifest.KindBlock, 0o600)
		dev.Major = 8
		for range 3 {
			if out, err := r.Top().Make("dev", dev, nil); out != Refused || err != nil {
				t.Errorf("device: %v, %v", out, err)
			}
		}
		_, err := r.Top().WriteFile("t", fileEntry("x"), []byte("x"), []manifest.Xattr{{Name: "trusted.x", Value: []byte("1")}})
		must(t, err)
	}
	finish(t, r)
	counts := map[string]int64{}
	for _, n := range r.Notes() {
		if n.Path == "" || n.Err == nil {
			t.Errorf("note %+v", n)
		}
		counts[n.What] = n.Count
	}
	want := map[string]int64{noteSetID: 3, noteCap: 2}
	if !isRoot {
		want = map[string]int64{noteSetID: 3, noteCap: 2, noteOwner: 3, noteGroup: 2, noteDevice: 3, "attribute trusted.*": 1}
	}
	for what, n := range want {
		if counts[what] != n {
			t.Errorf("%d notes of %s, want %d", counts[what], what, n)
		}
	}
	noTemp(t, dir)
}

func TestMapNames(t *testing.T) {
	var n names
	if got := n.uid("root", 77); got != 0 {
		t.Errorf("root is %d", got)
	}
	for range 2 {
		if got := n.uid("nobody-has-this-name", 77); got != 77 {
			t.Errorf("unknown name is %d", got)
		}
		if got := n.gid("", 78); got != 78 {
			t.Errorf("no name is %d", got)
		}
	}
}

func TestHostileTimes(t *testing.T) {
	dir := scratch(t)
	r := open(t, dir, Options{})
	for i, mt := range []manifest.Time{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_OMIT}, {Nsec: 1<<32 - 1}, {Sec: 1<<63 - 1}, {Sec: -1 << 63}} {
		e := fileEntry("x")
		e.MTime = mt
		name := itoa(uint32(i + 1))
		_, err := r.Top().WriteFile(name, e, []byte("x"), nil)
		must(t, err)
		if st := lstat(t, filepath.Join(dir, name)); mt.Sec == 0 && (st.Mtim.Sec != 0 || st.Mtim.Nsec > 999_999_999) {
			t.Errorf("%+v became %d.%d", mt, st.Mtim.Sec, st.Mtim.Nsec)
		}
	}
	finish(t, r)
}

func TestSparse(t *testing.T) {
	dir := scratch(t)
	r := open(t, dir, Options{})
	e := entry(manifest.KindFile, 0o600)
	e.Size = 1 << 40
	f, _, err := r.Top().Create("big", e)
	must(t, err)
	for _, off := range []int64{1 << 39, 4096} {
		_, err = f.WriteAt([]byte("data"), off)
		must(t, err)
	}
	_, err = f.Commit(nil)
	must(t, err)
	f, _, err = r.Top().Create("hole", e)
	must(t, err)
	_, err = f.Commit(nil)
	must(t, err)
	finish(t, r)
	for _, name := range []string{"big", "hole"} {
		st := lstat(t, filepath.Join(dir, name))
		if st.Size != 1<<40 || st.Blocks > 64 {
			t.Errorf("%s: size %d in %d blocks", name, st.Size, st.Blocks)
		}
	}
}
