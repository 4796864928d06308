// Package vault is what is stored and in which order: it ties together the
// objects of docs/FORMAT.md, whose codecs are in the packages below it (key, log,
// pack, index, manifest), on a backend.
//
// [Create] makes a vault, [Unlock] opens its root key with a passphrase or the
// recovery key, [Open] reads its log. A [Writer] stores new chunks and pages, an
// [Index] finds them, [Blobs] reads them. What a point is, and when it is one, is
// package log's; which files go into it is package agent's.
//
// # Order of writing
//
// Packs, then the index run over them, then the log entry that names the run.
// A crash at any step leaves objects that no entry names, and nothing else.
//
// # Errors
//
// Damage wraps key.ErrDamaged, an object of a newer version key.ErrNewer, a wrong
// secret key.ErrWrongKey, no vault [ErrNone], a write by a machine that may not
// [ErrNotOwner]; all others are the backend's or the spool's.
//
// # Security
//
// The backend is not trusted: every byte that is used was authenticated, and
// every chunk and page is checked against its keyed ID after it was decoded.
package vault

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
)

// ErrNone is returned where a backend holds no vault.
var ErrNone = errors.New("no vault there")

// ErrNotOwner is for a write to a vault in which one machine alone may write, by
// another one.
var ErrNotOwner = errors.New("only the vault's owner may write to it")

const (
	configName = "config"
	slotPrefix = "keys/"
	// maxSmallObject bounds config and slots, which have fixed lengths below it.
	maxSmallObject = 4 << 10
	// maxListedSlots bounds the slots that are tried: those that the log names, and
	// those that killed jobs left. Each costs a key derivation.
	maxListedSlots = 8 * log.MaxSlots
)

// Vault is an opened vault. It may be used by several goroutines.
type Vault struct {
	Backend backend.Backend
	Config  key.Config
	Ring    *key.Ring
	Log     *log.Log

	logger *slog.Logger
	random io.Reader // nil: the system's
}

// ReadConfig reads a vault's config, unauthenticated, and its SHA-256. Without
// a config, or with one but no log (an init that never ended), it is ErrNone.
func ReadConfig(ctx context.Context, b backend.Backend) (c key.Config, hash [32]byte, err error) {
	raw, err := backend.ReadAll(ctx, b, configName, maxSmallObject)
	if errors.Is(err, backend.ErrNotFound) {
		return c, hash, ErrNone
	}
	if err != nil {
		return c, hash, fmt.Errorf("read config: %w", err)
	}
	if c, err = key.ParseConfig(raw); err != nil {
		return c, hash, fmt.Errorf("read config: %w", err)
	}
	_, err = backend.ReadAll(ctx, b, log.EntryName(0), 1)
	if errors.Is(err, backend.ErrNotFound) {
		return c, hash, ErrNone
	}
	return c, sha256.Sum256(raw), nil
}

// Slot is a key slot as it lies in the vault.
type Slot struct {
	key.Slot
	Raw []byte
}

// Slots reads all key slots that the backend lists. A slot that is damaged is
// passed over: another one may open the vault, and the log tells of it then.
func Slots(ctx context.Context, b backend.Backend) (slots []Slot, err error) {
	for info, err := range b.List(ctx, slotPrefix) {
		if err != nil {
			return nil, fmt.Errorf("list key slots: %w", err)
		}
		raw, err := backend.ReadAll(ctx, b, info.Name, maxSmallObject)
		if errors.Is(err, backend.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read key slot: %w", err)
		}
		s, err := key.ParseSlot(raw)
		if errors.Is(err, key.ErrNewer) {
			return nil, fmt.Errorf("read key slot: %w", err)
		}
		if err != nil || info.Name != SlotName(s.ID) {
			continue
		}
		slots = append(slots, Slot{s, raw})
		if len(slots) > maxListedSlots {
			return nil, fmt.Errorf("%w: more than %d key slots", key.ErrDamaged, maxListedSlots)
		}
	}
	return slots, nil
}

// Unlock opens a slot of the vault with a passphrase or a recovery key. It
// returns key.ErrWrongKey where none opens.
//
// That a slot opens does not make it count: a job that was killed may have left
// one that no log entry names, under the same passphrase, even of another root
// key. So accept is asked, by opening the log or looking into it. Where it
// returns key.ErrWrongKey or key.ErrDamaged the other slots are tried, and its
// first error is returned if none is accepted.
func Unlock(ctx context.Context, b backend.Backend, c key.Config, with key.Credential,
	accept func(key.Secrets, Slot) error) (key.Secrets, Slot, error) {
	slots, err := Slots(ctx, b)
	if err != nil {
		return key.Secrets{}, Slot{}, err
	}
	refused := key.ErrWrongKey
	for _, s := range slots {
		if s.Vault != c.Vault {
			continue
		}
		sec, err := s.Open(with)
		if errors.Is(err, key.ErrWrongKey) {
			continue
		}
		if err == nil {
			err = accept(sec, s)
		}
		if err == nil {
			return sec, s, nil
		}
		if !errors.Is(err, key.ErrWrongKey) && !errors.Is(err, key.ErrDamaged) {
			return key.Secrets{}, Slot{}, err
		}
		if refused == key.ErrWrongKey {
			refused = err
		}
	}
	return key.Secrets{}, Slot{}, refused
}

// Options set up Open.
type Options struct {
	// Log sets the log up. Its Sole decides who may write in owner mode, where nil
	// means nobody; in a vault that is shared it is not asked.
	Log    log.Options
	Logger *slog.Logger
	// Rand gives the IDs of packs and index runs; nil: the system's. It may be read by
	// several goroutines at a time.
	Rand io.Reader
}

// ErrLogDamaged is for a log that cannot be read to its end. What is behind the damage
// may be anything, a deletion or a change of keys, so that nothing goes on.
var ErrLogDamaged = errors.New("the vault's log is damaged")

// Refresh reads the log up to its head.
func (v *Vault) Refresh(ctx context.Context) error {
	if err := v.Log.Refresh(ctx); err != nil {
		return logError(err)
	}
	return nil
}

func logError(err error) error {
	if errors.Is(err, key.ErrDamaged) {
		err = fmt.Errorf("%w: %w", ErrLogDamaged, err)
	}
	return fmt.Errorf("read log: %w", err)
}

// Open reads the log of the vault on b with its root key, and checks the config
// against it. slot, where not nil, is the one that gave the root key.
func Open(ctx context.Context, b backend.Backend, root key.Root, slot *Slot, o Options) (*Vault, error) {
	c, hash, err := ReadConfig(ctx, b)
	if err != nil {
		return nil, err
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Mode == key.ModeShared {
		o.Log.Sole = nil
	} else if o.Log.Sole == nil {
		o.Log.Sole = func(*log.State, log.Body) error { return ErrNotOwner }
	}
	v := &Vault{Backend: b, Config: c, Ring: key.NewRing(c.Vault, root), logger: o.Logger, random: o.Rand}
	if v.Log, err = log.Open(ctx, b, v.Ring, o.Log); err != nil {
		return nil, logError(err)
	}
	genesis, _ := v.Log.State().Genesis()
	if genesis.Config != hash {
		return nil, fmt.Errorf("read config: %w: it is not the one that the vault was made with", key.ErrDamaged)
	}
	if slot != nil && !v.Names(*slot) {
		return nil, fmt.Errorf("%w: this passphrase or key was taken out of use", key.ErrWrongKey)
	}
	return v, nil
}

// Names tells whether the log names a slot, so that it counts.
func (v *Vault) Names(s Slot) bool {
	return v.Log.State().SlotNamed(log.SlotID(s.ID), sha256.Sum256(s.Raw))
}

// On is the same vault read through another backend, for its objects to come
// from a cache, say, or not to.
func (v *Vault) On(b backend.Backend) *Vault {
	c := *v
	c.Backend = b
	return &c
}

// SlotName is the name of a slot's object.
func SlotName(id key.SlotID) string { return slotPrefix + id.String() }

// ConfigName is the name of the config.
func ConfigName() string { return configName }
