package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/tharsis-backup/tharsis/internal/disk"
	"github.com/tharsis-backup/tharsis/internal/durable"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/backend/fault"
)

// diskErrors are what a disk says that breaks, that a quota says, and that a disk
// says that is full.
var diskErrors = []syscall.Errno{syscall.EIO, syscall.EDQUOT, syscall.ENOSPC}

// faultDisk lets calls that change a world's files, and those of a restore's
// target, fail. It keeps the file of every failed sync open, so that its inode
// number stays its own, and notes one that is synced again: the kernel may have
// dropped what could not be written, and a second sync would succeed without it.
type faultDisk struct {
	fails func(n int, c disk.Call) error // nil: none

	mu     sync.Mutex // guards what follows
	calls  []disk.Call
	failed []disk.Call
	first  int // number of the first that failed
	lost   map[faultInode]*os.File
	puts   map[string]error // what the last Put of each object gave
	again  []string         // files synced again after a failed sync
}

type faultInode struct{ dev, ino uint64 }

// watch sets the hook for a world. Nothing else in the process may use it meanwhile.
func (d *faultDisk) watch(w *faultWorld) (stop func()) {
	dir := filepath.Dir(w.home) + string(filepath.Separator)
	d.lost, d.puts = map[faultInode]*os.File{}, map[string]error{}
	w.wrap = func(b backend.Backend) backend.Backend { return notedPuts{b, d} }
	restore := disk.SetHook(func(c disk.Call) error {
		if filepath.IsAbs(c.Path) && !strings.HasPrefix(c.Path, dir) {
			return nil
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		n := len(d.calls)
		d.calls = append(d.calls, disk.Call{Op: c.Op, Path: strings.TrimPrefix(c.Path, dir)})
		if c.Op == disk.OpSync && d.lost[inodeOf(c.File)] != nil {
			d.again = append(d.again, c.Path)
		}
		if d.fails == nil {
			return nil
		}
		err := d.fails(n, c)
		if err != nil {
			if d.failed == nil {
				d.first = n
			}
			d.failed = append(d.failed, d.calls[n])
			d.keep(c)
		}
		return err
	})
	return func() {
		restore()
		w.wrap = nil
		for _, f := range d.lost {
			f.Close()
		}
	}
}

// keep notes the file of a failed sync. A folder is another matter: its names are
// in the file system's own journal, of which a sync says at any time how it is.
func (d *faultDisk) keep(c disk.Call) {
	if c.Op != disk.OpSync {
		return
	}
	if info, err := c.File.Stat(); err != nil || !info.Mode().IsRegular() {
		return
	}
	if fd, err := syscall.Dup(int(c.File.Fd())); err == nil {
		d.lost[inodeOf(c.File)] = os.NewFile(uintptr(fd), c.Path)
	}
}

func inodeOf(f *os.File) (i faultInode) {
	if info, err := f.Stat(); err == nil {
		st := info.Sys().(*syscall.Stat_t)
		i = faultInode{st.Dev, st.Ino}
	}
	return i
}

// notedPuts is a backend whose Puts are noted.
type notedPuts struct {
	backend.Backend
	d *faultDisk
}

func (b notedPuts) Put(ctx context.Context, name string, body io.ReaderAt, size int64) error {
	err := b.Backend.Put(ctx, name, body, size)
	b.d.mu.Lock()
	defer b.d.mu.Unlock()
	b.d.puts[name] = err
	return err
}

// matters tells whether a command that says that all is well must be wrong, as a
// call failed. A failed Put is no matter where the object was put again, as the log
// does it: that is another file. A head of the log is
// needed for a point, that the home may know it for its own; a later one, or one of
// another command, only tells of a rollback sooner.
func (d *faultDisk) matters(command string) bool {
	for _, c := range d.failed {
		saved := func(e disk.Call) bool { return e.Op == disk.OpRename && strings.HasPrefix(e.Path, "home/heads/") }
		switch {
		case needless(c):
		case strings.HasPrefix(c.Path, "home/heads") &&
			(command == "key change" || slices.ContainsFunc(d.calls[:d.first], saved)):
		case strings.HasPrefix(c.Path, "vault/"):
			if len(d.puts) == 0 || slices.ContainsFunc(slices.Collect(maps.Values(d.puts)), func(err error) bool {
				return err != nil && !errors.Is(err, backend.ErrExists)
			}) {
				return true
			}
		default:
			return true
		}
	}
	return false
}

// needless tells whether a job may well succeed although a call failed: it was
// about derived data, or about taking away what nobody needs.
func needless(c disk.Call) bool {
	switch {
	case c.Op == disk.OpRemove:
		return true
	case strings.Contains(c.Path, "/cache/"):
		_, rest, _ := strings.Cut(c.Path, "/cache/")
		_, part, _ := strings.Cut(rest, "/") // behind the vault's ID
		ours := part == "journal" || strings.HasPrefix(part, "spool/") && !strings.HasPrefix(part, "spool/keep-")
		// Of what the job is based on, all that is closed was read back already. Where
		// the journal of a killed job cannot be gone on with, there is a new one.
		return !ours || c.Op == disk.OpClose || part == "journal" && (c.Op == disk.OpCreate || c.Op == disk.OpTruncate)
	case !strings.Contains(c.Path, "/"): // of a restore's target, which is compared
		return !slices.Contains([]disk.Op{disk.OpWrite, disk.OpTruncate, disk.OpClose}, c.Op)
	}
	return false
}

// left names the temporary files that are there after a command.
func (w *faultWorld) left(dirs ...string) (names []string) {
	for _, dir := range append(dirs, w.home, w.vault) {
		_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err == nil && !e.IsDir() && (durable.IsTemp(e.Name()) || filepath.Base(filepath.Dir(path)) == "spool" ||
				strings.HasPrefix(e.Name(), ".tharsis-") && strings.HasSuffix(e.Name(), ".tmp")) {
				names = append(names, path)
			}
			return nil
		})
	}
	return names
}

// diskFault is what goes wrong in one case.
type diskFault struct {
	at   int
	err  syscall.Errno
	rest bool // and from then on whatever needs room
}

func (f diskFault) String() string {
	if f.rest {
		return fmt.Sprintf("full from call %d on", f.at)
	}
	return fmt.Sprintf("call %d: %v", f.at, f.err)
}

// needsRoom are the calls that a full disk refuses.
var needsRoom = []disk.Op{disk.OpCreate, disk.OpWrite, disk.OpMkdir, disk.OpLink, disk.OpRename}

func (f diskFault) fails(n int, c disk.Call) error {
	if n == f.at || f.rest && n > f.at && slices.Contains(needsRoom, c.Op) {
		return f.err
	}
	return nil
}

// TestFaultDisk makes each call that changes a local file fail, one at a time, with
// each of the errors, and the disk be full from each call on: no command says that
// all is well when something that matters failed, its error is the disk's, no file
// is synced again after a failed sync, no temporary file stays, and plain commands
// go on with what was left.
//
// A plain run takes one case of each kind of call and place, and some more.
func TestFaultDisk(t *testing.T) {
	total, cases, failed := 0, 0, 0
	kinds := map[string]bool{}
	faultEach(t, func(ctx context.Context, c faultCommand, before *faultScript, _ int, _ []fault.Record) {
		calls := diskCalls(ctx, t, c, before)
		var all []diskFault
		for n := range calls {
			for _, errno := range diskErrors {
				all = append(all, diskFault{at: n, err: errno})
			}
			all = append(all, diskFault{at: n, err: syscall.ENOSPC, rest: true})
		}
		total += len(all)
		chosen := faultSample(len(all), 3)
		for n, c := range calls {
			if k := kindOf(c); !kinds[k] && len(chosen) < len(all) {
				kinds[k] = true
				chosen = append(chosen, n*len(diskErrors)+n+len(kinds)%(len(diskErrors)+1))
			}
		}
		for _, i := range chosen {
			cases++
			if diskCase(ctx, t, c, before, all[i]) {
				failed++
			}
		}
	})
	t.Logf("%d cases of %d, %d kinds of calls; the command failed in %d", cases, total, len(kinds), failed)
}

var randomNames = regexp.MustCompile(`[0-9a-f]{8,}|[0-9]+`)

// kindOf is a call without what is random in its path.
func kindOf(c disk.Call) string {
	dir, name := path.Split(c.Path)
	if strings.HasPrefix(name, "spool-") || strings.HasPrefix(name, "sort-") {
		name, _, _ = strings.Cut(name, "-")
	}
	return string(c.Op) + " " + randomNames.ReplaceAllString(dir+name, "#")
}

// diskCalls are the calls of a command when nothing goes wrong.
func diskCalls(ctx context.Context, t *testing.T, c faultCommand, before *faultScript) []disk.Call {
	s := before.fork("calls")
	defer s.drop()
	d := &faultDisk{}
	stop := d.watch(s.w)
	err := c.run(ctx, s)
	stop()
	if err != nil || s.wrong != nil {
		t.Fatalf("%s: %v, %v", c.name, err, s.wrong)
	}
	return d.calls
}

// diskCase runs a command in which a call fails, and plain commands after it. It
// tells whether the command failed.
func diskCase(ctx context.Context, t *testing.T, c faultCommand, before *faultScript, f diskFault) bool {
	s := before.fork("case")
	defer s.drop()
	d := &faultDisk{fails: f.fails}
	stop := d.watch(s.w)
	err := faultWatch(t, c.name, func() error { return c.run(ctx, s) })
	stop()
	what := fmt.Sprintf("%s, %s: %v", c.name, f, d.failed)
	switch {
	case err == nil && d.matters(c.name) && s.named == 0:
		t.Errorf("%s: the command says that all is well", what)
	case err != nil && !errors.Is(err, f.err):
		t.Errorf("%s: the command says: %v", what, err)
	}
	if len(d.again) > 0 {
		t.Errorf("%s: synced again after a failed sync: %v", what, d.again)
	}
	if d.failed != nil && d.failed[0].Op != disk.OpRemove {
		if left := s.w.left(filepath.Join(filepath.Dir(s.w.home), "restored")); left != nil {
			t.Errorf("%s: left behind: %v", what, left)
		}
	}
	if rerr := s.recovers(ctx); rerr != nil {
		t.Errorf("%s (%v): %v", what, err, rerr)
	}
	return err != nil
}
