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
// "" where the system does not say, which counts as the same. In a container it
// is the image's, or drawn at each start, and tells nothing.
func hardwareID() string {
	for _, container := range []string{"/.dockerenv", "/run/.containerenv"} {
		if _, err := os.Lstat(container); err == nil {
			return ""
		}
	}
	b, err := os.ReadFile("/etc/machine-id")
	if err != nil || len(b) == 0 {
		return ""
	}
	sum := sha256.Sum256([]byte("tharsis/0/hardware" + strings.TrimSpace(string(b))))
	return fmt.Sprintf("%x", sum[:16])
}

// hardware is the environment's, or the system's.
func (e *Environment) hardware() string {
	if e.Hardware != "" {
		return e.Hardware
	}
	return hardwareID()
}

// enrol makes the log know this machine, its key and its name. It needs the
// admin key, which a passphrase opens. It is a home's first write to a vault, so
// it first looks whether the backend keeps what it has.
func (s *Session) enrol(ctx context.Context) error {
	st := s.vault.Log.State()
	if err := s.mayWrite(st); err != nil {
		return err
	}
	want := s.machineEntry()
	if m, ok := st.Machine(s.machine.ID); ok && m.Key == want.Key {
		return nil
	}
	admin, err := s.admin(ctx, "enrol this machine")
	if err != nil {
		return err
	}
	if s.vault.Config.Mode == key.ModeShared {
		if err := vault.Probe(ctx, s.backend, s.randomness()); err != nil {
			return fmt.Errorf("enrol this machine: %w", err)
		}
	}
	_, err = s.vault.Log.Append(ctx, admin, func(*log.State) (log.Body, error) { return want, nil })
	if err != nil {
		return fmt.Errorf("enrol this machine: %w", err)
	}
	return nil
}

// machineEntry is what the log is to know of this machine.
func (s *Session) machineEntry() *log.Machine {
	return &log.Machine{ID: s.machine.ID, Key: log.PublicOf(s.machine.Key), Name: s.host, OS: runtime.GOOS + "/" + runtime.GOARCH}
}

// identify makes sure that this home, and no copy of it, goes on under its machine
// ID (docs/decisions/0006-clones.md).
//
// A home on other hardware than it was made on is a copy, and gets an ID of its
// own. On the same hardware a COMMIT of this ID that the home does not know was
// made by its own later self, before the home was put back to an older state, or by
// a copy: at first there is no telling. So it goes on from the log, under a fresh
// install nonce. Where there are two, the other one meets that nonce, which it does
// not know, and is the one that gets a new ID.
func (s *Session) identify(ctx context.Context) error {
	if was, is := s.machine.Hardware, s.env.hardware(); was != "" && is != "" && was != is {
		return s.newIdentity(ctx, "this home was made on another machine and is taken for a copy of that one's")
	}
	last, ok := s.vault.Log.State().LastCommit(s.machine.ID)
	if !ok || last.Entry == s.head.Commit {
		return nil
	}
	if last.Install != s.machine.Nonce {
		return s.newIdentity(ctx, "a copy of this home makes points in its machine's name")
	}
	ours, err := s.journalHas(last.Point)
	if err != nil {
		return err
	}
	if err := s.dropJournal(); err != nil {
		return err
	}
	if err := s.committed(last.Entry); err != nil {
		return err
	}
	if ours { // a job was killed between its COMMIT and the end: its work is done
		return nil
	}
	s.note(Note{Info, "", "this home is older than the newest point of this machine; it goes on from the vault's log"})
	// Last: a home that is killed before this goes on, and only cannot be told from
	// its copies until the next time.
	s.machine, err = s.home.Renew(s.env.Rand, s.machine)
	return err
}

// newIdentity makes this home another machine.
func (s *Session) newIdentity(ctx context.Context, why string) error {
	// The log has to learn of it, so without the key for that all stays as it is.
	if s.vault.Config.Mode == key.ModeShared {
		if _, err := s.admin(ctx, why+", which needs a machine ID of its own"); err != nil {
			return err
		}
	}
	s.note(Note{Warning, "", why + ": it gets a machine ID of its own, and its next backup reads everything"})
	var err error
	if s.machine, err = s.home.NewMachine(s.env.Rand, s.env.hardware()); err != nil {
		return err
	}
	if err := s.dropJournal(); err != nil {
		return err
	}
	return s.committed(log.NoEntry)
}

// lastCommit is this machine's newest COMMIT as of a state of the log.
func (s *Session) lastCommit(st *log.State) log.Head {
	if last, ok := st.LastCommit(s.machine.ID); ok {
		return last.Entry
	}
	return log.NoEntry
}

// dropJournal removes the journal: what it says is in the vault, or void.
func (s *Session) dropJournal() error {
	err := disk.Remove(s.cache.JournalPath())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove journal: %w", err)
	}
	return nil
}
