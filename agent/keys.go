package agent

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
)

// KeyInfo describes a key slot.
type KeyInfo struct {
	ID      string // 32 hex digits
	Kind    string // "passphrase", "recovery key"
	Label   string
	Created time.Time
}

// KeyChange is a request to change the vault's passphrases.
type KeyChange struct {
	Current string // a passphrase or recovery key that opens the vault now
	New     string // the new passphrase
	Label   string
	KDF     key.KDFParams // zero: the default
}

// ErrLastKey is returned where a change would leave the vault without a
// passphrase and without a recovery key.
var ErrLastKey = errors.New("it is the last key of the vault")

// Keys lists the key slots that count.
func (s *Session) Keys() []KeyInfo {
	var out []KeyInfo
	for _, sl := range s.vault.Log.State().Slots() {
		out = append(out, KeyInfo{
			ID: sl.ID.String(), Kind: key.SlotKind(sl.Kind).String(), Label: sl.Label, Created: time.Unix(0, sl.Created),
		})
	}
	return out
}

// RecoveryKey shows the recovery key to whoever knows a passphrase.
func (s *Session) RecoveryKey(ctx context.Context, passphrase string) (key.RecoveryKey, error) {
	sec, _, err := s.authorize(ctx, passphrase)
	return sec.Recovery, err
}

// authorize opens a slot that the log names.
func (s *Session) authorize(ctx context.Context, secret string) (key.Secrets, vault.Slot, error) {
	return unlockWith(ctx, s.backend, s.vault.Config, secret, func(_ key.Secrets, slot vault.Slot) error { return s.named(slot) })
}

// AddPassphrase adds a slot with a new passphrase.
func (s *Session) AddPassphrase(ctx context.Context, c KeyChange) error {
	_, err := s.changeKeys(ctx, c, nil)
	return err
}

// ChangePassphrase replaces the passphrase: the one given, or, where a recovery
// key was given since the passphrase is lost, all of them. The new slot is stored
// first, then the log entry makes the change, then the old slots are deleted: a
// crash leaves a vault that one of the two passphrases opens.
func (s *Session) ChangePassphrase(ctx context.Context, c KeyChange) error {
	old, err := s.changeKeys(ctx, c, func(used vault.Slot, slots []log.Slot) (remove []log.SlotID) {
		for _, sl := range slots {
			lost := used.Kind == key.KindRecovery && key.SlotKind(sl.Kind) == key.KindPassphrase
			if sl.ID == log.SlotID(used.ID) && used.Kind == key.KindPassphrase || lost {
				remove = append(remove, sl.ID)
			}
		}
		return remove
	})
	if err != nil {
		return err
	}
	return s.deleteSlots(ctx, old)
}

// changeKeys stores a new slot and appends the KEYCHANGE that names it.
func (s *Session) changeKeys(ctx context.Context, c KeyChange, remove func(vault.Slot, []log.Slot) []log.SlotID) ([]log.SlotID, error) {
	with, err := key.NewPassphrase([]byte(c.New))
	if err != nil {
		return nil, err
	}
	if err := s.mayWrite(s.vault.Log.State()); err != nil {
		return nil, err
	}
	sec, used, err := s.authorize(ctx, c.Current)
	if err != nil {
		return nil, err
	}
	if len(s.vault.Log.State().Slots()) >= log.MaxSlots {
		return nil, fmt.Errorf("add a passphrase: the vault has %d keys already; remove one first", log.MaxSlots)
	}
	slot, err := vault.PutSlot(ctx, s.backend, s.vault.Config.Vault, c.KDF, with, sec, s.now(), c.Label, s.randomness())
	if err != nil {
		return nil, err
	}
	var removed []log.SlotID
	var refused error
	admin := ed25519.NewKeyFromSeed(sec.AdminSeed[:])
	_, err = s.vault.Log.Append(ctx, admin, func(st *log.State) (log.Body, error) {
		if removed = nil; remove != nil {
			removed = remove(used, st.Slots())
		}
		if refused = checkSlots(st, used, 1, removed); refused != nil {
			return nil, refused
		}
		return &log.KeyChange{Added: []log.Slot{slot}, Removed: removed}, nil
	})
	if refused != nil {
		s.deleteSlots(ctx, []log.SlotID{slot.ID}) // no entry names it
	}
	if err != nil {
		return nil, fmt.Errorf("change keys: %w", err)
	}
	return removed, nil
}

// RemoveKey takes a slot out of use. It needs a secret of another slot, so that
// nobody locks himself out.
func (s *Session) RemoveKey(ctx context.Context, secret, id string) error {
	slot, err := s.findSlot(id)
	if err != nil {
		return err
	}
	sec, used, err := s.authorize(ctx, secret)
	if err != nil {
		return err
	}
	if log.SlotID(used.ID) == slot {
		return fmt.Errorf("%w that you have shown to know; give another one's passphrase, or the recovery key", ErrLastKey)
	}
	_, err = s.vault.Log.Append(ctx, ed25519.NewKeyFromSeed(sec.AdminSeed[:]), func(st *log.State) (log.Body, error) {
		removed := []log.SlotID{slot}
		if err := checkSlots(st, used, 0, removed); err != nil {
			return nil, err
		}
		return &log.KeyChange{Removed: removed}, nil
	})
	if err != nil {
		return fmt.Errorf("remove key: %w", err)
	}
	return s.deleteSlots(ctx, []log.SlotID{slot})
}

// checkSlots tells whether a change of keys is one, as of a state of the log:
// others may have changed them since used gave its secret. A KEYCHANGE that would
// leave no slot, or too many, has no effect, and the slots that it was to remove
// must then not be deleted.
func checkSlots(st *log.State, used vault.Slot, added int, removed []log.SlotID) error {
	left, counts := added, false
	for _, sl := range st.Slots() {
		counts = counts || sl.ID == log.SlotID(used.ID)
		if !slices.Contains(removed, sl.ID) {
			left++
		}
	}
	switch {
	case !counts:
		return fmt.Errorf("%w: this passphrase or key was taken out of use", key.ErrWrongKey)
	case left == 0:
		return ErrLastKey
	case left > log.MaxSlots:
		return fmt.Errorf("the vault has %d keys already; remove one first", log.MaxSlots)
	}
	return nil
}

func (s *Session) findSlot(prefix string) (found log.SlotID, err error) {
	n := 0
	for _, sl := range s.vault.Log.State().Slots() {
		if strings.HasPrefix(sl.ID.String(), strings.ToLower(prefix)) {
			found = sl.ID
			n++
		}
	}
	if n != 1 || len(prefix) < minPointPrefix {
		return found, fmt.Errorf("no key has an ID that begins with %q, or several have; list them with: agent key list", prefix)
	}
	return found, nil
}

// deleteSlots removes slots that the log no longer names.
func (s *Session) deleteSlots(ctx context.Context, ids []log.SlotID) error {
	for _, id := range ids {
		err := s.backend.Delete(ctx, vault.SlotName(key.SlotID(id)))
		if err != nil && !errors.Is(err, backend.ErrNotFound) {
			return fmt.Errorf("delete old key slot: %w", err)
		}
	}
	return nil
}
