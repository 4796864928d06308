package key

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// ErrPassphrase is wrapped where a passphrase can't be one, or should not.
var ErrPassphrase = errors.New("this passphrase is refused")

const (
	// MinPassphraseRunes is the least length in code points.
	MinPassphraseRunes = 16
	// MaxPassphraseBytes is the greatest length, in UTF-8 and Unicode form NFC.
	MaxPassphraseBytes = 1 << 10
	// maxTypedBytes bounds what is normalized: other forms are up to 3 times as long.
	maxTypedBytes = 4 * MaxPassphraseBytes
)

// NormalizePassphrase gives the bytes that the key is derived from: NFC, so that it
// does not matter how a keyboard or a system composes an accent. The line end of a
// file is the caller's to strip, and the result may share typed's memory. It returns ErrPassphrase where no slot can have
// such a passphrase. It does not judge its strength, or a passphrase could become
// useless when the judgement changes: see [NewPassphrase].
func NormalizePassphrase(typed []byte) ([]byte, error) {
	if len(typed) > maxTypedBytes {
		return nil, fmt.Errorf("%w: it is longer than %d bytes", ErrPassphrase, MaxPassphraseBytes)
	}
	if !utf8.Valid(typed) {
		return nil, fmt.Errorf("%w: it is not UTF-8", ErrPassphrase)
	}
	p := norm.NFC.Bytes(typed)
	if n := utf8.RuneCount(p); n < MinPassphraseRunes {
		return nil, fmt.Errorf("%w: it has %d characters and needs %d", ErrPassphrase, n, MinPassphraseRunes)
	}
	if len(p) > MaxPassphraseBytes {
		return nil, fmt.Errorf("%w: it is longer than %d bytes", ErrPassphrase, MaxPassphraseBytes)
	}
	return p, nil
}

// checkStrength refuses what is trivially weak, and what would later be hard to
// type or be taken for something else. p is normalized.
func checkStrength(p []byte) error {
	if LooksLikeRecoveryKey(string(p)) {
		return fmt.Errorf("%w: it looks like a recovery key", ErrPassphrase)
	}
	runes := []rune(strings.ToLower(string(p)))
	for _, r := range runes {
		const byteOrderMark = '\ufeff'
		if unicode.IsControl(r) || r == byteOrderMark {
			return fmt.Errorf("%w: it holds the control character %U", ErrPassphrase, r)
		}
	}
	if isPeriodic(runes) {
		return fmt.Errorf("%w: it repeats the same few characters", ErrPassphrase)
	}
	if isSequence(runes, 1) || isSequence(runes, -1) {
		return fmt.Errorf("%w: it is a sequence", ErrPassphrase)
	}
	return nil
}

// isPeriodic tells whether s repeats its first 1 to 4 characters.
func isPeriodic(s []rune) bool {
	const maxPeriod = 4
	for period := 1; period <= maxPeriod; period++ {
		i := period
		for i < len(s) && s[i] == s[i-period] {
			i++
		}
		if i == len(s) {
			return true
		}
	}
	return false
}

// isSequence tells whether each character follows the one before, as in
// "abcdefgh" and "78901234", or where step is -1 precedes it.
func isSequence(s []rune, step rune) bool {
	for i := 1; i < len(s); i++ {
		a, b := s[i-1], s[i]
		wraps := step == 1 && a == '9' && b == '0' || step == -1 && a == '0' && b == '9'
		if b != a+step && !wraps {
			return false
		}
	}
	return true
}

const (
	passphraseGroups = 5
	passphraseGroup  = 5
)

// GeneratePassphrase draws a passphrase of 125 bits from random, or from crypto/rand
// where it is nil: 5 groups of 5 digits of base32 in lower case, with dashes,
// which every keyboard has and no eye mistakes.
func GeneratePassphrase(random io.Reader) (string, error) {
	digits := make([]byte, passphraseGroups*passphraseGroup)
	if err := fillRandom(random, digits); err != nil {
		return "", err
	}
	for i, b := range digits {
		const alphabet = "abcdefghijklmnopqrstuvwxyz234567"
		digits[i] = alphabet[b%32]
	}
	var groups []string
	for i := 0; i < len(digits); i += passphraseGroup {
		groups = append(groups, string(digits[i:i+passphraseGroup]))
	}
	return strings.Join(groups, "-"), nil
}
