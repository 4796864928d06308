package agent

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"

	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
)

// ErrNeedsRecovery is returned where only the recovery key will do, and something
// else was given.
var ErrNeedsRecovery = errors.New("this needs the vault's recovery key")

// SetSoftDelete changes for how many days deleted points can be brought back, those
// that are deleted already too, and returns how many it were before. To raise it
// takes the admin key. To lower it takes the recovery key, from Environment.Secret:
// what has taken a machine over, and maybe its passphrase, must not shorten the time
// in which its deletions can be undone. Else it returns ErrNeedsRecovery.
func (s *Session) SetSoftDelete(ctx context.Context, days int) (before int, err error) {
	if err := log.CheckSoftDeleteDays(days); err != nil {
		return 0, err
	}
	if err := s.mayWrite(s.vault.Log.State()); err != nil {
		return 0, err
	}
	if err := s.refresh(ctx); err != nil {
		return 0, err
	}
	if before = s.vault.Log.State().SoftDeleteDays(); before == days {
		return before, nil
	}
	var admin ed25519.PrivateKey
	var shown *vault.Slot // of the recovery key, where it was given
	if days > before {
		admin, err = s.admin(ctx, "raise the soft-delete period")
	} else {
		admin, shown, err = s.recoveryAdmin(ctx)
	}
	if err != nil {
		return before, err
	}
	_, err = s.vault.Log.Append(ctx, admin, func(st *log.State) (log.Body, error) {
		before = st.SoftDeleteDays()
		return softDelete(st, days, shown)
	})
	if err != nil && !errors.Is(err, errNothingToDo) {
		return before, fmt.Errorf("change the soft-delete period: %w", err)
	}
	return before, s.saveHead()
}

// softDelete is the entry that makes the period so many days, if it may be written
// as of a state: others may have changed period and keys meanwhile.
func softDelete(st *log.State, days int, shown *vault.Slot) (log.Body, error) {
	switch now := st.SoftDeleteDays(); {
	case now == days:
		return nil, errNothingToDo
	case shown != nil:
		if err := checkSlots(st, *shown, 0, nil); err != nil {
			return nil, err
		}
	case days < now:
		return nil, fmt.Errorf("%w: the period was raised to %d days meanwhile", ErrNeedsRecovery, now)
	}
	return &log.Settings{SoftDeleteDays: days}, nil
}

// recoveryAdmin asks for the recovery key and opens its slot.
func (s *Session) recoveryAdmin(ctx context.Context) (ed25519.PrivateKey, *vault.Slot, error) {
	if s.env.Secret == nil {
		return nil, nil, ErrNeedsRecovery
	}
	text, err := s.env.Secret(ctx)
	if err != nil {
		return nil, nil, err
	}
	// What cannot be a recovery key is not even tried.
	if with, err := key.ParseCredential([]byte(text)); err != nil || with.Kind() != key.KindRecovery {
		return nil, nil, ErrNeedsRecovery
	}
	sec, slot, err := s.authorize(ctx, text)
	if err != nil {
		return nil, nil, err
	}
	return ed25519.NewKeyFromSeed(sec.AdminSeed[:]), &slot, nil
}
