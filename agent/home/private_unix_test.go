//go:build unix

package home

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tharsis-backup/tharsis/vault/key"
)

var testVault = key.VaultID{1}

// keyed is a home with a key.
func keyed(t *testing.T) *Home {
	t.Helper()
	h, err := Open(filepath.Join(t.TempDir(), "home"))
	if err != nil {
		t.Fatal(err)
	}
	if err := h.SetKeys(testVault, Keys{Root: key.Root{2}}); err != nil {
		t.Fatal(err)
	}
	return h
}

// places are the key, its folder and the home, each with the rights of others that
// make the key one that is not used.
func places(h *Home) map[string]os.FileMode {
	return map[string]os.FileMode{
		h.path("keys/01000000000000000000000000000000"): 0o077,
		h.path("keys"): 0o077,
		h.Dir:          0o022,
	}
}

// Each right that others have or don't, alone, on each place.
func TestKeyExposed(t *testing.T) {
	h := keyed(t)
	for path, forbidden := range places(h) {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		was := info.Mode().Perm()
		for bit := os.FileMode(1); bit <= 0o077; bit <<= 1 {
			if err := os.Chmod(path, was|bit); err != nil {
				t.Fatal(err)
			}
			k, ok, err := h.Keys(testVault)
			var exposed *ExposedError
			switch {
			case forbidden&bit == 0 && (err != nil || !ok || k.Root != key.Root{2}):
				t.Errorf("%s with %04o: %v", path, was|bit, err)
			case forbidden&bit != 0 && (!errors.As(err, &exposed) || ok || k.Root != key.Root{}):
				t.Errorf("%s with %04o: %v", path, was|bit, err)
			case forbidden&bit != 0 && exposed.Fix != "chmod "+map[bool]string{true: "700 ", false: "600 "}[info.IsDir()]+path:
				t.Errorf("%s with %04o: the fix is %q", path, was|bit, exposed.Fix)
			}
		}
		if err := os.Chmod(path, was); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok, err := h.Keys(testVault); !ok || err != nil {
		t.Error(err)
	}
	if _, ok, err := h.Keys(key.VaultID{2}); ok || err != nil {
		t.Errorf("a vault without a key: %v", err)
	}
}

// A key of another user is not used, wherever that user gets at it.
func TestKeyOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("THARSIS_CI") != "" {
			t.Fatal("only root can give files to another user")
		}
		t.Skip("only root can give files to another user")
	}
	h := keyed(t)
	for path := range places(h) {
		if err := os.Chown(path, 65534, 65534); err != nil {
			t.Fatal(err)
		}
		_, ok, err := h.Keys(testVault)
		var exposed *ExposedError
		if ok || !errors.As(err, &exposed) || !strings.HasPrefix(exposed.Fix, "chown 0 ") {
			t.Errorf("%s: %v", path, err)
		}
		if err := os.Chown(path, 0, 0); err != nil {
			t.Fatal(err)
		}
	}
}
