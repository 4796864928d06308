package key

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
)

// RecoveryKey opens a vault without its passphrase. It is random, printed once, and
// kept on paper.
type RecoveryKey [32]byte

// ErrMistyped is wrapped by ParseRecoveryKey: what was typed can't be a recovery
// key, so that no slot need be tried.
var ErrMistyped = errors.New("the recovery key is mistyped")

const (
	recoveryPrefix    = "thr1"
	recoverySumBytes  = 3
	recoveryDigits    = (32 + recoverySumBytes) * 8 / 5
	recoveryGroup     = 8
	maxRecoveryTyped  = 1 << 10 // bytes; more is not a key with some spaces
	recoveryTolerance = 8       // digits that may be missing or too many to still look like one
)

var recoveryEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewRecoveryKey draws a key from random, or from crypto/rand where it is nil.
func NewRecoveryKey(random io.Reader) (RecoveryKey, error) {
	var k RecoveryKey
	return k, fillRandom(random, k[:])
}

// String is the key as it is shown to the user: 67 characters, as in
// docs/FORMAT.md §5.
func (k RecoveryKey) String() string {
	sum := sha256.Sum256(k[:])
	digits := recoveryEncoding.EncodeToString(slices.Concat(k[:], sum[:recoverySumBytes]))
	var b strings.Builder
	b.WriteString(recoveryPrefix)
	for i := 0; i < len(digits); i += recoveryGroup {
		b.WriteString("-" + digits[i:i+recoveryGroup])
	}
	return b.String()
}

// IsZero tells whether there is no key.
func (k RecoveryKey) IsZero() bool {
	return subtle.ConstantTimeCompare(k[:], make([]byte, len(k))) == 1
}

// ParseRecoveryKey reads what String writes. Case, spaces and dashes don't matter.
// It returns ErrMistyped for anything else.
func ParseRecoveryKey(typed string) (RecoveryKey, error) {
	if len(typed) > maxRecoveryTyped {
		return RecoveryKey{}, fmt.Errorf("%w: it is %d bytes long", ErrMistyped, len(typed))
	}
	digits, ok := strings.CutPrefix(compact(typed), recoveryPrefix)
	if !ok {
		return RecoveryKey{}, fmt.Errorf("%w: it does not begin with %q", ErrMistyped, recoveryPrefix)
	}
	if len(digits) != recoveryDigits {
		return RecoveryKey{}, fmt.Errorf("%w: it has %d characters after %q and not %d",
			ErrMistyped, len(digits), recoveryPrefix, recoveryDigits)
	}
	b, err := recoveryEncoding.DecodeString(digits)
	if err != nil {
		return RecoveryKey{}, fmt.Errorf("%w: it holds a character that is not a to z or 2 to 7", ErrMistyped)
	}
	k := RecoveryKey(b)
	if sum := sha256.Sum256(k[:]); !bytes.Equal(sum[:recoverySumBytes], b[len(k):]) {
		return RecoveryKey{}, fmt.Errorf("%w: its checksum is wrong", ErrMistyped)
	}
	return k, nil
}

// LooksLikeRecoveryKey tells whether typed is meant as a recovery key, also where
// it is mistyped. No passphrase may look like one, so that both can be given in the
// same place.
func LooksLikeRecoveryKey(typed string) bool {
	if len(typed) > maxRecoveryTyped {
		return false
	}
	digits, ok := strings.CutPrefix(compact(typed), recoveryPrefix)
	return ok && len(digits) >= recoveryDigits-recoveryTolerance && len(digits) <= recoveryDigits+recoveryTolerance
}

// compact drops case, spaces and dashes, the long ones of word processors too.
func compact(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || unicode.Is(unicode.Dash, r) {
			return -1
		}
		return unicode.ToLower(r)
	}, s)
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
