package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stderrKept is how much of a program's last words is kept for the report of
// its failure.
const stderrKept = 4 << 10

// measure runs a command. An error tells that it could not be measured or that
// it failed; the exit code is in usage.
func measure(ctx context.Context, c command, env []string) (usage, error) {
	self, err := os.Executable()
	if err != nil {
		return usage{}, err
	}
	report, fd3, err := os.Pipe()
	if err != nil {
		return usage{}, err
	}
	defer report.Close()
	words := &tail{max: stderrKept}
	cmd := exec.CommandContext(ctx, self, append([]string{launchWord}, c.argv...)...)
	cmd.Env, cmd.Dir = append(env, c.env...), c.dir
	cmd.Stderr, cmd.ExtraFiles = words, []*os.File{fd3}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	err = cmd.Start()
	_ = fd3.Close()
	if err != nil {
		return usage{}, fmt.Errorf("launch: %w", err)
	}
	var u usage
	decodeErr := json.NewDecoder(report).Decode(&u)
	if err := cmd.Wait(); err != nil {
		return u, fmt.Errorf("launch %s: %w: %s", c.argv[0], err, words)
	}
	if decodeErr != nil {
		return u, fmt.Errorf("read measurement: %w", decodeErr)
	}
	if u.Exit != 0 {
		return u, fmt.Errorf("%s: exit %d: %s", strings.Join(c.argv, " "), u.Exit, words)
	}
	return u, nil
}

// launch runs a program, writes its usage to descriptor 3 and returns the exit
// code of the launcher. A signal ends the program with all its children.
func launch(argv []string) int {
	// The program must not outlive its launcher; the kernel ties that to the
	// thread that started it.
	runtime.LockOSThread()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}()
	err := cmd.Wait()
	u := usage{
		Wall: time.Since(start), User: cmd.ProcessState.UserTime(), System: cmd.ProcessState.SystemTime(),
		Exit: cmd.ProcessState.ExitCode(),
	}
	if r, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		u.Peak = int64(r.Maxrss) << 10
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := json.NewEncoder(os.NewFile(3, "report")).Encode(u); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// flush writes all dirty pages, so that no command pays for what the one before
// it left; where cold is set it empties the page cache too.
func flush(cold bool) error {
	unix.Sync()
	if !cold {
		return nil
	}
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3\n"), 0)
}
