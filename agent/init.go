package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/tharsis-backup/tharsis/agent/home"
	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/backend/location"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
)

// FormatVersion is the version of the vault's format that this agent writes.
const FormatVersion = key.FormatVersion

// InitOptions set up Init.
type InitOptions struct {
	Vault      string // URL
	Passphrase string
	Recovery   key.RecoveryKey
	KDF        key.KDFParams // zero: the default
	// SoftDeleteDays is for how long a deleted point can be brought back; zero: the
	// default.
	SoftDeleteDays int
	// AdoptExisting takes a vault that is there already, if the passphrase
	// opens it: what an Init that was killed near its end left.
	AdoptExisting bool
}

// InitResult is what Init made.
type InitResult struct {
	URL     string
	VaultID string // 32 hex digits
	// Owned: the place replaces objects that exist, so that this machine alone may
	// write to the vault.
	Owned bool
}

// CheckInit tells whether a vault could be made at url. It writes nothing.
func CheckInit(ctx context.Context, env Environment, url string) error {
	place, err := location.Parse(url)
	if err != nil {
		return fmt.Errorf("vault %s: %w", url, err)
	}
	b, err := location.Open(ctx, place)
	if errors.Is(err, backend.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open vault %s: %w", place, err)
	}
	defer b.Close()
	if _, _, err = vault.ReadConfig(ctx, b); err == nil {
		return fmt.Errorf("%s: %w", place, ErrVaultExists)
	} else if errors.Is(err, vault.ErrNone) {
		return nil
	}
	return err
}

// Init makes a vault and lets the home remember it, if it has none. The home
// must be locked.
func Init(ctx context.Context, env Environment, h *home.Home, o InitOptions) (InitResult, error) {
	place, err := location.Parse(o.Vault)
	if err != nil {
		return InitResult{}, fmt.Errorf("vault %s: %w", o.Vault, err)
	}
	with, err := key.NewPassphrase([]byte(o.Passphrase))
	if err != nil {
		return InitResult{}, err
	}
	b, err := location.Create(ctx, place)
	if err != nil {
		return InitResult{}, fmt.Errorf("make vault %s: %w", place, err)
	}
	defer b.Close()
	room, _ := b.(reserve)
	if env.Wrap != nil {
		b = env.Wrap(b)
	}
	self, err := h.Machine(env.Rand, env.hardware())
	if err != nil {
		return InitResult{}, err
	}
	id, sec, err := vault.Create(ctx, b, vault.CreateOptions{
		Passphrase: with, Recovery: o.Recovery, KDF: o.KDF, SoftDeleteDays: o.SoftDeleteDays, Owner: self.ID, Clock: env.Clock, Rand: env.Rand,
	})
	if errors.Is(err, vault.ErrExists) {
		if !o.AdoptExisting {
			return InitResult{}, fmt.Errorf("%s: %w", place, ErrVaultExists)
		}
		id, sec, err = adopt(ctx, b, o.Passphrase)
	}
	if err != nil {
		return InitResult{}, fmt.Errorf("make vault %s: %w", place, err)
	}
	if room != nil {
		if err := room.Restock(); err != nil && env.Log != nil { // the disk is all but full: it does without
			env.Log.Warn("make the reserve", "err", err)
		}
	}
	v, err := vault.Open(ctx, b, sec.Root, nil, vault.Options{})
	if err != nil {
		return InitResult{}, err
	}
	res := InitResult{URL: place.String(), VaultID: fmt.Sprintf("%x", id), Owned: v.Config.Mode == key.ModeOwner}
	return res, rememberNew(h, place.String(), v, sec)
}

// adopt opens a vault that is there with the passphrase.
func adopt(ctx context.Context, b backend.Backend, passphrase string) (id key.VaultID, sec key.Secrets, err error) {
	c, _, err := vault.ReadConfig(ctx, b)
	if err != nil {
		return id, sec, err
	}
	sec, _, err = unlockWith(ctx, b, c, passphrase, func(sec key.Secrets, slot vault.Slot) error {
		_, err := vault.Open(ctx, b, sec.Root, &slot, vault.Options{})
		return err
	})
	return c.Vault, sec, err
}

// rememberNew stores a new vault's keys in a home that has no vault. Its URL
// goes last: it is what later commands go by.
func rememberNew(h *home.Home, url string, v *vault.Vault, sec key.Secrets) error {
	if _, has, err := h.Vault(); has || err != nil {
		return err
	}
	id := v.Config.Vault
	if err := h.SetKeys(id, home.Keys{Root: sec.Root, Admin: sec.AdminSeed[:]}); err != nil {
		return err
	}
	if err := h.SetHead(id, home.Head{Head: v.Log.Head(), Commit: log.NoEntry}); err != nil {
		return err
	}
	return h.SetVault(url, id)
}
