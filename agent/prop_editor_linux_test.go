package agent

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// editor changes a tree at random, as users and programs do over years.
type editor struct {
	t    testing.TB
	rng  *rand.Rand
	root string
	log  []string // what it did, for failures
	past []string // contents that were written, to have some again
	// inodes says that the file system's inode numbers can be relied on: without
	// them some edits cannot be noticed.
	inodes bool
}

// maxTree is the number of entries from which on the editor rather deletes.
const maxTree = 120

var oddNames = []string{
	"\xff\xfe\x80", "new\nline", " leading", "trailing ", "-rf", `back\slash`, ".hidden", "üñí", "u\u0308", "*",
	"a.", "a-", "a0", "...", "\x01", strings.Repeat("long", 63) + "xyz",
}

func (e *editor) name() string {
	if e.rng.IntN(4) == 0 {
		return oddNames[e.rng.IntN(len(oddNames))]
	}
	return string(rune('a' + e.rng.IntN(12)))
}

// list gives the entries below the root that want accepts.
func (e *editor) list(want func(fs.DirEntry) bool) (found []string) {
	err := filepath.WalkDir(e.root, func(p string, d fs.DirEntry, err error) error {
		if err == nil && p != e.root && want(d) {
			found = append(found, p)
		}
		return err
	})
	noErr(e.t, err)
	return found
}

func anyEntry(fs.DirEntry) bool { return true }
func isFile(d fs.DirEntry) bool { return d.Type().IsRegular() }
func isFolder(d fs.DirEntry) bool {
	return d.IsDir()
}

// one picks an entry, or gives "".
func (e *editor) one(want func(fs.DirEntry) bool) string {
	all := e.list(want)
	if len(all) == 0 {
		return ""
	}
	return all[e.rng.IntN(len(all))]
}

// folder picks a folder, the root included.
func (e *editor) folder() string {
	all := append(e.list(isFolder), e.root)
	return all[e.rng.IntN(len(all))]
}

// free is a path where nothing is.
func (e *editor) free() string {
	for try := 0; ; try++ {
		name := e.name()
		if try > 20 { // the few folders that there are may have them all
			name = fmt.Sprint("more ", try)
		}
		p := filepath.Join(e.folder(), name)
		if _, err := os.Lstat(p); err != nil && len(p) < 3000 {
			return p
		}
	}
}

// content is new, or one that was written before.
func (e *editor) content() string {
	if len(e.past) > 0 && e.rng.IntN(4) == 0 {
		return e.past[e.rng.IntN(len(e.past))]
	}
	n := 0
	switch e.rng.IntN(12) {
	case 0:
	case 1: // several chunks, with smallCut
		n = 64<<10 + e.rng.IntN(700<<10)
	case 2:
		n = 60<<10 + e.rng.IntN(8<<10) // about the chunker's minimum
	default:
		n = e.rng.IntN(3000)
	}
	s := noise(e.rng, n)
	if e.rng.IntN(2) == 0 {
		s = strings.Repeat("compressible ", n/13+1)[:n]
	}
	e.past = append(e.past, s)
	return s
}

// edit makes n changes.
func (e *editor) edit(n int) {
	for range n {
		ops := []func() string{
			e.create, e.create, e.create, e.mkdir, e.append, e.truncate, e.rewrite, e.patch, e.move, e.move, e.copyFile,
			e.remove, e.chmod, e.chown, e.xattr, e.hardLink, e.symlink, e.retarget, e.changeType, e.sparse, e.special, e.touch,
		}
		ops = append(ops, e.tricks()...)
		if len(e.list(anyEntry)) > maxTree {
			ops = []func() string{e.remove, e.removeDir}
		}
		if did := ops[e.rng.IntN(len(ops))](); did != "" {
			e.log = append(e.log, did)
		}
	}
}

func (e *editor) rel(p string) string { r, _ := filepath.Rel(e.root, p); return r }

func (e *editor) create() string {
	p, c := e.free(), e.content()
	noErr(e.t, os.WriteFile(p, []byte(c), 0o644))
	return fmt.Sprintf("create %q %d", e.rel(p), len(c))
}

func (e *editor) mkdir() string {
	p := e.free()
	noErr(e.t, os.Mkdir(p, 0o755))
	return fmt.Sprintf("mkdir %q", e.rel(p))
}

// open opens a file for writing, of whatever mode.
func (e *editor) open(p string, flags int) *os.File {
	f, err := os.OpenFile(p, flags, 0)
	if os.IsPermission(err) {
		noErr(e.t, os.Chmod(p, 0o600))
		f, err = os.OpenFile(p, flags, 0)
	}
	noErr(e.t, err)
	return f
}

func (e *editor) append() string {
	p := e.one(isFile)
	if p == "" {
		return ""
	}
	f := e.open(p, os.O_WRONLY|os.O_APPEND)
	defer f.Close()
	c := e.content()
	f.WriteString(c)
	return fmt.Sprintf("append %q %d", e.rel(p), len(c))
}

func (e *editor) truncate() string {
	p := e.one(isFile)
	if p == "" {
		return ""
	}
	f := e.open(p, os.O_WRONLY)
	defer f.Close()
	n := e.rng.Int64N(300 << 10)
	noErr(e.t, f.Truncate(n))
	return fmt.Sprintf("truncate %q %d", e.rel(p), n)
}

// maxRewrite keeps files that are all but holes from being filled.
const maxRewrite = 1 << 20

// rewrite changes content and puts size and modification time back.
func (e *editor) rewrite() string {
	p := e.one(isFile)
	if p == "" {
		return ""
	}
	fi, err := os.Lstat(p)
	noErr(e.t, err)
	f := e.open(p, os.O_WRONLY)
	f.WriteString(noise(e.rng, int(min(fi.Size(), maxRewrite))))
	f.Close()
	noErr(e.t, os.Chtimes(p, time.Time{}, fi.ModTime()))
	return fmt.Sprintf("rewrite %q", e.rel(p))
}

// patch changes a few bytes in the middle.
func (e *editor) patch() string {
	p := e.one(isFile)
	if p == "" {
		return ""
	}
	fi, err := os.Lstat(p)
	noErr(e.t, err)
	f := e.open(p, os.O_WRONLY)
	defer f.Close()
	at := e.rng.Int64N(fi.Size() + 1)
	f.WriteAt([]byte(noise(e.rng, 1+e.rng.IntN(20))), at)
	return fmt.Sprintf("patch %q at %d", e.rel(p), at)
}

func (e *editor) move() string {
	from, to := e.one(anyEntry), e.free()
	if from == "" || strings.HasPrefix(to, from+"/") {
		return ""
	}
	noErr(e.t, os.Rename(from, to))
	return fmt.Sprintf("move %q to %q", e.rel(from), e.rel(to))
}

func (e *editor) copyFile() string {
	from, to := e.one(isFile), e.free()
	if from == "" {
		return ""
	}
	f := e.open(from, os.O_RDONLY)
	defer f.Close()
	fi, err := f.Stat()
	noErr(e.t, err)
	b := make([]byte, min(fi.Size(), maxRewrite))
	f.ReadAt(b, 0)
	noErr(e.t, os.WriteFile(to, b, 0o600))
	return fmt.Sprintf("copy %q to %q", e.rel(from), e.rel(to))
}

func (e *editor) remove() string {
	p := e.one(func(d fs.DirEntry) bool { return !d.IsDir() })
	if p == "" {
		return ""
	}
	noErr(e.t, os.Remove(p))
	return fmt.Sprintf("remove %q", e.rel(p))
}

func (e *editor) removeDir() string {
	p := e.one(isFolder)
	if p == "" {
		return ""
	}
	noErr(e.t, os.RemoveAll(p))
	return fmt.Sprintf("remove folder %q", e.rel(p))
}

func (e *editor) chmod() string {
	p := e.one(func(d fs.DirEntry) bool { return d.Type()&fs.ModeSymlink == 0 })
	if p == "" {
		return ""
	}
	fi, err := os.Lstat(p)
	noErr(e.t, err)
	mode := uint32(e.rng.IntN(0o10000))
	if fi.IsDir() && os.Getuid() != 0 {
		mode |= 0o700
	} else if os.Getuid() != 0 {
		mode |= 0o400
	}
	noErr(e.t, unix.Chmod(p, mode))
	return fmt.Sprintf("chmod %q %o", e.rel(p), mode)
}

func (e *editor) chown() string {
	p := e.one(anyEntry)
	if p == "" || os.Getuid() != 0 {
		return ""
	}
	uid, gid := e.rng.IntN(3)*1000, e.rng.IntN(70000)
	noErr(e.t, os.Lchown(p, uid, gid))
	return fmt.Sprintf("chown %q %d:%d", e.rel(p), uid, gid)
}

// xattr sets or removes an attribute, of a file or folder that takes any.
func (e *editor) xattr() string {
	p := e.one(func(d fs.DirEntry) bool { return isFile(d) || d.IsDir() })
	if p == "" {
		return ""
	}
	name := "user." + string(rune('a'+e.rng.IntN(3)))
	if e.rng.IntN(3) == 0 {
		unix.Lremovexattr(p, name)
		return fmt.Sprintf("remove attribute %q %s", e.rel(p), name)
	}
	n := []int{0, 10, 100, 1000}[e.rng.IntN(4)]
	if err := unix.Lsetxattr(p, name, []byte(noise(e.rng, n)), 0); err != nil {
		return ""
	}
	return fmt.Sprintf("set attribute %q %s %d", e.rel(p), name, n)
}

func (e *editor) hardLink() string {
	from, to := e.one(func(d fs.DirEntry) bool { return !d.IsDir() }), e.free()
	if from == "" {
		return ""
	}
	if err := unix.Linkat(unix.AT_FDCWD, from, unix.AT_FDCWD, to, 0); err != nil {
		return "" // not of others' files, for a user
	}
	return fmt.Sprintf("link %q to %q", e.rel(from), e.rel(to))
}

func (e *editor) symlink() string {
	p := e.free()
	noErr(e.t, os.Symlink(e.linkTarget(), p))
	return fmt.Sprintf("symlink %q", e.rel(p))
}

func (e *editor) linkTarget() string {
	return []string{"/", ".", "..", "nowhere", "\xff", "../../../../etc/passwd", e.name(), strings.Repeat("x/", 1500)}[e.rng.IntN(8)]
}

func (e *editor) retarget() string {
	p := e.one(func(d fs.DirEntry) bool { return d.Type()&fs.ModeSymlink != 0 })
	if p == "" {
		return ""
	}
	noErr(e.t, os.Remove(p))
	noErr(e.t, os.Symlink(e.linkTarget(), p))
	return fmt.Sprintf("retarget %q", e.rel(p))
}

// changeType makes another kind of entry of one: a folder of a file with the
// same name, and so on.
func (e *editor) changeType() string {
	p := e.one(anyEntry)
	if p == "" {
		return ""
	}
	fi, err := os.Lstat(p)
	noErr(e.t, err)
	noErr(e.t, os.RemoveAll(p))
	switch {
	case fi.IsDir():
		noErr(e.t, os.WriteFile(p, []byte(e.content()), 0o644))
	case e.rng.IntN(3) == 0:
		noErr(e.t, os.Symlink(e.linkTarget(), p))
	default:
		noErr(e.t, os.Mkdir(p, 0o755))
		for range e.rng.IntN(4) {
			os.WriteFile(filepath.Join(p, e.name()), []byte(e.content()), 0o644)
		}
	}
	return fmt.Sprintf("change type of %q, which was %s", e.rel(p), fi.Mode())
}

// sparse makes a file with holes, or digs one.
func (e *editor) sparse() string {
	p := e.one(isFile)
	if p == "" || e.rng.IntN(2) == 0 {
		p = e.free()
		noErr(e.t, os.WriteFile(p, nil, 0o644))
	}
	f := e.open(p, os.O_RDWR)
	defer f.Close()
	at := e.rng.Int64N(1 << 30)
	f.WriteAt([]byte(e.content()), at)
	if e.rng.IntN(2) == 0 {
		unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, e.rng.Int64N(at+1), 1<<20)
	}
	if e.rng.IntN(2) == 0 {
		f.Truncate(at + e.rng.Int64N(1<<30))
	}
	return fmt.Sprintf("sparse %q", e.rel(p))
}

func (e *editor) special() string {
	p := e.free()
	noErr(e.t, unix.Mkfifo(p, 0o600))
	return fmt.Sprintf("fifo %q", e.rel(p))
}

// touch sets a time of any age.
func (e *editor) touch() string {
	p := e.one(anyEntry)
	if p == "" {
		return ""
	}
	ts := unix.Timespec{Sec: e.rng.Int64N(1<<33) - 1<<31, Nsec: e.rng.Int64N(1e9)}
	noErr(e.t, unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
	return fmt.Sprintf("touch %q %d", e.rel(p), ts.Sec)
}

// did is all that was done, for a failure's report.
func (e *editor) did() string {
	var b bytes.Buffer
	for _, l := range e.log {
		fmt.Fprintln(&b, "  ", l)
	}
	return b.String()
}
