package chunk

import (
	"bytes"
	"encoding/hex"
	"fmt"
)

// ID is a keyed checksum of a chunk's or a page's plaintext: HMAC-SHA-256
// under a key of the vault, never truncated (docs/FORMAT.md §2).
type ID [32]byte

// String is the ID in lower-case hex.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Short is the start of the ID, for messages.
func (id ID) Short() string { return hex.EncodeToString(id[:4]) }

// IsZero tells whether id is unset. No object and no chunk has the zero ID.
func (id ID) IsZero() bool { return id == ID{} }

// Compare orders IDs by their bytes, as cmp.Compare does.
func (id ID) Compare(o ID) int { return bytes.Compare(id[:], o[:]) }

// ParseID reads the 64 hex digits that String writes.
func ParseID(s string) (ID, error) {
	var id ID
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(id) {
		return ID{}, fmt.Errorf("parse ID %q: not 64 hex digits", s)
	}
	return ID(b), nil
}
