package vault

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
)

// ErrExists is returned by Create where a vault is.
var ErrExists = errors.New("a vault is there already")

// ErrNotCreateOnly is returned where a backend lets an object be replaced, so
// that several machines could not write to one vault safely: see key.ModeOwner.
var ErrNotCreateOnly = errors.New("the backend replaces objects that exist")

// DefaultSoftDeleteDays is for how long a deleted point can be brought back.
const DefaultSoftDeleteDays = 14

// CreateOptions set up Create.
type CreateOptions struct {
	Passphrase key.Credential
	Recovery   key.RecoveryKey
	// KDF is the cost of the passphrase's slot; zero chooses key.DefaultKDF.
	KDF key.KDFParams
	// Cut are the chunker's parameters; zero chooses chunk.DefaultCutParams.
	Cut chunk.CutParams
	// SoftDeleteDays is for how long a deleted point can be brought back,
	// log.MinSoftDeleteDays to log.MaxSoftDeleteDays; zero chooses
	// DefaultSoftDeleteDays.
	SoftDeleteDays int
	// Owner is the machine that alone may write where the backend is not
	// create-only; zero: such a backend is refused with ErrNotCreateOnly.
	Owner log.MachineID
	Clock func() time.Time
	Rand  io.Reader
}

// complete puts defaults in and refuses what no vault can have.
func (o *CreateOptions) complete() error {
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Cut == (chunk.CutParams{}) {
		o.Cut = chunk.DefaultCutParams
	}
	if o.SoftDeleteDays == 0 {
		o.SoftDeleteDays = DefaultSoftDeleteDays
	}
	return log.CheckSoftDeleteDays(o.SoftDeleteDays)
}

// Create makes a vault on an empty backend and returns its secrets. The log's
// first entry is what makes it a vault: where an earlier Create ended before
// that, this one goes on with its config. Of several that run at the same time,
// one succeeds; the others return ErrExists. On a backend that replaces objects
// nobody can be sure of that: there it looks back at the end whether the vault is
// the one that it made.
func Create(ctx context.Context, b backend.Backend, o CreateOptions) (id key.VaultID, sec key.Secrets, err error) {
	if err := o.complete(); err != nil {
		return id, sec, err
	}
	if _, _, err := ReadConfig(ctx, b); err == nil {
		return id, sec, ErrExists
	} else if !errors.Is(err, ErrNone) {
		return id, sec, err
	}
	left, err := leftSlots(ctx, b)
	if err != nil {
		return id, sec, err
	}
	raw, c, err := createConfig(ctx, b, o)
	if err != nil {
		return id, sec, err
	}
	sec.Recovery = o.Recovery
	for _, p := range [][]byte{sec.Root[:], sec.AdminSeed[:]} {
		if _, err := io.ReadFull(o.Rand, p); err != nil {
			return id, sec, fmt.Errorf("draw keys: %w", err)
		}
	}
	g := log.Genesis{Config: sha256.Sum256(raw), SoftDeleteDays: o.SoftDeleteDays}
	admin := ed25519.NewKeyFromSeed(sec.AdminSeed[:])
	g.Admin = log.PublicOf(admin)
	for _, with := range []key.Credential{o.Passphrase, o.Recovery.Credential()} {
		s, err := PutSlot(ctx, b, c.Vault, o.KDF, with, sec, o.Clock(), "", o.Rand)
		if err != nil {
			return id, sec, err
		}
		g.Slots = append(g.Slots, s)
	}
	lo := log.Options{Now: o.Clock, Rand: o.Rand}
	if c.Mode == key.ModeOwner {
		lo.Sole = func(*log.State, log.Body) error { return nil }
	}
	err = log.Create(ctx, b, key.NewRing(c.Vault, sec.Root), admin, g, lo)
	if err == nil && c.Mode == key.ModeOwner {
		err = stillThere(ctx, b, raw)
	}
	if errors.Is(err, backend.ErrExists) {
		left, err = nil, ErrExists
		for _, s := range g.Slots {
			left = append(left, SlotName(key.SlotID(s.ID)))
		}
	} else if err != nil {
		return id, sec, fmt.Errorf("begin log: %w", err)
	}
	// GENESIS is there, so that these slots will never count. Where one cannot be
	// deleted, Unlock passes over it.
	for _, name := range left {
		b.Delete(ctx, name)
	}
	return c.Vault, sec, err
}

// leftSlots lists the slots that a Create left which never ended. It refuses what
// is no such thing: a vault that lost its config or the start of its log, and
// would be lost for good under another one.
func leftSlots(ctx context.Context, b backend.Backend) (names []string, err error) {
	for _, prefix := range []string{"log/", "bundle/", "index/", "packs/", slotPrefix} {
		for info, err := range b.List(ctx, prefix) {
			if err != nil {
				return nil, fmt.Errorf("list what is there: %w", err)
			}
			if prefix != slotPrefix {
				return nil, fmt.Errorf("%w: there are objects of a vault, as %s, but not its config, or not the start of its log", key.ErrDamaged, info.Name)
			}
			names = append(names, info.Name)
		}
	}
	return names, nil
}

// createConfig stores a config, or takes the one of a Create that never ended.
func createConfig(ctx context.Context, b backend.Backend, o CreateOptions) ([]byte, key.Config, error) {
	c := key.Config{Mode: key.ModeShared, Cut: o.Cut}
	if err := Probe(ctx, b, o.Rand); errors.Is(err, ErrNotCreateOnly) && o.Owner != (log.MachineID{}) {
		c.Mode, c.Owner = key.ModeOwner, o.Owner
	} else if err != nil {
		return nil, c, err
	}
	if _, err := io.ReadFull(o.Rand, c.Vault[:]); err != nil {
		return nil, c, fmt.Errorf("draw vault ID: %w", err)
	}
	raw, err := key.AppendConfig(nil, c)
	if err != nil {
		return nil, c, fmt.Errorf("write config: %w", err)
	}
	mode := c.Mode
	if mode == key.ModeOwner { // nothing but this look keeps the Put from replacing a vault's config
		if _, _, err := ReadConfig(ctx, b); err == nil {
			return nil, c, ErrExists
		} else if !errors.Is(err, ErrNone) {
			return nil, c, err
		}
	}
	err = backend.PutBytes(ctx, b, configName, raw)
	if errors.Is(err, backend.ErrExists) {
		if raw, err = backend.ReadAll(ctx, b, configName, maxSmallObject); err == nil {
			c, err = key.ParseConfig(raw)
		}
		if err == nil && c.Mode != mode {
			err = fmt.Errorf("%w: it was begun when the backend treated objects that exist in another way; delete it", key.ErrDamaged)
		}
	}
	if err != nil {
		return nil, c, fmt.Errorf("write config: %w", err)
	}
	return raw, c, nil
}

// stillThere tells whether the config of a vault of one writer is the one that
// was written: another Create may have replaced it, and its log then opens under
// other keys.
func stillThere(ctx context.Context, b backend.Backend, config []byte) error {
	raw, err := backend.ReadAll(ctx, b, configName, maxSmallObject)
	if err != nil {
		return fmt.Errorf("read config back: %w", err)
	}
	if !bytes.Equal(raw, config) {
		return fmt.Errorf("read config back: %w: another one was written at the same time", backend.ErrExists)
	}
	return nil
}

// PutSlot seals the secrets under a credential, stores the slot, and returns
// what the log has to say of it.
func PutSlot(ctx context.Context, b backend.Backend, id key.VaultID, kdf key.KDFParams, with key.Credential, sec key.Secrets,
	now time.Time, label string, random io.Reader) (log.Slot, error) {
	s, err := key.SealSlot(key.SlotOptions{Vault: id, KDF: kdf, Random: random}, with, sec)
	if err != nil {
		return log.Slot{}, fmt.Errorf("seal key slot: %w", err)
	}
	raw := s.Append(nil)
	if err := backend.PutBytes(ctx, b, SlotName(s.ID), raw); err != nil {
		return log.Slot{}, fmt.Errorf("store key slot: %w", err)
	}
	return log.Slot{
		ID: log.SlotID(s.ID), Hash: sha256.Sum256(raw), Kind: log.SlotKind(s.Kind), Created: now.UnixNano(), Label: label,
	}, nil
}

// Probe tells whether the backend's Put is create-only, by two Puts under a
// fresh name. It leaves nothing where it may delete.
func Probe(ctx context.Context, b backend.Backend, random io.Reader) error {
	var r [16]byte
	if _, err := io.ReadFull(random, r[:]); err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	name := "probe/" + hex.EncodeToString(r[:])
	if err := backend.PutBytes(ctx, b, name, r[:8]); err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	defer b.Delete(context.WithoutCancel(ctx), name)
	err := backend.PutBytes(ctx, b, name, r[8:])
	got, rerr := backend.ReadAll(ctx, b, name, int64(len(r)))
	switch {
	case rerr != nil:
		return fmt.Errorf("probe: %w", rerr)
	case errors.Is(err, backend.ErrExists) && bytes.Equal(got, r[:8]):
		return nil
	case err != nil && !errors.Is(err, backend.ErrExists):
		return fmt.Errorf("probe: %w", err)
	}
	return ErrNotCreateOnly
}
