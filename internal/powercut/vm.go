//go:build linux

package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

const (
	guestMemory = "384" // MiB: the files of the initramfs take a tenth
	// longSilence is when a guest hangs, also on a host with much else to do.
	longSilence = 2 * time.Minute
)

// vm is a running emulator.
type vm struct {
	cmd     *exec.Cmd
	events  chan event // closed when the machine has ended
	started time.Time
}

// startVM boots the guest from a disk, logs its writes to writes, and its console
// to console.
func startVM(o options, c guestConfig, disk, writes, console string) (*vm, error) {
	kernels, err := filepath.Glob(filepath.Join(o.kernel, "boot/vmlinuz-*"))
	if err != nil || len(kernels) == 0 {
		return nil, fmt.Errorf("no kernel in %s: %w", o.kernel, err)
	}
	if err := os.WriteFile(writes, nil, 0o600); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(console, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	// A flush of the guest ends in qemu, which must not wait for the host's disk: the
	// host goes on, and what qemu wrote is in its page cache.
	file := func(node, path string) string {
		return "driver=file,node-name=" + node + ",filename=" + path + ",cache.no-flush=on"
	}
	cmd := exec.Command("qemu-system-x86_64", "-M", "pc", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", guestMemory,
		"-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot",
		"-kernel", kernels[len(kernels)-1], "-initrd", o.initramfs(),
		"-append", "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check "+c.args(),
		"-blockdev", file("disk", disk), "-blockdev", file("writes", writes),
		"-blockdev", "driver=raw,node-name=raw,file=disk",
		"-blockdev", "driver=blklogwrites,node-name=logged,file=raw,log=writes,log-sector-size=512",
		"-device", "virtio-blk-pci,drive=logged,write-zeroes=off,discard=off")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		log.Close()
		return nil, err
	}
	v := &vm{cmd: cmd, events: make(chan event, 1024), started: time.Now()}
	go v.read(out, log)
	return v, nil
}

// read copies the console to its log and finds the events in it.
func (v *vm) read(out io.Reader, log io.WriteCloser) {
	defer close(v.events)
	defer log.Close()
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		fmt.Fprintf(log, "%7.3f %s\n", time.Since(v.started).Seconds(), lines.Bytes())
		if e, ok := decodeEvent(lines.Bytes()); ok {
			v.events <- e
		}
	}
}

// cut is the power cut. It returns when the emulator is gone, with the events that
// it still told.
func (v *vm) cut() (rest []event) {
	v.cmd.Process.Kill()
	for e := range v.events {
		rest = append(rest, e)
	}
	v.cmd.Wait()
	return rest
}
