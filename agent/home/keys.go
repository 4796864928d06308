package home

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tharsis-backup/tharsis/internal/durable"
	"github.com/tharsis-backup/tharsis/vault/key"
)

// Keys are what a machine keeps of a vault for runs that nobody attends.
type Keys struct {
	Root key.Root
	// Admin is the seed of the vault's admin key, or nil where it is not kept.
	Admin []byte
}

type keysFile struct {
	Root  []byte `json:"root_key"`
	Admin []byte `json:"admin_seed,omitempty"`
}

// Keys returns the stored keys of a vault, or ok = false where there are none.
// A key that others can get at is refused with an ExposedError, each time.
func (h *Home) Keys(id key.VaultID) (k Keys, ok bool, err error) {
	name := fmt.Sprintf("keys/%x", id)
	file, err := os.Open(h.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return Keys{}, false, nil
	}
	if err != nil {
		return Keys{}, false, fmt.Errorf("read key: %w", err)
	}
	defer file.Close()
	if err := h.checkKey(file); err != nil {
		return Keys{}, false, err
	}
	var f keysFile
	if err := h.decode(name, file, &f); err != nil {
		return Keys{}, false, err
	}
	if len(f.Root) != 32 || len(f.Admin) != 0 && len(f.Admin) != 32 {
		return Keys{}, false, fmt.Errorf("read %s: keys of wrong length", h.path(name))
	}
	return Keys{Root: key.Root(f.Root), Admin: f.Admin}, true, nil
}

// checkKey refuses a key file that others can read, or that they could put another
// in the place of.
func (h *Home) checkKey(file *os.File) error {
	for _, c := range []struct {
		dir       string
		forbidden fs.FileMode
	}{{h.Dir, othersWrite}, {filepath.Dir(file.Name()), othersAny}} {
		info, err := os.Stat(c.dir)
		if err != nil {
			return fmt.Errorf("check key: %w", err)
		}
		if err := checkPrivate(c.dir, info, c.forbidden); err != nil {
			return err
		}
	}
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("check key: %w", err)
	}
	return checkPrivate(file.Name(), info, othersAny)
}

// SetKeys stores the keys of a vault.
func (h *Home) SetKeys(id key.VaultID, k Keys) error {
	return h.write(fmt.Sprintf("keys/%x", id), keysFile{k.Root[:], k.Admin})
}

// File is the path of a file or folder in the home.
func (h *Home) File(name string) string { return h.path(name) }

// WriteSecret writes a secret, for the user to move elsewhere, to a new file
// of the home. It refuses to replace one.
func (h *Home) WriteSecret(name, text string) error {
	if _, err := os.Lstat(h.path(name)); err == nil {
		return fmt.Errorf("write %s: %w", h.path(name), fs.ErrExist)
	}
	return durable.WriteFile(h.path(name), []byte(text+"\n"), 0o600)
}

func parseVaultID(s string) (key.VaultID, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 16 {
		return key.VaultID{}, fmt.Errorf("bad vault ID %q", s)
	}
	return key.VaultID(b), nil
}
