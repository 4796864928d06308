package agent

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tharsis-backup/tharsis/agent/source"
	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// The source changes while a job reads it: a pattern of change, at a chosen step of
// the reading. Whatever it is, the job ends as it should, the point holds of each
// file a state that it had since the walk met it, or says that it does not, and the
// next job sees the truth. The one thing that nobody can see is a change of content
// that leaves size, mtime and ctime as they are: within one tick of the file
// system's clock, or by a mapping whose times the kernel sets later. What a job read
// in such a tick counts as racy, and the next one reads it again.

// movingMoment is a step of the reading, the nth of its kind.
type movingMoment struct {
	op   source.Op
	path string // relative to the source, "." for itself
	nth  int
}

// movingPattern is one way in which the source changes.
type movingPattern struct {
	name  string
	on    string // "file", "folder", "link" or "root": what changes
	do    func(*moving)
	swap  bool          // it bites between the look at a name and its opening, and not within the reading
	again bool          // at each such step and not only once
	root  bool          // only root can do it
	heal  func(*moving) // before the next job, where the source is no source any more
}

// moving is a source that changes at a moment, and what it looked like.
type moving struct {
	*rig
	pattern movingPattern
	at      movingMoment
	outside string // beside the source: what must not be read
	away    string // beside the source: what may be
	size    int    // of the file that changes
	rng     *rand.Rand

	mu     sync.Mutex
	base   map[string]string   // states of the base point, by path
	states []map[string]string // since the job began, after each change
	met    map[string]int      // how many states there were when a name was looked at
	steps  int                 // of the moment's kind
}

const (
	movingSmall = 3000      // one chunk
	movingLarge = 300 << 10 // several, with smallCut
	// movingTick is longer than a tick of any clock that file systems go by.
	movingTick   = 12 * time.Millisecond
	movingSecret = "nobody may read this "
)

// movingMoments are those of a job at which what changes is about to be read, is
// being read, or was.
func movingMoments(on string, size int) []movingMoment {
	last := 0 // a small file is read in halves, down to one byte
	for n := size; n > 0; n -= (n + 1) / 2 {
		last++
	}
	if size == movingLarge {
		last = 15
	}
	parent := []movingMoment{{source.OpListed, "a", 1}, {source.OpStatted, "a/f", 1}}
	file := []movingMoment{
		{source.OpOpened, "a/f", 1}, {source.OpRead, "a/f", 1}, {source.OpRead, "a/f", last},
		{source.OpChecked, "a/f", 1}, {source.OpAttrs, "a/f", 1}, {source.OpClosed, "a/f", 1},
	}
	switch on {
	case "file":
		return append(parent, file...)
	case "folder":
		return append([]movingMoment{{source.OpListed, ".", 1}, {source.OpStatted, "a", 1}, {source.OpAttrs, "a", 1}}, append(parent, file...)...)
	case "link":
		return []movingMoment{{source.OpListed, "a", 1}, {source.OpStatted, "a/link", 1}, {source.OpAttrs, "a/link", 1}}
	}
	return append([]movingMoment{{source.OpListed, ".", 1}, {source.OpStatted, "a", 1}}, file[0], file[1], file[5])
}

// newMoving fills a source. With based, an earlier point has another content of it.
func newMoving(t *testing.T, p movingPattern, at movingMoment, size int, based bool) *moving {
	m := &moving{
		rig: newRig(t), pattern: p, at: at, size: size, rng: rand.New(rand.NewPCG(91, uint64(size))), met: map[string]int{},
	}
	m.outside, m.away = filepath.Join(m.dir, "outside"), filepath.Join(m.dir, "away")
	secret := strings.Repeat(movingSecret, m.size/len(movingSecret)+1)
	for _, f := range []string{"f", "secret", "sub/x"} {
		p := filepath.Join(m.outside, f)
		noErr(t, os.MkdirAll(filepath.Dir(p), 0o755))
		noErr(t, os.WriteFile(p, []byte(secret), 0o644))
		unix.Setxattr(p, "user.secret", []byte(movingSecret), 0)
	}
	unix.Setxattr(m.outside, "user.secret", []byte(movingSecret), 0)
	noErr(t, os.Mkdir(m.away, 0o755))
	for _, f := range []string{"a/before", "a/sub/x", "b/other", "z/last"} {
		m.write(f, "content of "+f)
	}
	m.write("a/f", m.fresh(size))
	noErr(t, os.Symlink("before", m.p("a/link")))
	unix.Setxattr(m.p("a/f"), "user.was", []byte("here"), 0)
	if based {
		m.clean()
		m.base = movingScan(t, m.src)
		time.Sleep(movingTick)
		m.write("a/f", m.fresh(size))
		noErr(t, os.Remove(m.p("a/link")))
		noErr(t, os.Symlink("f", m.p("a/link")))
	}
	return m
}

func (m *moving) p(name string) string { return filepath.Join(m.src, name) }

// fresh is content that nobody saw yet.
func (m *moving) fresh(n int) string { return noise(m.rng, n) }

// hook changes the source when the moment is there.
func (m *moving) hook(s source.Step) {
	m.mu.Lock()
	defer m.mu.Unlock()
	path, _ := filepath.Rel(m.src, s.Path)
	if _, ok := m.met[path]; !ok && s.Op == source.OpStatted {
		m.met[path] = len(m.states) - 1
	}
	if s.Op != m.at.op || path != m.at.path {
		return
	}
	if m.steps++; m.steps == m.at.nth || m.steps > m.at.nth && m.pattern.again {
		m.change()
	}
}

func (m *moving) change() {
	time.Sleep(movingTick)
	m.pattern.do(m)
	m.states = append(m.states, movingScan(m.t, m.src))
}

// movingScan describes what is below dir, or is dir itself, by path.
func movingScan(t testing.TB, dir string) map[string]string {
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		what := fmt.Sprintf("%s of %s", fi.Mode(), fi.ModTime())
		switch e.Type() {
		case 0:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			what = fmt.Sprintf("%d bytes %x, %s", len(data), sha256.Sum256(data), what)
		case fs.ModeSymlink:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			what = "link to " + to // its time may be that of the one before it
		case fs.ModeSocket:
			return nil // it is no entry
		}
		rel, err := filepath.Rel(dir, path)
		all[rel] = what
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	return all
}

// run is one case. It tells whether the moment came.
func (m *moving) run() bool {
	watch := newWatch(m.t, m.outside)
	m.states = []map[string]string{movingScan(m.t, m.src)}
	m.env.hook = m.hook
	var res BackupResult
	err := faultWatch(m.t, "the job", func() (err error) {
		res, err = m.try(m.t.Context(), BackupOptions{AcceptSources: []string{m.src}})
		return err
	})
	m.env.hook = nil
	notes := m.notes.String()
	switch {
	case err == nil:
		m.holds(res.Point)
	case m.pattern.on != "root" || !errors.Is(err, ErrAllFailed):
		m.t.Errorf("the job: %v: %s", err, notes)
	}
	if read := watch.close(); read != "" {
		m.t.Errorf("outside of the source %s was read", read)
	}
	if m.pattern.heal != nil {
		m.pattern.heal(m)
	}
	next := m.accepted()
	m.restored(next.Point)
	m.isFullScan(next.Point)
	if m.t.Failed() {
		m.t.Logf("the job that saw it said: %s", notes)
	}
	return m.steps >= m.at.nth
}

// holds checks what the point says of each path.
func (m *moving) holds(point string) {
	said := &noteBook{list: slices.Clone(m.notes.list)} // the restore has others
	entries := m.entries(point)
	dir := m.restore(point)
	defer removeAll(dir)
	root := filepath.Join(dir, m.src)
	got := movingScan(m.t, root)
	for path, is := range got {
		switch e := entries[strings.TrimPrefix(path, ".")]; {
		case e.Flags&manifest.FlagUnstable != 0:
			m.warned(said, path, "is unstable")
		case e.Flags&manifest.FlagStale != 0:
			m.warned(said, path, "is stale")
			if is != m.base[path] {
				m.t.Errorf("%s is stale, and %s, not %s", path, is, m.base[path])
			}
		case !slices.ContainsFunc(m.states[m.since(path):], func(s map[string]string) bool { return s[path] == is }):
			m.t.Errorf("%s is %s, which it never was since the walk met it", path, is)
		}
	}
	for path := range m.states[0] {
		always := !slices.ContainsFunc(m.states, func(s map[string]string) bool { return s[path] == "" })
		if _, ok := got[path]; !always || ok {
			continue
		}
		m.warned(said, path, "is missing")
		if m.base[path] != "" && m.pattern.on == "file" {
			m.t.Errorf("%s is missing, and the base has it", path)
		}
	}
	for path, e := range entries {
		if bytes.Contains(e.Xattrs, []byte(movingSecret)) {
			m.t.Errorf("%s has an attribute of what lies outside of the source", path)
		}
	}
	noErr(m.t, filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil || bytes.Contains(data, []byte(movingSecret)) {
				m.t.Errorf("%s holds what lies outside of the source: %v", path, err)
			}
		}
		return err
	}))
}

// since is the first state that a point may show of a path: what the walk met. In a
// folder that goes elsewhere while it is read it is what was there before.
func (m *moving) since(path string) int {
	if m.pattern.on == "folder" || m.pattern.on == "root" {
		return 0
	}
	return m.met[path]
}

// warned demands a warning about a path, or about a folder above it. What vanishes
// with its folder, in whose place there may be another with such a name by now, is
// only noted.
func (m *moving) warned(said *noteBook, path, what string) {
	for up := path; ; up = filepath.Dir(up) {
		if said.has(Warning, m.p(up), "") || m.pattern.on == "folder" && said.has(Info, m.p(up), "vanished") {
			return
		}
		if up == "." {
			break
		}
	}
	m.t.Errorf("%s %s without a warning: %s", path, what, said)
}

// movingCase is one case of TestFaultSourceChanges.
type movingCase struct {
	p     movingPattern
	at    movingMoment
	size  int
	based bool
}

// movingCases are all cases, and those of them in which each pattern bites most.
func movingCases() (all []movingCase, best []int) {
	for i, p := range movingPatterns {
		bite := movingMoment{source.OpRead, "a/f", 1}
		switch {
		case p.on == "link":
			bite = movingMoment{source.OpStatted, "a/link", 1}
		case p.on == "folder" && p.swap:
			bite = movingMoment{source.OpStatted, "a", 1}
		case p.swap || p.on == "folder":
			bite = movingMoment{source.OpStatted, "a/f", 1}
		}
		for s, size := range []int{movingSmall, movingLarge} {
			for _, at := range movingMoments(p.on, size) {
				for b, based := range []bool{true, false} {
					if at == bite && s == i%2 && b == i/2%2 {
						best = append(best, len(all))
					}
					all = append(all, movingCase{p, at, size, based})
				}
			}
		}
	}
	return all, best
}

// TestFaultSourceChanges lets the source change in each way at each step; a plain
// run takes the step at which a pattern bites most, and a few more.
func TestFaultSourceChanges(t *testing.T) {
	all, chosen := movingCases()
	chosen = append(chosen, faultSample(len(all), 10)...)
	slices.Sort(chosen)
	chosen = slices.Compact(chosen)
	t.Logf("%d cases of %d, %d patterns", len(chosen), len(all), len(movingPatterns))
	for _, i := range chosen {
		c := all[i]
		t.Run(fmt.Sprintf("%s/%s, %d bytes, based %v, %s of %s %d", c.p.on, c.p.name, c.size, c.based, c.at.op, c.at.path, c.at.nth), func(t *testing.T) {
			t.Parallel()
			if c.p.root && os.Geteuid() != 0 {
				t.Skip("needs root")
			}
			m := newMoving(t, c.p, c.at, c.size, c.based)
			if !m.run() {
				t.Errorf("there were only %d steps", m.steps)
			}
		})
	}
}

// watch tells whether something below a folder is opened or read.
type watch struct {
	fd    int
	names map[int32]string
}

func newWatch(t testing.TB, dir string) *watch {
	w := &watch{names: map[int32]string{}}
	var err error
	w.fd, err = unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	noErr(t, err)
	noErr(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			var wd int
			wd, err = unix.InotifyAddWatch(w.fd, path, unix.IN_OPEN|unix.IN_ACCESS)
			w.names[int32(wd)] = path
		}
		return err
	}))
	// The walk itself opened folders: what is known by now does not count.
	unix.Read(w.fd, make([]byte, 64<<10))
	return w
}

// close ends it and names what was read, or gives "".
func (w *watch) close() string {
	defer unix.Close(w.fd)
	buf := make([]byte, 64<<10)
	n, err := unix.Read(w.fd, buf)
	if err != nil || n < unix.SizeofInotifyEvent {
		return ""
	}
	wd := int32(uint32(buf[0]) | uint32(buf[1])<<8 | uint32(buf[2])<<16 | uint32(buf[3])<<24)
	return w.names[wd]
}

// A file that grows or shrinks once while it is read, at any step, is stored as it
// then is: the try that finds it at rest must not go by the size, or the holes, that
// it had when it was opened.
func TestSizeChangesOnceWhileRead(t *testing.T) {
	rng := rand.New(rand.NewPCG(81, 82))
	content := noise(rng, 600<<10)
	for _, was := range []int{20 << 10, 300 << 10} { // one chunk, several
		for _, is := range []int{10 << 10, 100 << 10, 600 << 10} {
			for _, op := range []source.Op{source.OpStatted, source.OpOpened, source.OpRead, source.OpChecked} {
				t.Run(fmt.Sprintf("%d to %d when %s", was, is, op), func(t *testing.T) {
					r := newRig(t)
					p := r.write("f", content[:was])
					var once sync.Once
					r.env.hook = func(s source.Step) {
						if s.Op == op && s.Path == p {
							once.Do(func() { noErr(t, os.WriteFile(p, []byte(content[:is]), 0o644)) })
						}
					}
					res := r.clean()
					r.env.hook = nil
					if op != source.OpChecked || was >= int(smallCut.Min) { // else it was read
						same(t, p, filepath.Join(r.restore(res.Point), p))
					}
					r.restored(r.clean().Point)
				})
			}
		}
	}
}

// What a job remembers of a file with several names is its content as long as it
// does not change: a name that the walk meets after a change is read again.
func TestLinkChangesBetweenItsNames(t *testing.T) {
	r := newRig(t)
	rng := rand.New(rand.NewPCG(83, 84))
	old, changed := noise(rng, movingLarge), noise(rng, movingLarge)
	first := r.write("a/first", old) // large: read while the walk goes on
	second := filepath.Join(r.src, "b", "second")
	noErr(t, os.Mkdir(filepath.Dir(second), 0o755))
	noErr(t, os.Link(first, second))
	read := make(chan struct{})
	var once sync.Once
	r.env.hook = func(s source.Step) {
		switch {
		case s.Op == source.OpClosed && s.Path == first:
			once.Do(func() {
				time.Sleep(movingTick)
				if err := os.WriteFile(first, []byte(changed), 0o644); err != nil {
					t.Error(err)
				}
				close(read)
			})
		case s.Op == source.OpListed && s.Path == filepath.Dir(second):
			<-read
		}
	}
	var res BackupResult
	noErr(t, faultWatch(t, "the job", func() (err error) {
		res, err = r.try(t.Context(), BackupOptions{})
		return err
	}))
	r.env.hook = nil
	dir := r.restore(res.Point)
	for path, want := range map[string]string{first: old, second: changed} {
		if got, err := os.ReadFile(filepath.Join(dir, path)); err != nil || string(got) != want {
			t.Errorf("%s does not hold what the walk met: %v", path, err)
		}
	}
	r.restored(r.clean().Point)
}
