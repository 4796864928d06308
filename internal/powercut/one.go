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

// one is one cut. Its files stay in its folder if something is wrong.
type one struct {
	*series
	n   int
	dir string
	r   *rand.Rand // of the disks made from the log
}

func (c *one) path(name string) string { return filepath.Join(c.dir, name) }

// errNoBoot is an emulator that never came to the disk.
var errNoBoot = errors.New("the guest did not boot")

// bootTries is how often a boot is tried: on a busy host the emulator's timers may
// be so late that the kernel gives up before it did anything.
const bootTries = 3

// run runs the guest until a moment, and takes in what it tells.
func (c *one) run(w *world) (m moment, err error) {
	m = c.pace.choose(c.series.r)
	g := guestConfig{w.Model.Seed, w.FS, c.broken, w.Model.State + 1, fileSystems[w.FS].mark()}
	for try := 1; ; try++ {
		v, err := startVM(c.options, g, c.disk(), c.path("writes"), c.path("console"))
		if err != nil {
			return m, err
		}
		err = c.wait(v, w.Model, m)
		for _, e := range v.cut() {
			w.Model.tell(e)
		}
		switch {
		case err == nil:
			return m, nil
		case errors.Is(err, errNoBoot) && try < bootTries:
		case errors.Is(err, errNoBoot):
			return m, fmt.Errorf("%w; see %s", err, c.path("console"))
		default:
			return m, c.loss("base", "the guest", w, err)
		}
	}
}

// wait waits for the moment. It is an error if a command of the guest's failed.
func (c *one) wait(v *vm, model *model, m moment) error {
	var timer <-chan time.Time
	see := func(what string) {
		if what == m.what {
			if m.nth--; m.nth == 0 {
				timer = time.After(m.delay)
			}
		}
	}
	last, since := booting, time.Now()
	see(last)
	for {
		silence := time.After(longSilence)
		select {
		case <-timer:
			return nil
		case <-silence:
			return fmt.Errorf("%w: nothing was heard for %v after '%s'", errNoBoot, longSilence, last)
		case e, ok := <-v.events:
			switch {
			case !ok:
				return fmt.Errorf("%w: the emulator ended after '%s'", errNoBoot, last)
			case e.What == failed:
				return fmt.Errorf("at state %d: %s", e.State, e.Note)
			}
			c.pace.see(last, time.Since(since))
			last, since = e.What, time.Now()
			model.tell(e)
			see(last)
		}
	}
}

// drives makes disks from the log of the writes, and checks them. The world is that
// of before the boot. Then the cut's files go.
func (c *one) drives(before *world) error {
	f, err := os.Open(c.path("writes"))
	if err != nil {
		return err
	}
	defer f.Close()
	fs := fileSystems[before.FS]
	log, err := readLog(f, fs.disk())
	if err != nil {
		return err
	}
	for i := range c.images {
		if len(log) == 0 {
			break // cut before the first write
		}
		at := placeIn(log, fs.mark(), c.r)
		image := fmt.Sprint("image-", i)
		if err := c.drive(image, log[:at]); err != nil {
			return err
		}
		w := &world{before.FS, before.Model.clone()}
		for _, e := range eventsOf(log[:at], fs.mark()) {
			w.Model.tell(e)
		}
		what := fmt.Sprintf("a drive's cache lost at write %d of %d", at, len(log))
		if _, err := c.look(image, what, w); err != nil {
			return err
		}
	}
	return os.RemoveAll(c.dir)
}

// drive makes the image.
func (c *one) drive(image string, log []write) error {
	if err := copyDisk(c.path("base"), c.path(image)); err != nil {
		return err
	}
	f, err := os.OpenFile(c.path(image), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return replay(f, log, c.r)
}

// look checks an image, of which it makes a copy first.
func (c *one) look(image, what string, w *world) (map[string]int, error) {
	copied := c.path(image + "-checked")
	if err := copyDisk(c.path(image), copied); err != nil {
		return nil, err
	}
	defer os.Remove(copied)
	listed, err := c.check.check(copied, w.FS, w.Model)
	if err != nil {
		return nil, c.loss(image, what, w, err)
	}
	return listed, nil
}

// loss says what is wrong, and notes for checkKept what an image had to hold.
func (c *one) loss(image, what string, w *world, err error) error {
	err = fmt.Errorf("%w: seed %d, cut %d, %s, %s: %w; kept in %s", errLoss, c.seed, c.n, w.FS, what, err, c.dir)
	b, merr := json.Marshal(w)
	if image != "image" {
		merr = errors.Join(merr, copyDisk(c.path(image), c.path("image")))
	}
	return errors.Join(err, merr, os.WriteFile(c.path("world.json"), b, 0o600))
}
