package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/log"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// simContents is how many contents files have: few, so that one machine needs today
// what another one deleted yesterday.
const simContents = 14

// simNames are the files of a source. The first is always there.
var simNames = []string{"a", "b", "c", "d/e", "d/f"}

func simContent(n int) string {
	return strings.Repeat(fmt.Sprintf("%d what the file holds ", n*n*7919), 2+n%5)
}

// edit gives a file of a machine's source another content, or takes it away.
func (w *simWorld) edit(m *simMachine, n int) error {
	name := simNames[n/simContents%len(simNames)]
	content := simContent(n % simContents)
	path := filepath.Join(m.source.dir, name)
	if n%simContents == simContents-1 && name != simNames[0] {
		delete(m.source.files, name)
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	w.edits++
	m.source.files[name] = content
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		return err
	}
	// No two states of a file may look the same, however fast the simulation is.
	at := time.Unix(1_600_000_000+int64(w.edits), 0)
	return os.Chtimes(path, at, at)
}

// enlarge gives a source so many files that a job makes what it has stored part of the
// vault on its way.
func (w *simWorld) enlarge(src *simSource, n int) error {
	for i := range partialCheck + 4 {
		name := fmt.Sprintf("z%02d", i)
		src.files[name] = simContent((i + n) % simContents)
		path := filepath.Join(src.dir, name)
		if err := os.WriteFile(path, []byte(src.files[name]), 0o600); err != nil {
			return err
		}
		at := time.Unix(1_500_000_000+int64(i+n), 0)
		if err := os.Chtimes(path, at, at); err != nil {
			return err
		}
	}
	return nil
}

// run is what a process does from its beginning to its end.
func (p *simProc) run() error {
	switch p.what {
	case "backup":
		return p.session(func(ctx context.Context, s *Session) error {
			res, err := s.Backup(ctx, BackupOptions{Paths: []string{p.m.source.dir}})
			if err == nil && res.Status != Completed && !p.spoilt && !p.w.oracle.broken {
				return fmt.Errorf("it ended as %s", res.Status)
			}
			return err
		})
	case "prune":
		return p.session(func(ctx context.Context, s *Session) error {
			_, err := s.Prune(ctx, PruneOptions{Confirm: p.n > 0})
			return err
		})
	case "restore":
		return p.session(p.restore)
	case "merge":
		return p.session(func(ctx context.Context, s *Session) error {
			x, err := s.vault.OpenIndex(ctx, s.indexOptions(true))
			if err != nil {
				return err
			}
			return s.mergeInto(ctx, x.Runs(), s.machine.Key)
		})
	case "verify":
		return p.session(func(ctx context.Context, s *Session) error {
			_, err := s.Verify(ctx, VerifyOptions{ReadData: true, Quarantine: true})
			return err
		})
	case "repair":
		return p.session(func(ctx context.Context, s *Session) error {
			_, err := s.Repair(ctx, RepairOptions{})
			return err
		})
	}
	return p.session(func(ctx context.Context, s *Session) error {
		points := slices.DeleteFunc(s.vault.Log.State().Points(), func(k log.PointInfo) bool {
			return p.what == "undelete" && k.Forgotten == 0 || p.what == "unhold" && !k.Held
		})
		if len(points) == 0 {
			return nil
		}
		var err error
		var id []string // one point, or some
		for i := range min(1+p.n/100, len(points)) {
			id = append(id, points[(p.n+i)%len(points)].Point.ID.String())
		}
		switch p.what {
		case "forget":
			_, err = s.Forget(ctx, id, ForgetOptions{Last: true})
		case "undelete":
			_, err = s.Undelete(ctx, id)
		case "hold":
			_, err = s.Hold(ctx, id, "the simulator")
		case "unhold":
			_, err = s.Unhold(ctx, id)
		default:
			err = fmt.Errorf("no such thing as %q", p.what)
		}
		return err
	})
}

func nth[T any](all []T, n int) (t T, ok bool) {
	if len(all) == 0 {
		return t, false
	}
	return all[n%len(all)], true
}

// simNoted are the errors that a person gets where nothing is wrong.
var simNoted = []error{ErrConfirm, ErrNoPoint, ErrHeld, errMoved, errSuperseded, errNothingToDo, errPurged}

var errPurged = errors.New("the point was purged meanwhile")

// ended judges how a process ended. One whose calls were not spoilt, in a vault of
// which nothing was destroyed, has to succeed.
func (w *simWorld) ended(p *simProc) {
	w.count(p.what)
	p.m.failed = p.err
	noted := slices.ContainsFunc(simNoted, func(e error) bool { return errors.Is(p.err, e) })
	if p.err == nil || noted || p.spoilt {
		return
	}
	w.count("failed " + p.what)
	if w.oracle.broken && (p.what != "backup" || errors.Is(p.err, ErrDamaged)) {
		return
	}
	w.wrong("I5", "%s of machine %d: %v", p.what, p.m.n, p.err)
}

// died is told of a process that was killed.
func (w *simWorld) died(*simProc) {}

// restore restores a point and compares it with what it was made of.
func (p *simProc) restore(ctx context.Context, s *Session) error {
	point, ok := nth(s.vault.Log.State().Points(), p.n)
	if !ok {
		return nil
	}
	target, err := os.MkdirTemp(p.w.dir, "target-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(target)
	res, err := s.Restore(ctx, RestoreOptions{Point: point.Point.ID.String(), Target: target})
	return p.w.oracle.restored(p, point.Point, target, res, err)
}

// restored judges a restore.
func (o *simOracle) restored(p *simProc, point *log.Point, target string, res RestoreResult, err error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	want := o.points[point.ID]
	if now, ok := o.v.Log.State().Point(point.ID); !ok || now.Purged || want == nil {
		return errPurged
	}
	if slices.ContainsFunc(point.Sources, func(s log.Source) bool { return o.hurt(s.Root) }) {
		return errPurged
	}
	if err == nil && res.Failed > 0 {
		err = fmt.Errorf("%d entries failed", res.Failed)
	}
	if err != nil {
		return fmt.Errorf("restore point %d: %w", want.n, err)
	}
	have := 0
	root := filepath.Join(target, want.source)
	err = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		have++
		rel, _ := filepath.Rel(root, path)
		b, err := os.ReadFile(path)
		if err == nil && string(b) != want.files[rel] {
			o.w.wrong("restore", "point %d: %s has %q instead of %q", want.n, rel, b, want.files[rel])
		}
		return err
	})
	if err == nil && have != len(want.files) {
		o.w.wrong("restore", "point %d has %d files instead of %d", want.n, have, len(want.files))
	}
	return err
}

// destroy makes the store lose a pack, or damages it.
func (w *simWorld) destroy(n int, damage bool) {
	o := w.oracle
	o.mu.Lock()
	defer o.mu.Unlock()
	var packs []string
	for _, info := range w.list("packs/", false) {
		packs = append(packs, info.Name)
	}
	name, ok := nth(packs, n)
	if !ok {
		return
	}
	id, _ := pack.IDOf(name)
	o.broken = true
	o.pack(id).destroyed = true
	if damage {
		o.pack(id).damaged = true
		w.vault.Corrupt(name, 60, 1)
	} else {
		o.pack(id).present = false
		w.vault.Remove(name)
	}
	w.count("destroyed packs")
}

// steal makes a thief with a member's keys append an entry.
func (w *simWorld) steal(n int) error {
	ctx := context.Background()
	t := w.template.thief
	v, err := vault.Open(ctx, w.vault, w.template.root, nil, vault.Options{Log: log.Options{
		Now: w.now,
	}})
	if err != nil {
		return err
	}
	st := v.Log.State()
	var points []log.PointID
	for _, p := range st.Points() {
		points = append(points, p.Point.ID)
	}
	var packs []chunk.ID
	for _, info := range w.list("packs/", false) {
		if id, ok := pack.IDOf(info.Name); ok {
			packs = append(packs, id)
		}
	}
	slices.SortFunc(packs, chunk.ID.Compare)
	var body log.Body
	switch n % 8 {
	case 0:
		body = &log.Forget{Points: points}
	case 1:
		body = &log.Purge{Points: points}
	case 2:
		body = &log.Condemn{Packs: packs}
	case 3:
		body = &log.Swept{Packs: packs, Runs: st.Runs()}
	case 4:
		if p, ok := nth(packs, n/8); ok {
			body = &log.Quarantine{Packs: []chunk.ID{p}, Reason: "a thief"}
		}
	case 5:
		body = &log.Unhold{Points: points}
	case 6:
		body = &log.Noted{Forgets: st.Unnoted()}
	case 7:
		p := log.Point{Machine: t.ID, Install: t.Nonce, Previous: log.NoEntry, Host: "thief", Agent: Version,
			Sources: []log.Source{{ID: sourceID(t.ID, "/"), Path: "/", Status: log.StatusComplete, Base: log.None, Root: chunk.ID{9}}}}
		rand.Read(p.ID[:])
		body = &log.Commit{Point: p}
	}
	if body == nil {
		return nil
	}
	return w.forge(ctx, v, body)
}

// forge puts an entry into the log whatever its writer may.
func (w *simWorld) forge(ctx context.Context, v *vault.Vault, body log.Body) error {
	head := v.Log.Head()
	e := &log.Entry{Seq: head.Seq + 1, Prev: head.Hash, Time: w.now().UnixNano(), Body: body}
	object, err := e.Seal(v.Ring, w.template.thief.Key)
	if err != nil {
		return err
	}
	w.count("forged " + body.Type().String())
	return w.put(nil, log.EntryName(e.Seq), object)
}
