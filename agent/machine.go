package agent

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/tharsis-backup/tharsis/internal/disk"
	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
)

// hardwareID tells whether a home still is on the machine that it was made on;
// "" where the system does not say, which counts as the same.
func hardwareID() string {
	b, err := os.ReadFile("/etc/machine-id")
	if err != nil || len(b) == 0 {
		return ""
	}
	sum := sha256.Sum256([]byte("tharsis/0/hardware" + strings.TrimSpace(string(b))))
	return fmt.Sprintf("%x", sum[:16])
}

// errOwned is returned where a vault lets one machine write, and this is another.
var errOwned = errors.New("the vault lets only its owner machine write")

// enrol makes the log know this machine, its key and its name. It needs the
// admin key, which a passphrase opens. It is a home's first write to a vault, so
// it first looks whether the backend keeps what it has.
func (s *Session) enrol(ctx context.Context) error {
	st := s.vault.Log.State()
	if owner := s.owner(); s.vault.Config.Mode == key.ModeOwner && owner != s.machine.ID {
		return errOwned
	}
	want := log.Machine{ID: s.machine.ID, Key: log.PublicOf(s.machine.Key), Name: s.host, OS: runtime.GOOS + "/" + runtime.GOARCH}
	if m, ok := st.Machine(s.machine.ID); ok && m.Key == want.Key {
		return nil
	}
	admin, err := s.admin(ctx, "enrol this machine")
	if err != nil {
		return err
	}
	if err := vault.Probe(ctx, s.backend, s.randomness()); err != nil {
		return fmt.Errorf("enrol this machine: %w", err)
	}
	_, err = s.vault.Log.Append(ctx, admin, func(*log.State) (log.Body, error) { return &want, nil })
	if err != nil {
		return fmt.Errorf("enrol this machine: %w", err)
	}
	return nil
}

// owner is the machine that alone may write to a vault of owner mode.
func (s *Session) owner() log.MachineID {
	if id, ok := s.vault.Log.State().Owner(); ok {
		return id
	}
	return log.MachineID(s.vault.Config.Owner)
}

// identify checks that the log's newest commit of this machine is the one that
// the home knows. Else the home was restored from an old copy, or copied to
// another machine: there the copy takes a new identity.
func (s *Session) identify(ctx context.Context) error {
	last, ok := s.vault.Log.State().LastCommit(s.machine.ID)
	if !ok || last.Entry == s.head.Commit {
		return nil
	}
	ours, err := s.journalHas(last.Point)
	if err != nil {
		return err
	}
	if err := s.dropJournal(); err != nil {
		return err
	}
	if ours { // a job was killed between its COMMIT and the end: its work is done
		return s.committed(last.Entry)
	}
	same := s.machine.Hardware == "" || s.hardware() == "" || s.machine.Hardware == s.hardware()
	if same && last.Install == s.machine.Nonce {
		s.note(Note{Info, "", "this home is older than the newest point of this machine; it goes on from the vault's log"})
		return s.committed(last.Entry)
	}
	s.note(Note{Info, "", "this home is a copy of another machine's; it gets a machine ID of its own, and its next backup reads everything"})
	if s.machine, err = s.home.NewMachine(s.env.Rand, s.hardware()); err != nil {
		return err
	}
	if err := s.committed(log.NoEntry); err != nil {
		return err
	}
	return s.enrol(ctx)
}

func (s *Session) hardware() string {
	if s.env.Hardware != "" {
		return s.env.Hardware
	}
	return hardwareID()
}

// lastCommit is what the next COMMIT names as the one before it.
func (s *Session) lastCommit() log.Head {
	if last, ok := s.vault.Log.State().LastCommit(s.machine.ID); ok {
		return last.Entry
	}
	return log.NoEntry
}

// committed makes the home know its newest COMMIT.
func (s *Session) committed(entry log.Head) error {
	s.head.Commit = entry
	return s.saveHead()
}

// dropJournal removes the journal: what it says is in the vault, or void.
func (s *Session) dropJournal() error {
	err := disk.Remove(s.cache.JournalPath())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove journal: %w", err)
	}
	return nil
}
