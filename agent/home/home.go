// Package home keeps what makes a machine itself: its ID, its signing key, the
// keys of its vault, and the last log head that it saw. It lies outside of the
// cache on purpose: the cache may be lost, the home is what a rollback of the
// vault is noticed by.
//
// # Layout
//
//	home/            0700
//	  lock           held by the one job that may write (released by the OS on death)
//	  machine.json   machine ID, install nonce, signing key
//	  vault.json     URL and ID of the vault that the home remembers
//	  keys/<vault>   the root key and, where kept, the admin key
//	  heads/<vault>  the last log head seen, and this machine's last commit
//	  heads/lock     held for the moment in which one of them is changed
//	  cache/         derived data, see package cache
//
// Every file is 0600 and written durably (package durable): a reader meets
// either the old content or the new.
//
// # Security
//
// The root key in keys/ opens all of the vault's data. Whoever can read the
// home can read the backups; docs/THREATS.md says what that means. So a key that
// others than the owner have any right on is not used (see ExposedError).
package home

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/gofrs/flock"
	"github.com/tharsis-backup/tharsis/internal/durable"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
)

// ErrBusy is returned by Lock while another job holds the home.
var ErrBusy = errors.New("another backup is running on this home")

// Home is an opened home folder. Its methods may be used by one goroutine.
type Home struct {
	// Dir is the folder, absolute.
	Dir string

	lock *flock.Flock
}

// Open makes the folder where it is missing.
func Open(dir string) (*Home, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open home: %w", err)
	}
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open home: %w", err)
	}
	return &Home{Dir: dir}, nil
}

// CacheDir is where derived data goes.
func (h *Home) CacheDir() string { return filepath.Join(h.Dir, "cache") }

// Lock takes the home for one writing job, or returns ErrBusy at once.
func (h *Home) Lock() error {
	l := flock.New(filepath.Join(h.Dir, "lock"), flock.SetPermissions(0o600))
	ok, err := l.TryLock()
	if err != nil {
		return fmt.Errorf("lock home: %w", err)
	}
	if !ok {
		return ErrBusy
	}
	h.lock = l
	return nil
}

// Locked tells whether this Home holds the lock.
func (h *Home) Locked() bool { return h.lock != nil }

// Unlock gives the home back.
func (h *Home) Unlock() error {
	if h.lock == nil {
		return nil
	}
	l := h.lock
	h.lock = nil
	return l.Unlock()
}

// Machine is the identity of this installation.
type Machine struct {
	ID    log.MachineID `json:"-"`
	Nonce [16]byte      `json:"-"` // tells this home from its copies; see Renew
	Key   ed25519.PrivateKey
	// Hardware names what the home was made on; "" where that is not known.
	Hardware string
}

type machineFile struct {
	ID    []byte `json:"machine_id"`
	Nonce []byte `json:"install_nonce"`
	Seed  []byte `json:"signing_seed"`
	Hard  string `json:"hardware,omitempty"`
}

// Machine reads the identity; the first call in a home makes it, from random.
func (h *Home) Machine(random io.Reader, hardware string) (Machine, error) {
	var f machineFile
	err := h.read("machine.json", &f)
	if errors.Is(err, fs.ErrNotExist) {
		return h.NewMachine(random, hardware)
	}
	if err != nil {
		return Machine{}, err
	}
	if len(f.ID) != 16 || len(f.Nonce) != 16 || len(f.Seed) != ed25519.SeedSize {
		return Machine{}, fmt.Errorf("read %s: fields of wrong length", h.path("machine.json"))
	}
	return f.machine(), nil
}

// NewMachine gives the home a fresh identity, in place of any other.
func (h *Home) NewMachine(random io.Reader, hardware string) (Machine, error) {
	if random == nil {
		random = rand.Reader
	}
	b := make([]byte, 16+16+ed25519.SeedSize)
	if _, err := io.ReadFull(random, b); err != nil {
		return Machine{}, fmt.Errorf("draw machine ID: %w", err)
	}
	return h.setMachine(machineFile{b[:16], b[16:32], b[32:], hardware})
}

// Renew gives the home a fresh install nonce, and leaves all else of m as it is:
// from then on it and a copy of it that still has the old one know each other's
// work apart.
func (h *Home) Renew(random io.Reader, m Machine) (Machine, error) {
	if random == nil {
		random = rand.Reader
	}
	if _, err := io.ReadFull(random, m.Nonce[:]); err != nil {
		return Machine{}, fmt.Errorf("draw install nonce: %w", err)
	}
	return h.setMachine(machineFile{m.ID[:], m.Nonce[:], m.Key.Seed(), m.Hardware})
}

func (h *Home) setMachine(f machineFile) (Machine, error) {
	if err := h.write("machine.json", f); err != nil {
		return Machine{}, err
	}
	return f.machine(), nil
}

func (f machineFile) machine() Machine {
	return Machine{log.MachineID(f.ID), [16]byte(f.Nonce), ed25519.NewKeyFromSeed(f.Seed), f.Hard}
}

// Vault is the vault that a home remembers.
type Vault struct {
	URL string      `json:"url"`
	ID  key.VaultID `json:"-"`
	Hex string      `json:"vault_id"`
}

// Vault returns the remembered vault, or ok = false where there is none.
func (h *Home) Vault() (v Vault, ok bool, err error) {
	err = h.read("vault.json", &v)
	if errors.Is(err, fs.ErrNotExist) {
		return Vault{}, false, nil
	}
	if err != nil {
		return Vault{}, false, err
	}
	if v.ID, err = parseVaultID(v.Hex); err != nil {
		return Vault{}, false, fmt.Errorf("read %s: %w", h.path("vault.json"), err)
	}
	return v, true, nil
}

// SetVault makes the home remember a vault.
func (h *Home) SetVault(url string, id key.VaultID) error {
	return h.write("vault.json", Vault{URL: url, Hex: fmt.Sprintf("%x", id)})
}

func (h *Home) path(name string) string { return filepath.Join(h.Dir, filepath.FromSlash(name)) }

// maxFileBytes bounds the home's own files, which are all far smaller.
const maxFileBytes = 1 << 20

func (h *Home) read(name string, v any) error {
	f, err := os.Open(h.path(name))
	if err != nil {
		return err
	}
	defer f.Close()
	return h.decode(name, f, v)
}

// decode reads a file of the home that was opened.
func (h *Home) decode(name string, f io.Reader, v any) error {
	b, err := io.ReadAll(io.LimitReader(f, maxFileBytes))
	if err != nil {
		return fmt.Errorf("read %s: %w", h.path(name), err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("read %s: %w", h.path(name), err)
	}
	return nil
}

func (h *Home) write(name string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", h.path(name), err)
	}
	if err := durable.MkdirAll(filepath.Dir(h.path(name)), 0o700); err != nil {
		return err
	}
	return durable.WriteFile(h.path(name), append(b, '\n'), 0o600)
}
