//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The guest's folders; a check finds them below the folder that is its root.
const (
	homeDir   = "/mnt/home"
	sourceDir = "/mnt/src"
	vaultDir  = "/vol/vault"
	agentPath = "/agent"
	diskPath  = "/dev/vda"
)

// mountDirs is where the disk's partitions are mounted.
var mountDirs = [2]string{"/mnt", "/vol"}

// The guest's clock is epoch at state 0 and two days later at each further one,
// so that soft-delete periods and graces end within some states, and the host's
// clock is ahead of it.
const (
	epoch        = 1_400_000_000
	stateSeconds = 2 * 24 * 3600
)

// guestConfig comes by the kernel's command line, which gives what it doesn't know
// to init as environment.
type guestConfig struct {
	seed       uint64
	fs, broken string
	state      int   // the first state to make
	mark       int64 // the offset of the block for events
}

func (c guestConfig) args() string {
	return fmt.Sprintf("PC_SEED=%d PC_FS=%s PC_BROKEN=%s PC_STATE=%d PC_MARK=%d", c.seed, c.fs, c.broken, c.state, c.mark)
}

func guestConfigOf(env func(string) string) (c guestConfig, err error) {
	c = guestConfig{fs: env("PC_FS"), broken: env("PC_BROKEN")}
	if c.seed, err = strconv.ParseUint(env("PC_SEED"), 10, 64); err != nil {
		return c, err
	}
	if c.state, err = strconv.Atoi(env("PC_STATE")); err != nil {
		return c, err
	}
	c.mark, err = strconv.ParseInt(env("PC_MARK"), 10, 64)
	return c, err
}

// guest is the machine that is cut.
type guest struct {
	guestConfig
	disk  *os.File
	block []byte // for events
}

// guestMain is init. It ends with the machine.
func guestMain() {
	g := &guest{}
	g.tell(event{What: failed, Note: g.live().Error()})
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

// live boots and goes from state to state, until the power is cut or something is
// wrong.
func (g *guest) live() (err error) {
	if g.guestConfig, err = guestConfigOf(os.Getenv); err != nil {
		return err
	}
	if err := boot(g.fs); err != nil {
		return err
	}
	if g.disk, err = os.OpenFile(diskPath, os.O_WRONLY|unix.O_DIRECT, 0); err != nil {
		return err
	}
	g.block = make([]byte, 64<<10)[:4096] // of pages of its own: O_DIRECT needs it aligned
	options := ""
	if g.broken == brokenFlush {
		options = fileSystems[g.fs].noFlush
	}
	for i, dir := range mountDirs {
		if err := unix.Mount(fmt.Sprint(diskPath, i+1), dir, g.fs, 0, options); err != nil {
			return fmt.Errorf("mount partition %d: %w", i+1, err)
		}
	}
	if err := nameDisk("/"); err != nil {
		return err
	}
	if err := g.tell(event{What: ready, State: g.state - 1}); err != nil {
		return err
	}
	for state := g.state; ; state++ {
		if err := g.step(state); err != nil {
			return err
		}
	}
}

// boot mounts the kernel's file systems and loads the modules.
func boot(fs string) error {
	for _, m := range []string{"proc", "sysfs", "devtmpfs"} {
		dir := map[string]string{"proc": "/proc", "sysfs": "/sys", "devtmpfs": "/dev"}[m]
		if err := unix.Mount(m, dir, m, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m, err)
		}
	}
	modules, err := filepath.Glob("/modules/" + fs + "/*.ko") // in the order of their numbers
	if err != nil {
		return err
	}
	for _, path := range modules {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && err != unix.EEXIST {
			return fmt.Errorf("load %s: %w", path, err)
		}
		f.Close()
	}
	for range 100 { // the disk may take a moment to appear
		if _, err = os.Stat(diskPath + "2"); err == nil {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}

// nameDisk does what udev does below a root: it names the partition with the source
// by a UUID. On XFS that is all by which the agent knows the file system again, since
// the device has another number where the disk is checked.
func nameDisk(root string) error {
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(root, mountDirs[0]), &st); err != nil || unix.Major(st.Dev) == 0 {
		return err // Btrfs has its own
	}
	name := filepath.Join(root, "dev/disk/by-uuid/64697361-7374-6572-0000-000000000000")
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	os.Remove(name)
	return unix.Mknod(name, unix.S_IFBLK|0o600, int(st.Dev))
}

// step makes one state of the tree and a point of it. Of the points it keeps some
// and forgets the others; some of those it brings back; and it prunes.
func (g *guest) step(state int) error {
	now := unix.Timeval{Sec: epoch + int64(state)*stateSeconds}
	if err := unix.Settimeofday(&now); err != nil {
		return err
	}
	if err := g.tell(event{What: aboutToEdit, State: state}); err != nil {
		return err
	}
	if err := apply(sourceDir, treeAt(g.seed, state)); err != nil {
		return err
	}
	if err := g.backup(state); err != nil {
		return err
	}
	if state%3 == 0 {
		if err := g.bringBack(state); err != nil {
			return err
		}
	}
	if err := g.forget(state); err != nil {
		return err
	}
	if state%2 == 0 {
		return g.change(aboutToPrune, pruned, state, "", "prune", "--confirm")
	}
	return nil
}

func (g *guest) backup(state int) error {
	if err := g.tell(event{What: aboutToBackUp, State: state}); err != nil {
		return err
	}
	out, err := g.agent("backup-now", sourceDir, "--tag", fmt.Sprint("state=", state))
	if err != nil {
		return err
	}
	var sum struct{ Point string }
	if err := summary(out, &sum); err != nil {
		return err
	}
	return g.tell(event{What: backedUp, State: state, Point: sum.Point})
}

// livePoints is how many points are kept.
const livePoints = 3

// forget forgets the oldest points, which are too many.
func (g *guest) forget(state int) error {
	points, err := g.points()
	if err != nil {
		return err
	}
	for _, p := range points[:max(0, len(points)-livePoints)] {
		if err := g.change(aboutToForget, forgot, state, p, "forget", p); err != nil {
			return err
		}
	}
	return nil
}

// bringBack brings back the newest of the points that were forgotten.
func (g *guest) bringBack(state int) error {
	deleted, err := g.points("--deleted")
	if err != nil || len(deleted) == 0 {
		return err
	}
	p := deleted[len(deleted)-1]
	return g.change(aboutToBring, brought, state, p, "undelete", p)
}

// change is a command with its events.
func (g *guest) change(before, after string, state int, point string, args ...string) error {
	if err := g.tell(event{What: before, State: state, Point: point}); err != nil {
		return err
	}
	out, err := g.agent(args...)
	if err != nil {
		return err
	}
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	return g.tell(event{What: after, State: state, Point: point, Note: string(lines[len(lines)-1])})
}

// points are the points that are listed, oldest first.
func (g *guest) points(args ...string) ([]string, error) {
	out, err := g.agent(append([]string{"points"}, args...)...)
	if err != nil {
		return nil, err
	}
	listed, err := pointsOf(out)
	return slices.SortedFunc(maps.Keys(listed), func(a, b string) int { return listed[a] - listed[b] }), err
}

// agent runs the agent and gives what it wrote to stdout.
func (g *guest) agent(args ...string) ([]byte, error) {
	argv := append([]string{agentPath, "--json"}, args...)
	if g.broken == brokenSync {
		argv = append(slices.Clone(straceNoSync), argv...)
	}
	return runAgent(exec.Command(argv[0], argv[1:]...))
}

// straceNoSync runs a command all of whose syncs say that they were done.
var straceNoSync = []string{
	"/usr/bin/strace", "-f", "--seccomp-bpf", "-qqq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync,sync_file_range,syncfs,sync",
	"-e", "inject=fsync,fdatasync,sync_file_range,syncfs,sync:retval=0",
}

// tell writes an event to the disk, past all caches of the guest, and to the
// console. It flushes nothing: that would make durable what the agent didn't.
func (g *guest) tell(e event) error {
	line := e.encode()
	if g.disk != nil {
		clear(g.block)
		copy(g.block, line)
		if _, err := g.disk.WriteAt(g.block, g.mark); err != nil {
			return fmt.Errorf("tell: %w", err)
		}
	}
	_, err := os.Stdout.Write(line)
	return err
}

// runAgent runs a command of the agent's; an error says what it wrote.
func runAgent(cmd *exec.Cmd) ([]byte, error) {
	var stderr bytes.Buffer
	cmd.Env = []string{"THARSIS_HOME=" + homeDir, "HOME=/", "TMPDIR=/tmp"}
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s%s", strings.Join(cmd.Args, " "), err, out, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}

// summary reads the last line of what --json writes.
func summary(out []byte, into any) error {
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	return json.Unmarshal(lines[len(lines)-1], into)
}

// pointsOf reads what the agent lists: the states of the points' trees by point.
func pointsOf(out []byte) (map[string]int, error) {
	listed := map[string]int{}
	for line := range bytes.Lines(out) {
		var p struct {
			Type, Point string
			Tags        map[string]string
		}
		if err := json.Unmarshal(line, &p); err != nil {
			return nil, err
		}
		if p.Type != "point" {
			continue
		}
		state, err := strconv.Atoi(p.Tags["state"])
		if err != nil {
			return nil, fmt.Errorf("point %s: state: %w", p.Point, err)
		}
		listed[p.Point] = state
	}
	return listed, nil
}
