package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/tharsis-backup/tharsis/agent/home"
	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/backend/fault"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
)

// ownerRig is a vault in a place that replaces objects, with its owner, and another
// machine that only reads.
type ownerRig struct {
	*faultRig
	owner, other *faultWorld
}

func newOwnerRig(t *testing.T) *ownerRig {
	t.Helper()
	o := &ownerRig{faultRig: newFaultRig(t)}
	o.owner = o.world("box")
	o.owner.wrap = fault.Replacing
	must(t, o.owner.init(t.Context()))
	o.edit(0)
	_, err := o.owner.backup(t.Context(), o.src)
	must(t, err)
	o.other = &faultWorld{home: filepath.Join(o.root, "box", "other"), vault: o.owner.vault, host: "other", wrap: fault.Replacing}
	_, err = o.other.points(t.Context())
	must(t, err)
	return o
}

// image copies the vault and the two homes as they lie on the disk.
func (o *ownerRig) image(name string) *ownerRig {
	o.t.Helper()
	c := *o
	c.owner = o.world(name)
	c.other = &faultWorld{home: filepath.Join(o.root, name, "other"), vault: c.owner.vault, host: "other"}
	must(o.t, faultCopy(o.other.home, c.other.home, false))
	must(o.t, retarget(c.other.home, o.owner.vault, c.owner.vault))
	faultImage(o.t, o.owner, c.owner)
	c.owner.wrap, c.other.wrap = fault.Replacing, fault.Replacing
	return &c
}

func (o *ownerRig) drop() { os.RemoveAll(filepath.Dir(o.owner.home)) }

func (w *faultWorld) takeOver(ctx context.Context) error {
	return w.session(ctx, true, func(s *Session) error {
		return s.TakeOver(ctx, func(Owner) error { return nil })
	})
}

// Whoever is not the owner can write nothing, by no command.
func TestFaultOwnerAlone(t *testing.T) {
	ctx := t.Context()
	o := newOwnerRig(t)
	before := faultFiles(t, o.owner.vault)
	refuses := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, vault.ErrNotOwner) {
			t.Errorf("%s: %v", what, err)
		}
		if !equalObjects(before, faultFiles(t, o.owner.vault)) {
			t.Errorf("%s: the vault was changed", what)
		}
	}
	_, err := o.other.backup(ctx, o.src)
	refuses("backup", err)
	refuses("key change", o.other.changePassphrase(ctx, faultPass, faultNewPass))
	for what, do := range map[string]func(s *Session) error{
		"key add": func(s *Session) error {
			return s.AddPassphrase(ctx, KeyChange{Current: faultPass, New: faultNewPass, KDF: faultKDF})
		},
		"key remove": func(s *Session) error { return s.RemoveKey(ctx, faultPass, s.Keys()[1].ID) },
		"any entry": func(s *Session) error {
			admin, err := s.admin(ctx, "test")
			if err != nil {
				return err
			}
			_, err = s.vault.Log.Append(ctx, admin, func(*log.State) (log.Body, error) { return &log.Noted{}, nil })
			return err
		},
		"another as owner": func(s *Session) error {
			admin, err := s.admin(ctx, "test")
			if err != nil {
				return err
			}
			m := s.machineEntry()
			m.ID, m.Owner = log.MachineID{1}, true
			_, err = s.vault.Log.Append(ctx, admin, func(*log.State) (log.Body, error) { return m, nil })
			return err
		},
	} {
		refuses(what, o.other.session(ctx, false, do))
	}
	// The owner writes under the lock of its home.
	err = o.owner.locked(func(*home.Home) error { return o.owner.changePassphrase(ctx, faultPass, faultNewPass) })
	if !errors.Is(err, home.ErrBusy) {
		t.Errorf("beside another job of the owner: %v", err)
	}
	must(t, o.owner.session(ctx, false, func(s *Session) error {
		return s.AddPassphrase(ctx, KeyChange{Current: faultPass, New: faultNewPass, KDF: faultKDF})
	}))
	must(t, o.owner.locked(func(*home.Home) error { return nil })) // it was given back
}

// eachOperation lets the owner back up once for each moment of that, or for a sample
// of them, at which meanwhile is called.
func (o *ownerRig) eachOperation(sample int, meanwhile func(c *ownerRig, what string), after func(c *ownerRig, what string, res BackupResult, err error)) (cases, total int) {
	o.t.Helper()
	ctx := o.t.Context()
	var ops *fault.Backend
	c := o.image("count")
	c.owner.wrap = func(b backend.Backend) backend.Backend {
		ops = fault.New(fault.Replacing(b), nil)
		return ops
	}
	_, err := c.owner.backup(ctx, o.src)
	must(o.t, err)
	c.drop()
	total = 2 * ops.Count()
	for _, n := range faultSample(total, sample) {
		c := o.image("case")
		what := ""
		c.owner.wrap = func(b backend.Backend) backend.Backend {
			return fault.New(fault.Replacing(b), func(op fault.Op) fault.Action {
				if op.N == n/2 && op.After == (n%2 == 1) {
					what = op.String()
					meanwhile(c, what)
				}
				return fault.Action{}
			})
		}
		res, err := c.owner.backup(ctx, o.src)
		c.owner.wrap = fault.Replacing
		if what != "" { // a run may take fewer operations
			cases++
			after(c, what, res, err)
		}
		c.drop()
	}
	return cases, total
}

// A machine that takes over while the owner has a job under way, at each of its
// operations, and while it waits, that job goes on to its end: the log stays whole,
// and whoever was told of a point has it, or learns that the log is not as it wrote
// it.
func TestFaultTakenOverMeanwhile(t *testing.T) {
	ctx := t.Context()
	o := newOwnerRig(t)
	o.edit(1)
	took, ended := make(chan error, 1), make(chan bool)
	both, refused, again := 0, 0, 0
	meanwhile := func(c *ownerRig, _ string) {
		waits := make(chan bool)
		c.other.sleep = func(_ context.Context, d time.Duration) error {
			if d == takeOverWait {
				close(waits)
				<-ended
			}
			return nil
		}
		go func() { took <- c.other.takeOver(ctx) }()
		select {
		case <-waits:
		case <-time.After(faultStuck):
			t.Error("it does not wait")
		}
	}
	cases, total := o.eachOperation(16, meanwhile, func(c *ownerRig, what string, ours BackupResult, err error) {
		ended <- true
		tookErr := <-took
		c.other.sleep = nil
		switch {
		case err == nil && tookErr == nil:
			both++ // the job was at its end
		case err != nil && tookErr == nil:
			refused++
			if !errors.Is(err, vault.ErrNotOwner) {
				t.Errorf("%s: the owner before: %v", what, err)
			}
		case errors.Is(tookErr, log.ErrForked):
			again++ // it was overwritten, and says so
			if _, err := c.other.accept(ctx); err != nil {
				t.Errorf("%s: accept: %v", what, err)
			}
		default:
			t.Errorf("%s: take-over: %v", what, tookErr)
		}
		if err == nil {
			if err := c.owner.restoresTo(ctx, t, ours.Point, o.src, o.want[1]); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		c.ends(what)
	})
	t.Logf("%d cases of %d: the owner was refused in %d, had ended in %d, and the take-over had to be made again in %d",
		cases, total, refused, both, again)
}

// A machine that takes over and builds on that while the owner before sleeps between
// its reading of the log and its Put: that breaks the log, and it says so.
func TestFaultOwnerSleeps(t *testing.T) {
	ctx := t.Context()
	o := newOwnerRig(t)
	o.edit(1)
	refused, broken := 0, 0
	meanwhile := func(c *ownerRig, what string) {
		if err := c.other.takeOver(ctx); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := c.other.backup(ctx, o.src); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	cases, total := o.eachOperation(16, meanwhile, func(c *ownerRig, what string, _ BackupResult, err error) {
		fresh := &faultWorld{home: c.owner.home + "-fresh", vault: c.owner.vault, host: "fresh", wrap: fault.Replacing}
		_, readErr := fresh.points(ctx)
		switch {
		case errors.Is(readErr, key.ErrDamaged):
			broken++
			if !errors.Is(err, key.ErrDamaged) {
				t.Errorf("%s: the log is broken, and the owner before is told %v", what, err)
			}
			return
		case errors.Is(err, vault.ErrNotOwner):
			refused++
		case err != nil:
			t.Errorf("%s: %v", what, err)
		}
		c.ends(what)
	})
	t.Logf("%d cases of %d: refused in %d, the log broken in %d", cases, total, refused, broken)
	if broken > 2 {
		t.Error("the log is broken at other moments than that between the last look and the Put")
	}
}

// ends checks that one of the two machines can write, the other after it took over,
// and that all points restore.
func (o *ownerRig) ends(what string) {
	o.t.Helper()
	ctx := o.t.Context()
	writers := 0
	for _, w := range []*faultWorld{o.owner, o.other} {
		if _, err := w.backup(ctx, o.src); err == nil {
			writers++
		} else if !errors.Is(err, vault.ErrNotOwner) {
			o.t.Errorf("%s: %q: %v", what, w.host, err)
		}
	}
	if writers != 1 {
		o.t.Errorf("%s: %d machines write", what, writers)
	}
	for _, w := range []*faultWorld{o.other, o.owner} {
		if err := w.takeOver(ctx); err != nil {
			o.t.Errorf("%s: %q takes over: %v", what, w.host, err)
		}
		if _, err := w.backup(ctx, o.src); err != nil {
			o.t.Errorf("%s: %q after it took over: %v", what, w.host, err)
		}
	}
	points, err := o.other.points(ctx)
	if err != nil {
		o.t.Errorf("%s: %v", what, err)
	}
	for i, p := range points {
		state := 1
		if i == 0 {
			state = 0
		}
		if err := o.other.restoresTo(ctx, o.t, p.ID.String(), o.src, o.want[state]); err != nil {
			o.t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := o.owner.verify(ctx); err != nil {
		o.t.Errorf("%s: verify: %v", what, err)
	}
}

// Death at each moment of a take-over, of a backup and of a change of keys in a
// vault of one writer, and failures of each operation.
func TestFaultOwnerKilled(t *testing.T) {
	ctx := t.Context()
	o := newOwnerRig(t)
	o.edit(1)
	total, cases := 0, 0
	for name, do := range map[string]func(o *ownerRig) error{
		"take-over":  func(o *ownerRig) error { return o.other.takeOver(ctx) },
		"backup":     func(o *ownerRig) error { _, err := o.owner.backup(ctx, o.src); return err },
		"key change": func(o *ownerRig) error { return o.owner.changePassphrase(ctx, faultPass, faultNewPass) },
	} {
		count := &faultMoments{}
		c := o.image("count")
		stop := o.watchBoth(c, count)
		must(t, do(c))
		stop()
		c.drop()
		total += 2 * count.n
		for _, i := range faultSample(2*count.n, 8) {
			cases++
			n, dead := i/2, i%2 == 0
			c := o.image("case")
			m := &faultMoments{at: func(at int, _ string) error {
				if at == n || dead && at > n {
					return errFaultDead
				}
				return nil
			}}
			stop := o.watchBoth(c, m)
			err := do(c)
			stop()
			for _, w := range []*faultWorld{c.owner, c.other} {
				w.secret = faultPass
				if err := w.takeOver(ctx); err != nil { // by the passphrase that counts
					w.secret = faultNewPass
				}
			}
			c.ends(fmt.Sprintf("%s, moment %d, dead %v (%v)", name, n, dead, err))
			c.drop()
		}
	}
	t.Logf("%d cases of %d", cases, total)
}

// watchBoth watches both machines.
func (*ownerRig) watchBoth(c *ownerRig, m *faultMoments) (stop func()) {
	stopOwner := m.watch(c.owner)
	below := c.other.wrap
	c.other.wrap = func(b backend.Backend) backend.Backend {
		return fault.New(below(b), func(op fault.Op) fault.Action {
			if err := m.moment(op.String()); err != nil {
				return fault.Fail(err)
			}
			return fault.Action{}
		})
	}
	return func() {
		stopOwner()
		c.other.wrap = below
	}
}

// A copy of the owner's home on other hardware is not the owner.
func TestFaultOwnerCopied(t *testing.T) {
	ctx := t.Context()
	o := newOwnerRig(t)
	thief := &faultWorld{home: filepath.Join(o.root, "copied"), vault: o.owner.vault, host: "copied", wrap: fault.Replacing}
	must(t, faultCopy(o.owner.home, thief.home, false))
	if _, err := thief.backup(ctx, o.src); !errors.Is(err, vault.ErrNotOwner) {
		t.Errorf("a copy of the owner: %v", err)
	}
	if _, err := o.owner.backup(ctx, o.src); err != nil {
		t.Errorf("the owner: %v", err)
	}
	must(t, thief.takeOver(ctx))
	if _, err := thief.backup(ctx, o.src); err != nil {
		t.Errorf("the copy, after it took over: %v", err)
	}
	if _, err := o.owner.backup(ctx, o.src); !errors.Is(err, vault.ErrNotOwner) {
		t.Errorf("the owner of before: %v", err)
	}
	points, err := o.owner.points(ctx)
	if err != nil || len(points) != 3 || slices.IndexFunc(points, func(p PointInfo) bool { return p.Machine == "copied" }) != 2 {
		t.Errorf("%d points, %v", len(points), err)
	}
}
