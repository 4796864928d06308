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
func (o options) disk() string      { return filepath.Join(o.work, "disk") }

// series is a run of cuts, of one disk after the other.
type series struct {
	options
	check *checker
	pace  pace
	r     *rand.Rand // of moments
	made  chan error // the end of the cut's disks that are being made, beside the next cut
}

// world is a disk's file system and what must be on it.
type world struct {
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
	s := &series{options: o, check: check, pace: pace{}, r: rand.New(rand.NewPCG(o.seed, 0)), made: make(chan error, 1)}
	s.made <- nil
	start := time.Now()
	cuts, err := s.all()
	switch {
	case errors.Is(err, errLoss) && o.broken != "":
		fmt.Printf("powercut: found, as it must be with %s broken, at cut %d: %v\n", o.broken, cuts, err)
		return nil
	case err != nil:
		return err
	case o.broken != "":
		return fmt.Errorf("no loss was found in %d cuts, although %s is broken", o.cuts, o.broken)
	}
	fmt.Printf("powercut: %d cuts, %d disks and %d restores in %.0f s, seed %d: nothing was lost\n",
		o.cuts, check.disks, check.restored, time.Since(start).Seconds(), o.seed)
	return nil
}

// all makes the cuts, and tells how many there were.
func (s *series) all() (n int, err error) {
	var w *world
	for n < s.cuts && err == nil {
		if n%s.life == 0 {
			if w, err = s.begin(n / s.life); err != nil {
				break
			}
		}
		n++
		err = s.cut(n, w)
	}
	return n, errors.Join(err, <-s.made)
}

// begin makes the disk of a number, with a vault.
func (s *series) begin(number int) (*world, error) {
	w := &world{s.fs[number%len(s.fs)], newModel(s.seed + uint64(number))}
	if err := fileSystems[w.FS].newDisk(s.disk()); err != nil {
		return nil, err
	}
	return w, s.check.begin(s.disk(), w.FS)
}

// cut boots the world's disk, cuts the power, and checks what is left. Beside the
// next cut it checks what a drive could have left.
func (s *series) cut(n int, w *world) error {
	start := time.Now()
	c := &one{s, n, filepath.Join(s.work, fmt.Sprint("cut-", n)), rand.New(rand.NewPCG(s.seed, uint64(n)))}
	if err := os.Mkdir(c.dir, 0o755); err != nil {
		return err
	}
	if err := copyDisk(s.disk(), c.path("base")); err != nil {
		return err
	}
	before := &world{w.FS, w.Model.clone()}
	m, err := c.run(w)
	if err != nil {
		return err
	}
	ran := time.Since(start)
	if err := copyDisk(s.disk(), c.path("image")); err != nil {
		return err
	}
	listed, err := c.look("image", "the disk as the cut left it", w)
	if err != nil {
		return err
	}
	w.Model.settle(listed)
	fmt.Printf("cut %d, %s, %v: state %d, %d points; %.1f s, %.1f s of it until the cut\n",
		n, w.FS, m, w.Model.State, len(listed), time.Since(start).Seconds(), ran.Seconds())
	if err := <-s.made; err != nil {
		s.made <- nil
		return err
	}
	go func() { s.made <- c.drives(before) }()
	return nil
}

// checkKept checks again a disk that a failure kept.
func checkKept(o options, dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, "world.json"))
	if err != nil {
		return err
	}
	var w world
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	check, err := newChecker(o.work, o.agent)
	if err != nil {
		return err
	}
	if err := copyDisk(filepath.Join(dir, "image"), o.disk()); err != nil {
		return err
	}
	if _, err := check.check(o.disk(), w.FS, w.Model); err != nil {
		return err
	}
	fmt.Println("nothing is wrong with this disk")
	return nil
}
