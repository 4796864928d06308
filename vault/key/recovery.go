package key

import (
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/tharsis-backup/tharsis/internal/typed"
)

// RecoveryKey opens a vault without its passphrase. It is random, printed once, and
// kept on paper.
type RecoveryKey [32]byte

// ErrMistyped is wrapped by ParseRecoveryKey: what was typed can't be a recovery
// key, so that no slot need be tried.
var ErrMistyped = errors.New("the recovery key is mistyped")

const (
	recoveryPrefix    = "thr1"
	maxRecoveryTyped  = 1 << 10 // bytes; more is not a key with some spaces
	recoveryTolerance = 8       // digits that may be missing or too many to still look like one
)

// NewRecoveryKey draws a key from random, or from crypto/rand where it is nil.
func NewRecoveryKey(random io.Reader) (RecoveryKey, error) {
	var k RecoveryKey
	return k, fillRandom(random, k[:])
}

// String is the key as it is shown to the user: 67 characters, as in
// docs/FORMAT.md §5.
func (k RecoveryKey) String() string { return typed.Format(recoveryPrefix, k[:]) }

// IsZero tells whether there is no key.
func (k RecoveryKey) IsZero() bool {
	return subtle.ConstantTimeCompare(k[:], make([]byte, len(k))) == 1
}

// ParseRecoveryKey reads what String writes. Case, spaces and dashes don't matter.
// It returns ErrMistyped for anything else.
func ParseRecoveryKey(text string) (RecoveryKey, error) {
	b, err := typed.Parse(recoveryPrefix, len(RecoveryKey{}), text)
	if err != nil {
		return RecoveryKey{}, fmt.Errorf("%w: %w", ErrMistyped, err)
	}
	return RecoveryKey(b), nil
}

// LooksLikeRecoveryKey tells whether text is meant as a recovery key, also where
// it is mistyped. No passphrase may look like one, so that both can be given in the
// same place.
func LooksLikeRecoveryKey(text string) bool {
	if len(text) > maxRecoveryTyped {
		return false
	}
	digits, ok := strings.CutPrefix(typed.Compact(text), recoveryPrefix)
	want := typed.Count(len(RecoveryKey{}))
	return ok && len(digits) >= want-recoveryTolerance && len(digits) <= want+recoveryTolerance
}

// fillRandom fills b from random, or from crypto/rand where it is nil.
func fillRandom(random io.Reader, b []byte) error {
	if random == nil {
		random = rand.Reader
	}
	if _, err := io.ReadFull(random, b); err != nil {
		return fmt.Errorf("read random bytes: %w", err)
	}
	return nil
}
