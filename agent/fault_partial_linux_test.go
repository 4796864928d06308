package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tharsis-backup/tharsis/agent/home"
	"github.com/tharsis-backup/tharsis/vault/backend"
)

// dyingAt fails every Put after a number of those whose names begin with prefix.
type dyingAt struct {
	backend.Backend
	prefix string
	left   *atomic.Int64
}

func (b dyingAt) Put(ctx context.Context, name string, body io.ReaderAt, size int64) error {
	if strings.HasPrefix(name, b.prefix) && b.left.Add(-1) < 0 || b.left.Load() < 0 {
		return errFaultDead
	}
	return b.Backend.Put(ctx, name, body, size)
}

// partialWorld is a machine whose jobs append PARTIAL entries all the time, with a
// source of so many files that there are some.
func partialWorld(t *testing.T) (*faultRig, *faultWorld) {
	r := newFaultRig(t)
	before := partialCheck
	partialCheck = 4
	t.Cleanup(func() { partialCheck = before })
	w := r.world("box")
	if err := w.init(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.edit(0)
	for i := range 40 {
		if err := os.WriteFile(filepath.Join(r.src, fmt.Sprintf("c-%02d", i)), []byte(fmt.Sprint("file ", i)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return r, w
}

// dies runs a backup that dies after so many Puts of objects of a kind.
func (w *faultWorld) dies(t testing.TB, r *faultRig, prefix string, puts int64) {
	t.Helper()
	var left atomic.Int64
	left.Store(puts)
	w.wrap = func(b backend.Backend) backend.Backend { return dyingAt{b, prefix, &left} }
	defer func() { w.wrap = nil }()
	if _, err := w.backup(t.Context(), r.src); !errors.Is(err, errFaultDead) {
		t.Fatalf("the job did not die: %v", err)
	}
}

// TestFaultPartialAsBase: a job that starts from a PARTIAL, and replaces it by one
// of its own, is not fenced off by that.
func TestFaultPartialAsBase(t *testing.T) {
	ctx := t.Context()
	r, w := partialWorld(t)
	w.partial = time.Nanosecond
	w.dies(t, r, "log/", 3)
	if err := os.RemoveAll(filepath.Join(w.home, "cache")); err != nil {
		t.Fatal(err)
	}
	var logged bytes.Buffer
	err := w.locked(func(h *home.Home) error {
		env := w.env()
		env.Log = slog.New(slog.NewTextHandler(&logged, nil))
		s, err := Open(ctx, env, h, "")
		if err != nil {
			return err
		}
		defer s.Close()
		if len(s.vault.Log.State().Partials()) == 0 {
			t.Fatal("there is no PARTIAL to start from")
		}
		res, err := s.Backup(ctx, BackupOptions{Paths: []string{r.src}})
		if err == nil {
			err = w.restoresTo(ctx, t, res.Point, r.src, r.src)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if strings.Contains(logged.String(), "start over") {
		t.Errorf("the job started over:\n%s", logged.String())
	}
}

// TestFaultPartialRacy: what a PARTIAL has of an entry that its job did not come to
// is as racy as it was for the job that read it.
func TestFaultPartialRacy(t *testing.T) {
	ctx := t.Context()
	r, w := partialWorld(t)
	last := filepath.Join(r.src, "zz-last")
	if err := os.WriteFile(last, bytes.Repeat([]byte("racy"), 2000), 0o644); err != nil {
		t.Fatal(err)
	}
	w.clock = time.Now // a job that runs as the files are written
	if _, err := w.backup(ctx, r.src); err != nil {
		t.Fatal(err)
	}
	w.clock = nil // a day later
	if err := os.WriteFile(filepath.Join(r.src, "a.txt"), []byte("so that there is a PARTIAL with something new"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.partial = time.Nanosecond
	w.dies(t, r, "log/", 1)
	if err := os.RemoveAll(filepath.Join(w.home, "cache")); err != nil {
		t.Fatal(err)
	}
	w.partial = 0
	res, err := w.backup(ctx, r.src)
	if err != nil {
		t.Fatal(err)
	}
	if res.BytesRead < 8000 {
		t.Errorf("%d bytes were read: a file that was racy was not read again", res.BytesRead)
	}
}
