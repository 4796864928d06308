//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

// Ways to break what is tested.
const (
	brokenSync  = "sync"
	brokenFlush = "flush"
)

// options are the flags.
type options struct {
	cuts, images, life  int
	seed                uint64
	fs                  []string
	broken              string
	agent, kernel, work string
}

func (o options) initramfs() string { return filepath.Join(o.work, "initramfs") }

// run is a series of cuts of one disk after the other.
type series struct {
	options
	check *checker
	pace  pace
	r     *rand.Rand
	disks int // images that were checked
}

// world is a disk and what must be on it.
type world struct {
	fs    string
	model *model
}

func (s *series) path(name string) string { return filepath.Join(s.work, name) }

// kept is what a failure keeps beside the disk.
type kept struct {
	FS    string `json:"fs"`
	Model *model `json:"model"`
}

// errLoss is a disk on which something is wrong.
var errLoss = errors.New("a power cut did damage")

// cutAll makes the cuts. With something broken it is an error if no loss is found.
func cutAll(o options) error {
	check, err := newChecker(o.work, o.agent)
	if err != nil {
		return err
	}
	if err := writeInitramfs(o.initramfs(), o); err != nil {
		return err
	}
	s := &series{options: o, check: check, pace: pace{}, r: rand.New(rand.NewPCG(o.seed, 0))}
	start := time.Now()
	var w *world
	for n := range o.cuts {
		if n%o.life == 0 {
			if w, err = s.begin(n / o.life); err != nil {
				return err
			}
		}
		err := s.cut(n, w)
		if errors.Is(err, errLoss) && o.broken != "" {
			fmt.Printf("found, as it must be with %s broken, at cut %d: %v\n", o.broken, n, err)
			return nil
		} else if err != nil {
			return err
		}
	}
	if o.broken != "" {
		return fmt.Errorf("no loss was found in %d cuts, although %s is broken", o.cuts, o.broken)
	}
	fmt.Printf("powercut: %d cuts and %d disks in %.0f s, seed %d: nothing was lost\n", o.cuts, s.disks, time.Since(start).Seconds(), o.seed)
	return nil
}

// begin makes the disk of a number.
func (s *series) begin(number int) (*world, error) {
	w := &world{s.fs[number%len(s.fs)], newModel(s.seed + uint64(number))}
	if err := fileSystems[w.fs].newDisk(s.path("disk")); err != nil {
		return nil, err
	}
	return w, s.check.begin(s.path("disk"), w.fs)
}

// cut boots the world's disk, cuts the power, and checks what is left, and what a
// drive could have left.
func (s *series) cut(n int, w *world) error {
	start := time.Now()
	if err := copyDisk(s.path("disk"), s.path("base")); err != nil {
		return err
	}
	os.Remove(s.path("console"))
	c := guestConfig{w.model.Seed, w.fs, s.broken, w.model.State + 1, fileSystems[w.fs].mark()}
	m := s.pace.choose(s.r)
	before := w.model.clone()
	v, err := startVM(s.options, c, s.path("disk"), s.path("writes"), s.path("console"))
	if err != nil {
		return err
	}
	if err := s.wait(v, w.model, m); err != nil {
		v.cut()
		return s.loss(n, "the guest", "disk", w, err)
	}
	for _, e := range v.cut() {
		w.model.tell(e)
	}
	ran := time.Since(start)
	if err := copyDisk(s.path("disk"), s.path("image")); err != nil {
		return err
	}
	listed, err := s.look(n, "the disk as the cut left it", w)
	if err != nil {
		return err
	}
	if err := s.drives(n, &world{w.fs, before}); err != nil {
		return err
	}
	w.model.settle(listed)
	fmt.Printf("cut %d, %s: %v, state %d, %d points; ran %.1f s, checked in %.1f s\n",
		n, w.fs, m, w.model.State, len(listed), ran.Seconds(), (time.Since(start) - ran).Seconds())
	return nil
}

// wait waits for the moment. It is an error if a command of the guest's failed.
func (s *series) wait(v *vm, model *model, m moment) error {
	var timer <-chan time.Time
	boot := time.After(bootTime)
	last, since := booting, time.Now()
	see := func(e event) {
		if e.What == m.what {
			if m.nth--; m.nth == 0 {
				timer = time.After(m.delay)
			}
		}
	}
	see(event{What: booting})
	for {
		select {
		case <-timer:
			return nil
		case <-boot:
			return fmt.Errorf("nothing was heard for %v", bootTime)
		case e, ok := <-v.events:
			if !ok {
				return errors.New("the emulator ended by itself, see its console")
			}
			if e.What == failed {
				return fmt.Errorf("at state %d: %s", e.State, e.Note)
			}
			boot = time.After(bootTime)
			s.pace.see(last, time.Since(since))
			last, since = e.What, time.Now()
			model.tell(e)
			see(e)
		}
	}
}

// drives makes disks from the log of the writes, and checks them. The world is that
// of before the boot.
func (s *series) drives(n int, before *world) error {
	f, err := os.Open(s.path("writes"))
	if err != nil {
		return err
	}
	defer f.Close()
	fs := fileSystems[before.fs]
	log, err := readLog(f, fs.disk())
	if err != nil || len(log) == 0 {
		return err
	}
	for i := range s.images {
		at := s.place(log, fs.mark())
		if err := s.drive(log, at); err != nil {
			return err
		}
		w := &world{before.fs, before.model.clone()}
		for _, e := range eventsOf(log, at, fs.mark()) {
			w.model.tell(e)
		}
		what := fmt.Sprintf("disk %d from the log, cut after %d of %d writes", i, at, len(log))
		if _, err := s.look(n, what, w); err != nil {
			return err
		}
	}
	return nil
}

// place chooses after how many writes of a log the power is cut: anywhere, or soon
// after an event, when what is missing is missed.
func (s *series) place(log []write, mark int64) int {
	at := 1 + s.r.IntN(len(log))
	if s.r.IntN(2) == 0 {
		return at
	}
	for i := at - 1; i < len(log); i++ {
		if log[i].off == mark && len(log[i].data) > 0 {
			return min(i+1+s.r.IntN(3), len(log))
		}
	}
	return at
}

// drive makes the image.
func (s *series) drive(log []write, at int) error {
	if err := copyDisk(s.path("base"), s.path("image")); err != nil {
		return err
	}
	f, err := os.OpenFile(s.path("image"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return replay(f, log, at, s.r)
}

// look checks the image.
func (s *series) look(n int, what string, w *world) (map[string]int, error) {
	s.disks++
	if err := copyDisk(s.path("image"), s.path("checked")); err != nil {
		return nil, err
	}
	listed, err := s.check.check(s.path("checked"), w.fs, w.model)
	if err != nil {
		return nil, s.loss(n, what, "image", w, err)
	}
	return listed, nil
}

// loss keeps the disk that is named, for checkKept, and says what is wrong.
func (s *series) loss(n int, what, disk string, w *world, err error) error {
	dir := s.path(fmt.Sprintf("failure-%d", n))
	kerr := os.MkdirAll(dir, 0o755)
	for _, name := range []string{disk, "base", "writes", "console"} {
		if _, serr := os.Stat(s.path(name)); serr == nil {
			kerr = errors.Join(kerr, copyDisk(s.path(name), filepath.Join(dir, name)))
		}
	}
	if disk != "image" {
		kerr = errors.Join(kerr, os.Rename(filepath.Join(dir, disk), filepath.Join(dir, "image")))
	}
	b, merr := json.Marshal(kept{w.fs, w.model})
	kerr = errors.Join(kerr, merr, os.WriteFile(filepath.Join(dir, "model.json"), b, 0o600))
	if kerr != nil {
		dir += fmt.Sprintf(" (not all: %v)", kerr)
	}
	return fmt.Errorf("%w: seed %d, cut %d, %s, %s: %w; kept in %s", errLoss, s.seed, n, w.fs, what, err, dir)
}

// checkKept checks again what a failure kept.
func checkKept(o options, dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, "model.json"))
	if err != nil {
		return err
	}
	var k kept
	if err := json.Unmarshal(b, &k); err != nil {
		return err
	}
	check, err := newChecker(o.work, o.agent)
	if err != nil {
		return err
	}
	disk := filepath.Join(o.work, "checked")
	if err := copyDisk(filepath.Join(dir, "image"), disk); err != nil {
		return err
	}
	if _, err := check.check(disk, k.FS, k.Model); err != nil {
		return err
	}
	fmt.Println("nothing is wrong with this disk")
	return nil
}
