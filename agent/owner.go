package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
)

// On a backend that replaces objects, one machine alone may write to the vault, its
// owner, and one process of it at a time. Everyone with a key can read. The log says
// who the owner is, so that each append, which is preceded by reading the log, learns
// of a take-over. Nothing can keep an owner of before from a Put that it was about to
// make when another took over. So a take-over waits before anything is built on its
// entry, and looks whether that still stands.

// takeOverWait is how long a take-over waits for a Put of the owner before: much
// longer than the moment between its reading the log and that, unless it sleeps.
const takeOverWait = 10 * time.Second

// ErrShared is returned by TakeOver where any machine may write to the vault.
var ErrShared = errors.New("any machine may write to this vault: it has no owner")

// Owner is the machine that alone may write to a vault.
type Owner struct {
	ID   log.MachineID
	Name string // "" where the log does not know it yet
	Self bool   // it is this machine
}

func (o Owner) String() string {
	if o.Name == "" {
		return o.ID.String()
	}
	return o.Name + " (" + o.ID.String() + ")"
}

// Owner is the vault's owner, or ok = false where any machine may write.
func (s *Session) Owner() (o Owner, ok bool) {
	return s.ownerIn(s.vault.Log.State()), s.vault.Config.Mode == key.ModeOwner
}

// ownerIn is the owner as of a state of the log.
func (s *Session) ownerIn(st *log.State) (o Owner) {
	o.ID = log.MachineID(s.vault.Config.Owner)
	if id, ok := st.Owner(); ok {
		o.ID = id
	}
	m, _ := st.Machine(o.ID)
	o.Name, o.Self = m.Name, o.ID == s.machine.ID
	return o
}

// readOnly tells whether this machine may not write to the vault.
func (s *Session) readOnly() bool {
	o, sole := s.Owner()
	return sole && !o.Self
}

// mayWrite is an error where this machine may not write to the vault, as of a state
// of the log. In a vault with an owner it takes the home, until the session is
// closed. Whoever stores objects before the entry that names them asks it first;
// each append asks it again.
func (s *Session) mayWrite(st *log.State) error {
	if s.vault.Config.Mode == key.ModeShared {
		return nil
	}
	if o := s.ownerIn(st); !o.Self {
		return fmt.Errorf("%w: that is %s", vault.ErrNotOwner, o)
	}
	return s.hold()
}

// sole is mayWrite for the log's appends. A machine may say that it is the owner now.
func (s *Session) sole(st *log.State, body log.Body) error {
	if m, ok := body.(*log.Machine); ok && m.Owner && m.ID == s.machine.ID {
		return s.hold()
	}
	return s.mayWrite(st)
}

// hold takes the home's lock where nobody did.
func (s *Session) hold() error {
	if s.home.Locked() {
		return nil
	}
	if err := s.home.Lock(); err != nil {
		return err
	}
	s.holds = true
	return nil
}

// TakeOver makes this machine the vault's owner. confirm is told who was it before,
// and its error ends the work. It needs the admin key. The home must be locked.
func (s *Session) TakeOver(ctx context.Context, confirm func(Owner) error) error {
	if s.vault.Config.Mode == key.ModeShared {
		return ErrShared
	}
	if err := s.refresh(ctx); err != nil {
		return err
	}
	if err := s.identify(ctx); err != nil {
		return err
	}
	before := s.ownerIn(s.vault.Log.State())
	if before.Self {
		return nil
	}
	if err := confirm(before); err != nil {
		return err
	}
	admin, err := s.admin(ctx, "take the vault over")
	if err != nil {
		return err
	}
	want := s.machineEntry()
	want.Owner = true
	_, err = s.vault.Log.Append(ctx, admin, func(st *log.State) (log.Body, error) {
		if now := s.ownerIn(st); now.ID != before.ID {
			return nil, fmt.Errorf("take the vault over: meanwhile it was taken over by %s", now)
		}
		return want, nil
	})
	if err != nil {
		return err
	}
	s.note(Note{Info, "", fmt.Sprintf("waiting %s, in case that the owner before is writing at this moment", takeOverWait)})
	if err := s.sleep(ctx, takeOverWait); err != nil {
		return err
	}
	if err := s.vault.Log.Refresh(ctx); err != nil {
		return fmt.Errorf("take the vault over: the owner before may have written at the same time: %w", err)
	}
	return s.saveHead()
}

func (s *Session) sleep(ctx context.Context, d time.Duration) error {
	if s.env.Sleep != nil {
		return s.env.Sleep(ctx, d)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
