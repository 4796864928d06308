package cache

import (
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/durable"
	"github.com/tharsis-backup/tharsis/vault/key"
)

// maxMemoBytes bounds a memo: the largest one has 41 bytes for each pack of a vault,
// and 10 million packs hold 160 TB.
const maxMemoBytes = 512 << 20

// errMemo is for a memo that is not what was written.
var errMemo = errors.New("it is not what was written")

// Memo is a small file of the cache in which a machine remembers what it did with a
// vault. It carries a MAC under a key of the vault: one that was spoilt counts as
// none, so that who can write to the cache cannot make the machine believe that it
// did what it did not.
type Memo struct {
	path string
	mac  []byte
}

// Memo is the memo of a name, which needs not be there yet.
func (d *Dir) Memo(name string, ring *key.Ring) *Memo {
	return &Memo{filepath.Join(d.path, name), chunk.Expand(ring.Cache[:], "tharsis/0/memo\x00"+name, 32)}
}

func (m *Memo) sum(body []byte) []byte {
	h := hmac.New(sha256.New, m.mac)
	h.Write(body)
	return h.Sum(nil)
}

// Read gives what was written last. Any error means that nothing is known.
func (m *Memo) Read() ([]byte, error) {
	f, err := os.Open(m.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxMemoBytes))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", m.path, err)
	}
	n := len(b) - sha256.Size
	if n < 0 || !hmac.Equal(m.sum(b[:n]), b[n:]) {
		return nil, fmt.Errorf("read %s: %w", m.path, errMemo)
	}
	return b[:n], nil
}

// Write replaces what was written before, durably and as a whole.
func (m *Memo) Write(body []byte) error {
	b := append(append(make([]byte, 0, len(body)+sha256.Size), body...), m.sum(body)...)
	if err := durable.WriteFile(m.path, b, 0o600); err != nil {
		return fmt.Errorf("remember in the cache: %w", err)
	}
	return nil
}
