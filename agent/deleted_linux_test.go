package agent

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tharsis-backup/tharsis/vault/log"
)

// A deleted point stays whole and can be restored by its ID, but is not the latest,
// not that of any time, and not found; it can still be what a backup starts from.
func TestDeletedPoint(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	other := filepath.Join(r.dir, "other")
	noErr(t, os.Mkdir(other, 0o755))
	noErr(t, os.WriteFile(filepath.Join(other, "x"), []byte("other"), 0o644))
	r.smallTree()
	first := r.clean()
	r.ahead.Add(int64(time.Hour))
	r.write("only-second", "second")
	second := r.backup(BackupOptions{Paths: []string{r.src, other}})
	kept := r.restore(second.Point)
	deleted := func(ids ...string) {
		t.Helper()
		noErr(t, r.session(ctx, func(s *Session) error {
			_, err := s.Forget(ctx, ids, ForgetOptions{Last: true})
			return err
		}))
	}
	deleted(second.Point)
	at := time.Now().Add(24 * time.Hour).Format(time.RFC3339)
	noErr(t, r.session(ctx, func(s *Session) error {
		for _, name := range []string{"latest", at} {
			if p, err := s.resolve(name, "", ""); err != nil || p.Point.ID.String() != first.Point {
				t.Errorf("%s is %v, %v", name, p.Point, err)
			}
		}
		if _, err := s.resolve("latest", "", other); !errors.Is(err, ErrNoPoint) {
			t.Errorf("the latest of a source that only the deleted point has: %v", err)
		}
		if err := s.Find(ctx, "only-second", func(v FoundVersion) error { t.Errorf("found %+v", v); return nil }); err != nil {
			return err
		}
		changes := 0
		if err := s.Diff(ctx, first.Point, second.Point, func(Change) error { changes++; return nil }); err != nil || changes == 0 {
			t.Errorf("a diff with a deleted point: %d changes, %v", changes, err)
		}
		st, err := s.Status(ctx)
		if st.Points != 1 || st.Deleted != 1 || st.Held != 0 || st.SoftDeleteDays != 14 || st.Newest.ID.String() != first.Point {
			t.Errorf("%+v", st)
		}
		return err
	}))
	same(t, filepath.Join(kept, r.src), filepath.Join(r.restore(second.Point), r.src))
	// The sources are those of the newest that is not deleted, and the base is the
	// deleted point: all is carried over.
	third := r.backup(BackupOptions{Paths: []string{}})
	if paths := sourcesOf(r.point(third.Point).Sources); !slices.Equal(paths, []string{r.src}) || third.BytesRead != 0 || third.FilesNew != 0 {
		t.Errorf("backed up %v: %+v", paths, third)
	}
	r.restored(third.Point)
	deleted(first.Point, third.Point)
	if _, err := r.try(ctx, BackupOptions{Paths: []string{}}); !errors.Is(err, ErrNoSources) {
		t.Errorf("a backup without a point to take the sources from: %v", err)
	}
	if _, err := r.tryRestore(RestoreOptions{Point: "latest", Target: r.temp()}); !errors.Is(err, ErrNoPoint) {
		t.Errorf("the latest of deleted points: %v", err)
	}
	noErr(t, r.session(ctx, func(s *Session) error {
		_, err := s.Undelete(ctx, []string{second.Point})
		return err
	}))
	same(t, filepath.Join(kept, r.src), filepath.Join(r.restore("latest"), r.src))
	noErr(t, r.session(ctx, func(s *Session) error {
		res, err := s.Verify(ctx, VerifyOptions{ReadData: true})
		if res.Points != 3 {
			t.Errorf("verify looked at %d points", res.Points)
		}
		return err
	}))
}

// What was purged takes its turn as a base no more, and a restore says so.
func TestPurgedBase(t *testing.T) {
	l := newLifeRig(t, 0)
	l.smallTree()
	first := l.clean()
	l.now = l.now.Add(time.Hour)
	l.write("more", "more")
	second := l.clean()
	_, err := l.forget(0, ForgetOptions{Last: true}, second.Point)
	noErr(t, err)
	l.purge(second.Point)
	_, err = l.tryRestore(RestoreOptions{Point: second.Point[:12], Target: l.temp()})
	if !errors.Is(err, ErrNoPoint) || !strings.Contains(err.Error(), second.Point+" was purged") {
		t.Error(err)
	}
	l.now = l.now.Add(time.Hour)
	third := l.clean()
	if third.FilesNew != 1 { // compared with the first point
		t.Errorf("%+v", third)
	}
	l.restored(third.Point)
	l.restored(l.clean().Point)
	if p := l.point(first.Point); len(p.Sources) != 1 {
		t.Error(p)
	}
}

func sourcesOf(sources []log.Source) (paths []string) {
	for _, s := range sources {
		paths = append(paths, s.Path)
	}
	return paths
}
