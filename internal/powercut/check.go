//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/tharsis-backup/tharsis/internal/treecmp"
)

// checker looks at disks. Its root is a folder in which the paths are those of the
// guest, so that the agent's home fits.
type checker struct {
	root  string
	trees string // expected trees, one folder for each seed and state

	mu              sync.Mutex // one disk at a time: they have the same UUIDs
	disks, restored int        // so far
}

// newChecker makes the folders.
func newChecker(work, agent string) (*checker, error) {
	c := &checker{root: filepath.Join(work, "root"), trees: filepath.Join(work, "trees")}
	for _, dir := range []string{c.trees, c.root + mountDirs[0], c.root + mountDirs[1], c.root + "/tmp"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	return c, command("cp", agent, c.root+agentPath)
}

// agent runs the agent in the checker's root.
func (c *checker) agent(args ...string) ([]byte, error) {
	cmd := exec.Command(agentPath, append([]string{"--json"}, args...)...)
	cmd.Path = agentPath
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: c.root}
	return runAgent(cmd)
}

// begin makes a vault on a disk, and an empty source.
func (c *checker) begin(disk, fs string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return mounted(disk, c.root, fs, func() error {
		if err := os.Mkdir(c.root+sourceDir, 0o755); err != nil {
			return err
		}
		_, err := c.agent("init", "--vault", vaultDir, "--generate-passphrase")
		return err
	})
}

// check looks whether a disk, which it changes, holds what the model says and
// whether the agent can go on with it. It returns the points that were on it.
func (c *checker) check(disk, fs string, m *model) (listed map[string]int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.disks++
	err = mounted(disk, c.root, fs, func() error {
		if err := nameDisk(c.root); err != nil {
			return err
		}
		if listed, err = c.points(); err != nil {
			return err
		}
		if wrong := m.compare(listed); wrong != "" {
			return errors.New(wrong)
		}
		for p := range listed {
			if err := c.restores(m, p, listed[p]); err != nil {
				return err
			}
		}
		if _, err := c.agent("verify", "--read-data"); err != nil {
			return err
		}
		return c.goesOn(m)
	})
	return listed, err
}

func (c *checker) points() (map[string]int, error) {
	out, err := c.agent("points")
	if err != nil {
		return nil, err
	}
	return pointsOf(out)
}

// restores checks that a point restores to the tree of its state.
func (c *checker) restores(m *model, point string, state int) error {
	want := filepath.Join(c.trees, fmt.Sprint(m.Seed, "-", state))
	if _, err := os.Stat(want); err != nil {
		if err := apply(want, treeAt(m.Seed, state)); err != nil {
			return err
		}
	}
	c.restored++
	defer os.RemoveAll(c.root + "/back")
	if _, err := c.agent("restore", "--point", point, "--target", "/back"); err != nil {
		return err
	}
	// The times of folders are not the tree's business.
	diffs, err := treecmp.Compare(want, c.root+"/back"+sourceDir, treecmp.Options{Ignore: treecmp.DirTimes | treecmp.Sparse})
	if len(diffs) > 0 {
		return fmt.Errorf("point %s of state %d restores to something else: %v", point, state, diffs)
	}
	return err
}

// goesOn makes the next point, and ends what can be ended, by plain commands. The
// host's clock is years ahead of the guest's, so all that was forgotten may go.
func (c *checker) goesOn(m *model) error {
	next := m.State + 1
	if err := apply(c.root+sourceDir, treeAt(m.Seed, next)); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"backup-now", sourceDir, "--tag", fmt.Sprint("state=", next)}, {"prune", "--confirm"}, {"verify", "--read-data"},
	} {
		if _, err := c.agent(args...); err != nil {
			return err
		}
	}
	after, err := c.points()
	if err != nil {
		return err
	}
	for p, state := range after {
		if err := c.restores(m, p, state); err != nil {
			return fmt.Errorf("after a prune: %w", err)
		}
	}
	return nil
}
