package rescue

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// TestHostile restores a point whose sources a hostile member wrote. Whatever they
// say, nothing appears or changes outside of the target, and none that is no tree
// passes for a whole one.
func TestHostile(t *testing.T) {
	needPython(t)
	f := newForger(t)
	dir := t.TempDir()
	outside, target := filepath.Join(dir, "outside"), filepath.Join(dir, "target")
	noErr(t, os.MkdirAll(filepath.Join(outside, "sub"), 0o755))
	noErr(t, os.WriteFile(filepath.Join(outside, "file"), []byte("mine"), 0o600))
	before := filepath.Join(dir, "before")
	if res := command(t, nil, "cp", "-a", outside, before); res.code != 0 {
		t.Fatal(res)
	}

	root := folder("")
	change := func(r row, to func(e *manifest.Entry)) row { to(&r.entry); return r }
	n := uint64(len(text))
	huge := change(f.file("huge"), func(e *manifest.Entry) {
		e.Size, e.Extents = 1<<62-1+n, []manifest.Extent{{Length: 1<<62 - 1}, {Length: n, ID: f.textID()}}
	})
	lying := change(f.file("lying"), func(e *manifest.Entry) {
		e.Size, e.Extents = 7<<20, []manifest.Extent{{Length: 7 << 20, ID: f.textID()}}
	})
	foreign := change(f.file("foreign"), func(e *manifest.Entry) { e.Extents = []manifest.Extent{{Length: n, ID: chunk.ID{1, 2, 3}}} })
	short := change(f.file("short"), func(e *manifest.Entry) { e.Size = math.MaxInt64 })
	exchanged := change(f.file("exchanged"), func(e *manifest.Entry) { e.Extents = []manifest.Extent{{Length: n, ID: swapped}} })
	late := change(f.file("late"), func(e *manifest.Entry) { e.MTime.Sec = math.MaxInt64 })
	linked := func(r row) row { return change(r, func(e *manifest.Entry) { e.LinkKey = 7 }) }
	attribute := func(set string) row {
		return change(f.file("attributes"), func(e *manifest.Entry) { e.Xattrs = []byte(set) })
	}
	up := strings.Repeat("../", 12) + strings.TrimPrefix(outside, "/")

	var sources []planted
	for i, c := range [][]row{
		{root, f.file("..")},
		{root, folder("a"), f.file("a\x00..")},
		{root, folder(".."), f.file("..\x00x")},
		{root, f.file(".")},
		{root, f.file(outside + "/x")},
		{root, f.file(up + "/x")},
		{root, folder("a"), f.file("a\x00")},
		{root, folder("a"), f.file("a\x00\x00b")},
		{root, f.file("\x00etc")},
		{root, f.file(strings.Repeat("n", 2000))},
		{root, f.file(strings.Repeat("n\x00", 40000) + "n")},
		{root, f.file("a"), f.file("a")},
		{root, f.file("b"), f.file("a")},
		{root, f.file("a\x00b")},
		{root, f.file("a"), f.file("a\x00b")},
		{root, symlink("a", outside), f.file("a\x00planted")},
		{root, symlink("a", outside), folder("a\x00sub"), f.file("a\x00sub\x00planted")},
		{f.file("a")},
		{symlink("", outside), f.file("planted")},
		{f.file(""), f.file("planted")},
		{root, huge},
		{root, lying},
		{root, foreign},
		{root, short},
		{root, exchanged},
		{root, symlink("s", "with a\x00NUL")},
		{root, attribute("\x01\x01a\x00 trailing")},
		{root, attribute("\x01\x09user.a\x00b\x01v")},
		{root, linked(symlink("a", filepath.Join(outside, "file"))), linked(f.file("b")), f.file("c\x00d")},
	} {
		sources = append(sources, planted{path: fmt.Sprintf("/case%02d", i), rows: c})
	}
	for _, path := range []string{"/../../../../../../../../../.." + outside, "/a/../../outside", "/s\x00/x", "..", "//x", "/x/"} {
		sources = append(sources, planted{path: path, rows: []row{root, f.file("planted")}})
	}
	// The first source makes a symlink where the next one wants a folder.
	sources = append(sources, planted{path: "/way/l", rows: []row{symlink("", outside)}})
	sources = append(sources, planted{path: "/way", rows: []row{root, folder("l"), f.file("l\x00planted")}})
	sources = append(sources, planted{path: "/count", rows: []row{root, f.file("a")}, lie: 1})
	sources = append(sources, planted{path: "/page", rows: []row{root, f.file("b")}, root: 9})
	hostile := len(sources)
	// Sources within each other, and an honest one.
	sources = append(sources, planted{path: "/over", rows: []row{root, f.file("a"), folder("in"), f.file("in\x00b")}})
	sources = append(sources, planted{path: "/over/in", rows: []row{root, f.file("b")}})
	sources = append(sources, planted{path: "/late", rows: []row{late}}) // what it gets, the kernel decides
	sources = append(sources, planted{path: "/honest", rows: []row{root, f.file("a"), symlink("link", outside)}})
	f.plant(sources)

	res := f.rescue("restore", "latest", target)
	if res.code != 3 || strings.Contains(res.errors, "Traceback") {
		t.Fatalf("restore: %v", res)
	}
	same(t, before, outside)
	for i, s := range sources[:hostile] {
		if s.path == "/way/l" {
			continue // it is whole
		}
		if !strings.Contains(res.errors, shown(s.path)) && !strings.Contains(res.errors, s.path+"/") {
			t.Errorf("source %d, %q, passes for whole", i, s.path)
		}
	}
	for _, path := range []string{"/over/a", "/over/in/b", "/honest/a"} {
		if b, err := os.ReadFile(target + path); err != nil || string(b) != text {
			t.Errorf("%s is not restored: %v", path, err)
		}
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 3 {
		t.Errorf("beside the target there is %v, %v", names, err)
	}
	if strings.Contains(res.errors, "/over") || strings.Contains(res.errors, "/honest") {
		t.Errorf("what is honest is named: %v", res)
	}
	if res := f.rescue("check"); res.code != 3 || strings.Contains(res.errors, "Traceback") {
		t.Errorf("check: %v", res)
	}
}

// TestFrames gives the decoder frames that no writer makes.
func TestFrames(t *testing.T) {
	const script = `
import struct, sys, zstandard as z
import rescue
data = b"some text, " * 100
def frame(**how):
    return z.ZstdCompressor(**how).compress(data)
def header(size, window=None):  # a frame of a content size of 8 bytes
    if window is None:
        return b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", size)
    return b"\x28\xb5\x2f\xfd\xc0" + bytes([window]) + struct.pack("<Q", size)
def rle(count, last):  # a block of one byte, count times
    return (count << 3 | 2 | last).to_bytes(3, "little") + b"x"
good = frame(write_checksum=False, write_content_size=True)
assert rescue.unzstd(good, len(data), "") == data
assert rescue.unzstd(header(1000) + rle(1000, 1), 1000, "") == b"x" * 1000
bad = {
    "a checksum": frame(write_checksum=True),
    "no size": frame(write_content_size=False),
    "two frames": good + good,
    "a byte behind": good + b"\0",
    "cut": good[:-1],
    "a skippable frame before": b"\x50\x2a\x4d\x18\1\0\0\0x" + good,
    "another length": header(len(data) + 1) + rle(len(data) + 1, 1),
    "more than it says": header(len(data)) + rle(100000, 0) * 50 + rle(1, 1),
    "a window of 16 MiB": header(len(data), 14 << 3) + rle(len(data), 1),
    "no frame": data,
    "nothing": b"",
    "a bomb": header(len(data)) + rle(131072, 0) * 100000 + rle(1, 1),
}
for name, b in bad.items():
    try:
        rescue.unzstd(b, len(data), "")
    except rescue.Damaged:
        continue
    print(name)
print("done")
`
	if res := command(t, nil, needPython(t), "-B", "-c", script); res.code != 0 || res.out != "done\n" {
		t.Errorf("taken: %v", res)
	}
}
