package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
	"github.com/tharsis-backup/tharsis/vault/manifest"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// onPut calls do before each Put of an object whose name begins so.
type onPut struct {
	backend.Backend
	prefix string
	do     func()
}

func (b *onPut) Put(ctx context.Context, name string, body io.ReaderAt, size int64) error {
	if strings.HasPrefix(name, b.prefix) {
		b.do()
	}
	return b.Backend.Put(ctx, name, body, size)
}

// oncePut calls do before the first such Put alone.
func oncePut(b backend.Backend, prefix string, do func()) backend.Backend {
	return &onPut{b, prefix, sync.OnceFunc(do)}
}

// beside runs fn with the vault opened beside any job, and the admin's key.
func (w *faultWorld) beside(t *testing.T, fn func(ctx context.Context, s *Session) error) {
	t.Helper()
	other := &faultWorld{home: w.home + "-admin", vault: w.vault, host: "admin"}
	if err := other.session(t.Context(), false, func(s *Session) error { return fn(t.Context(), s) }); err != nil {
		t.Fatalf("beside the job: %v", err)
	}
	os.RemoveAll(other.home)
}

// asAdmin appends an entry under the admin's key.
func (s *Session) asAdmin(ctx context.Context, t *testing.T, w *faultWorld, body log.Body) error {
	_, err := s.vault.Log.Append(ctx, w.adminKey(t, s.vault.Config.Vault), func(*log.State) (log.Body, error) { return body, nil })
	return err
}

// packsOf lists the packs of a vault, without those that the log's index knows,
// or only those.
func (w *faultWorld) packsOf(ctx context.Context, s *Session, indexed bool) (ids []chunk.ID, err error) {
	x, err := s.vault.OpenIndex(ctx, vault.IndexOptions{})
	if err != nil {
		return nil, err
	}
	known := map[chunk.ID]bool{}
	for _, r := range x.Runs() {
		for p, err := range r.Packs(ctx) {
			if err != nil {
				return nil, err
			}
			known[p.ID] = true
		}
	}
	for info, err := range s.backend.List(ctx, "packs/") {
		if err != nil {
			return nil, err
		}
		var id chunk.ID
		if _, err := fmt.Sscanf(filepath.Base(info.Name), "%x", (*hexID)(&id)); err != nil {
			return nil, err
		}
		if known[id] == indexed {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// packsOfType are the packs of a type that the index knows.
func packsOfType(ctx context.Context, s *Session, typ uint8) (ids []chunk.ID, err error) {
	x, err := s.vault.OpenIndex(ctx, vault.IndexOptions{})
	if err != nil {
		return nil, err
	}
	for _, r := range x.Runs() {
		for p, err := range r.Packs(ctx) {
			if err != nil {
				return nil, err
			}
			if p.Type == typ {
				ids = append(ids, p.ID)
			}
		}
	}
	return ids, nil
}

// hexID scans 64 hex digits.
type hexID chunk.ID

func (h *hexID) Scan(st fmt.ScanState, _ rune) error {
	tok, err := st.Token(true, nil)
	if err != nil {
		return err
	}
	var b []byte
	if _, err := fmt.Sscanf(string(tok), "%x", &b); err != nil || len(b) != len(h) {
		return fmt.Errorf("not an ID: %q", tok)
	}
	copy(h[:], b)
	return nil
}

// usesOnlyUsable checks that all that a point refers to lies in usable packs (I2).
func usesOnlyUsable(ctx context.Context, s *Session, id string) error {
	p, err := s.resolve(id, "", "")
	if err != nil {
		return err
	}
	x, err := s.vault.OpenIndex(ctx, vault.IndexOptions{})
	if err != nil {
		return err
	}
	refs := 0
	for _, src := range p.Point.Sources {
		if src.Base != log.None && !s.vault.Log.State().Stands(src.ID, src.Base) {
			return fmt.Errorf("its base, entry %d, was purged", src.Base)
		}
		err := manifest.Pages(ctx, s.pages(x), src.Root, nil, func(ref manifest.Ref) error {
			refs++
			ok, err := x.Usable(ctx, ref.ID)
			if err == nil && !ok {
				err = fmt.Errorf("%+v lies in no usable pack", ref)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	if refs < 5 {
		return fmt.Errorf("only %d references", refs)
	}
	return nil
}

// fenceCase is something that happens to the vault between the start of a job and
// its COMMIT.
type fenceCase struct {
	name string
	do   func(ctx context.Context, t *testing.T, f *fenceTest, s *Session) error
}

type fenceTest struct {
	w    *faultWorld
	r    *faultRig
	gone []chunk.ID // packs to be deleted after the job
}

func (f *fenceTest) condemn(ctx context.Context, t *testing.T, s *Session, packs []chunk.ID) error {
	if len(packs) == 0 {
		t.Fatal("no packs to condemn")
	}
	f.gone = append(f.gone, packs...)
	return s.asAdmin(ctx, t, f.w, &log.Condemn{Packs: packs})
}

var fenceCases = []fenceCase{
	{"CONDEMN of all that is carried over", func(ctx context.Context, t *testing.T, f *fenceTest, s *Session) error {
		packs, err := f.w.packsOf(ctx, s, true)
		if err != nil {
			return err
		}
		return f.condemn(ctx, t, s, packs)
	}},
	{"CONDEMN of the manifest packs", func(ctx context.Context, t *testing.T, f *fenceTest, s *Session) error {
		packs, err := packsOfType(ctx, s, key.TypeManifestPack)
		if err != nil {
			return err
		}
		return f.condemn(ctx, t, s, packs)
	}},
	{"CONDEMN of the data packs", func(ctx context.Context, t *testing.T, f *fenceTest, s *Session) error {
		packs, err := packsOfType(ctx, s, key.TypeDataPack)
		if err != nil {
			return err
		}
		return f.condemn(ctx, t, s, packs)
	}},
	{"CONDEMN of the job's own packs", func(ctx context.Context, t *testing.T, f *fenceTest, s *Session) error {
		packs, err := f.w.packsOf(ctx, s, false)
		if err != nil {
			return err
		}
		return f.condemn(ctx, t, s, packs)
	}},
	{"CONDEMN of everything", func(ctx context.Context, t *testing.T, f *fenceTest, s *Session) error {
		old, err := f.w.packsOf(ctx, s, true)
		if err != nil {
			return err
		}
		own, err := f.w.packsOf(ctx, s, false)
		if err != nil {
			return err
		}
		return f.condemn(ctx, t, s, append(old, own...))
	}},
	{"QUARANTINE of one pack", func(ctx context.Context, t *testing.T, f *fenceTest, s *Session) error {
		packs, err := f.w.packsOf(ctx, s, true)
		if err != nil {
			return err
		}
		f.gone = packs[:1]
		return s.asAdmin(ctx, t, f.w, &log.Quarantine{Packs: packs[:1], Reason: "a test"})
	}},
	{"QUARANTINE of packs that are missing", func(ctx context.Context, t *testing.T, f *fenceTest, s *Session) error {
		packs, err := f.w.packsOf(ctx, s, true)
		if err != nil {
			return err
		}
		f.delete(packs)
		return s.asAdmin(ctx, t, f.w, &log.Quarantine{Packs: packs, Reason: "missing"})
	}},
	{"PURGE of the base alone", func(ctx context.Context, t *testing.T, f *fenceTest, s *Session) error {
		id := s.vault.Log.State().Points()[0].Point.ID
		if err := s.asAdmin(ctx, t, f.w, &log.Forget{Points: []log.PointID{id}}); err != nil {
			return err
		}
		return s.asAdmin(ctx, t, f.w, &log.Purge{Points: []log.PointID{id}})
	}},
	{"PURGE of the base", func(ctx context.Context, t *testing.T, f *fenceTest, s *Session) error {
		var ids []log.PointID
		for _, p := range s.vault.Log.State().Points() {
			ids = append(ids, p.Point.ID)
		}
		if err := s.asAdmin(ctx, t, f.w, &log.Forget{Points: ids}); err != nil {
			return err
		}
		if err := s.asAdmin(ctx, t, f.w, &log.Purge{Points: ids}); err != nil {
			return err
		}
		// A sweep of what was freed follows, sooner than any real one.
		packs, err := f.w.packsOf(ctx, s, true)
		if err != nil {
			return err
		}
		if err := f.condemn(ctx, t, s, packs); err != nil {
			return err
		}
		if err := s.asAdmin(ctx, t, f.w, &log.Swept{Packs: packs}); err != nil {
			return err
		}
		f.delete(packs)
		return nil
	}},
}

// delete removes packs from the vault, and from the cache of the machine.
func (f *fenceTest) delete(packs []chunk.ID) {
	for _, id := range packs {
		os.Remove(filepath.Join(f.w.vault, pack.Name(id)))
		caches, _ := filepath.Glob(filepath.Join(f.w.home, "cache", "*", "objects"))
		for _, c := range caches {
			os.Remove(filepath.Join(c, pack.Name(id)))
		}
	}
}

// TestFaultFence lets packs lose trust, and bases go, while a job is about to
// commit: the job starts over, and its point refers to nothing of it.
func TestFaultFence(t *testing.T) {
	ctx := t.Context()
	for _, c := range fenceCases {
		t.Run(c.name, func(t *testing.T) {
			f := &fenceTest{r: newFaultRig(t)}
			f.w = f.r.world("box")
			if err := f.w.init(ctx); err != nil {
				t.Fatal(err)
			}
			f.r.edit(0)
			flipTable(t, f.r.src)
			if _, err := f.w.backup(ctx, f.r.src); err != nil {
				t.Fatal(err)
			}
			// The file with a block table stays as it is, and is carried over.
			faultApply(t, f.r.src, f.r.states[0], f.r.states[1])
			hits := 0
			f.w.wrap = func(b backend.Backend) backend.Backend {
				return oncePut(b, "index/", func() {
					hits++
					f.w.beside(t, func(ctx context.Context, s *Session) error { return c.do(ctx, t, f, s) })
				})
			}
			res, err := f.w.backup(ctx, f.r.src)
			f.w.wrap = nil
			if err != nil || hits != 1 {
				t.Fatalf("backup: %v, %d hits", err, hits)
			}
			f.check(ctx, t, res)
		})
	}
}

func (f *fenceTest) check(ctx context.Context, t *testing.T, res BackupResult) {
	t.Helper()
	if err := f.w.session(ctx, false, func(s *Session) error { return usesOnlyUsable(ctx, s, res.Point) }); err != nil {
		t.Errorf("the point: %v", err)
	}
	f.delete(f.gone)
	want := filepath.Join(f.r.root, "want-"+filepath.Base(f.w.vault))
	faultApply(t, want, nil, f.r.states[1])
	flipTable(t, want)
	faultApply(t, want, f.r.states[1], f.r.states[1])
	if err := f.w.restoresTo(ctx, t, res.Point, f.r.src, want); err != nil {
		t.Error(err)
	}
	err := f.w.session(ctx, false, func(s *Session) error {
		_, err := s.Verify(ctx, VerifyOptions{Point: res.Point})
		return err
	})
	if err != nil && !errors.Is(err, ErrDamaged) {
		t.Errorf("verify of the point: %v", err)
	}
	// The next job relies on nothing that is gone either.
	next, err := f.w.backup(ctx, f.r.src)
	if err != nil {
		t.Errorf("the next backup: %v", err)
	} else if err := f.w.restoresTo(ctx, t, next.Point, f.r.src, want); err != nil {
		t.Errorf("the next backup: %v", err)
	}
}

// TestFaultFenceUnreadable: what can't be read any more is kept from the base. Where
// the base's packs lost trust, its content is stored anew, or the loss is named.
func TestFaultFenceUnreadable(t *testing.T) {
	ctx := t.Context()
	if !asNobody(t) {
		return
	}
	for _, missing := range []bool{false, true} {
		f := &fenceTest{r: newFaultRig(t)}
		f.w = f.r.world("box")
		f.w.notes = &faultNotes{}
		if err := f.w.init(ctx); err != nil {
			t.Fatal(err)
		}
		f.r.edit(0)
		flipTable(t, f.r.src)
		if _, err := f.w.backup(ctx, f.r.src); err != nil {
			t.Fatal(err)
		}
		// big.dat and table have large content, a.txt lies in a segment; b/d has a folder's.
		closed := []string{"a.txt", "big.dat", "table", "with-attr", "b/d"}
		for _, p := range closed {
			if err := os.Chmod(filepath.Join(f.r.src, p), 0); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(f.r.src, "more"), []byte("so that there is a pack"), 0o644); err != nil {
			t.Fatal(err)
		}
		var old []chunk.ID
		f.w.wrap = func(b backend.Backend) backend.Backend {
			return oncePut(b, "index/", func() {
				f.w.beside(t, func(ctx context.Context, s *Session) (err error) {
					if old, err = f.w.packsOf(ctx, s, true); err != nil {
						return err
					}
					if missing {
						f.delete(old)
						return s.asAdmin(ctx, t, f.w, &log.Quarantine{Packs: old, Reason: "missing"})
					}
					return f.condemn(ctx, t, s, old)
				})
			})
		}
		res, err := f.w.backup(ctx, f.r.src)
		f.w.wrap = nil
		if err != nil || res.Status != CompletedWithWarnings {
			t.Fatalf("missing %v: %+v, %v", missing, res, err)
		}
		if err := f.w.session(ctx, false, func(s *Session) error { return usesOnlyUsable(ctx, s, res.Point) }); err != nil {
			t.Errorf("missing %v: the point: %v", missing, err)
		}
		f.delete(old)
		var have []string
		err = f.w.session(ctx, false, func(s *Session) error {
			return s.List(ctx, res.Point, f.r.src, true, func(e Entry) error {
				rel, _ := filepath.Rel(f.r.src, e.Path)
				have = append(have, rel)
				if !slices.Contains([]string{"a.txt", "big.dat", "table", "with-attr", "b/d/e.txt"}, rel) {
					return nil
				}
				return s.Cat(ctx, res.Point, e.Path, io.Discard)
			})
		})
		if err != nil {
			t.Errorf("missing %v: %v", missing, err)
		}
		notes := f.w.notes.text()
		for _, p := range closed {
			if !strings.Contains(notes, fmt.Sprintf("2 %q", filepath.Join(f.r.src, p))) {
				t.Errorf("missing %v: no warning of %s:\n%s", missing, p, notes)
			}
			if !missing && !slices.Contains(have, p) {
				t.Errorf("%s is gone, and its content was still to be had", p)
			}
		}
	}
}

// asNobody tells whether the test runs as a user who is not root; as root it runs
// itself again as one.
func asNobody(t *testing.T) bool {
	if os.Geteuid() != 0 {
		return true
	}
	dir := faultTemp(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(dir, "test")
	if err := errors.Join(os.WriteFile(copied, data, 0o755), os.Chmod(copied, 0o755), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(copied, "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	cmd.Env = []string{"TMPDIR=/tmp", "HOME=/nonexistent"}
	out, err := cmd.CombinedOutput()
	if err != nil && !strings.Contains(string(out), "--- FAIL") {
		t.Skipf("cannot run as another user: %v\n%s", err, out)
	}
	if err != nil {
		t.Errorf("as another user:\n%s", out)
	}
	return false
}
