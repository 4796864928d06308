//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/backend/fault"
	"github.com/tharsis-backup/tharsis/vault/key"
)

// TestMain makes the test binary the agent as well: the stories run it as
// processes of their own.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"agent":          agentCommand,
		"agent-held":     heldCommand,
		"agent-nobody":   nobodyCommand,
		"agent-umask0":   umaskCommand,
		"agent-later":    laterCommand,
		"agent-replaces": replacesCommand,
		"agent-clocked":  clockedCommand,
	})
}

// cheapKDF is what a passphrase costs in the stories.
var cheapKDF = key.KDFParams{Time: 1, MemoryKiB: 64, Lanes: 1}

func agentCommand() {
	seams.kdf = cheapKDF
	os.Exit(start())
}

// heldCommand is an agent whose first upload waits: it makes the file $HELD and
// goes on once $HELD.go is there. It makes $HELD.int when it is interrupted, and
// says its exit code on stderr.
func heldCommand() {
	seams.kdf = cheapKDF
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt)
	go func() {
		<-interrupts
		os.WriteFile(os.Getenv("HELD")+".int", nil, 0o600)
	}()
	seams.wrap = func(b backend.Backend) backend.Backend { return &heldBackend{Backend: b, file: os.Getenv("HELD")} }
	code := start()
	fmt.Fprintf(os.Stderr, "code=%d\n", code)
	os.Exit(code)
}

type heldBackend struct {
	backend.Backend
	file string
	held atomic.Bool
}

func (b *heldBackend) Put(ctx context.Context, name string, body io.ReaderAt, size int64) error {
	if !strings.HasPrefix(name, "packs/") || b.held.Swap(true) {
		return b.Backend.Put(ctx, name, body, size)
	}
	if err := os.WriteFile(b.file, nil, 0o600); err != nil {
		return err
	}
	for end := time.Now().Add(waitFor); ; {
		if time.Now().After(end) {
			return errors.New("nobody let the upload go on")
		}
		if _, err := os.Stat(b.file + ".go"); err == nil {
			return b.Backend.Put(ctx, name, body, size)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// nobodyID is a user and a group without rights.
const nobodyID = 65534

// nobodyCommand is an agent of a user who is not root.
func nobodyCommand() {
	seams.kdf = cheapKDF
	if os.Geteuid() == 0 {
		for _, err := range []error{syscall.Setgroups(nil), syscall.Setgid(nobodyID), syscall.Setuid(nobodyID)} {
			if err != nil {
				fmt.Fprintln(os.Stderr, "drop privileges:", err)
				os.Exit(99)
			}
		}
	}
	os.Exit(start())
}

// umaskCommand is an agent that nothing protects from making files for everybody.
func umaskCommand() {
	syscall.Umask(0)
	agentCommand()
}

// laterCommand is an agent $LATER hours from now, by its clock and by the store's.
func laterCommand() {
	hours, err := time.ParseDuration(os.Getenv("LATER") + "h")
	if err != nil {
		fmt.Fprintln(os.Stderr, "LATER:", err)
		os.Exit(99)
	}
	seams.now = func() time.Time { return time.Now().Add(hours) }
	seams.wrap = func(b backend.Backend) backend.Backend { return laterBackend{b, hours} }
	agentCommand()
}

type laterBackend struct {
	backend.Backend
	by time.Duration
}

func (b laterBackend) List(ctx context.Context, prefix string) iter.Seq2[backend.Info, error] {
	return func(yield func(backend.Info, error) bool) {
		for info, err := range b.Backend.List(ctx, prefix) {
			info.Modified = info.Modified.Add(b.by)
			if !yield(info, err) {
				return
			}
		}
	}
}

// replacesCommand is an agent that reaches the vault through a store that replaces
// objects that exist.
func replacesCommand() {
	seams.wrap = fault.Replacing
	seams.sleep = func(ctx context.Context, _ time.Duration) error { return ctx.Err() }
	agentCommand()
}

func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Files:              stories(t),
		RequireUniqueNames: true,
		Cmds:               scriptCommands,
		Setup:              setup,
	})
}

// stories are the files to run. Under the race detector, where each process takes
// long to start, they are those in which most goes on at the same time.
func stories(t *testing.T) []string {
	names := []string{"*"}
	if raceDetector {
		names = []string{"demo", "busy", "interrupted", "killed", "restore_target", "verify_damage"}
	}
	var files []string
	for _, n := range names {
		found, err := filepath.Glob("testdata/script/" + n + ".txtar")
		if err != nil || len(found) == 0 {
			t.Fatalf("no story %s: %v", n, err)
		}
		files = append(files, found...)
	}
	return files
}

// setup gives each story a home and a user's folder of its own, which the
// unprivileged user may reach.
func setup(e *testscript.Env) error {
	for dir := e.WorkDir; strings.HasPrefix(dir, os.TempDir()+"/"); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			return err
		}
	}
	user := filepath.Join(e.WorkDir, "user")
	if err := os.MkdirAll(user, 0o755); err != nil {
		return err
	}
	e.Setenv("HOME", user)
	e.Setenv("THARSIS_HOME", filepath.Join(e.WorkDir, "home"))
	e.Setenv("XDG_STATE_HOME", "")
	e.Setenv("TZ", "UTC")
	e.Setenv("PASS", "correct horse battery staple")
	return nil
}
