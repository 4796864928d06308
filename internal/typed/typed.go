// Package typed writes short binary codes so that a person can print them, read
// them out and type them back: a prefix that says what the code is, then base32
// digits in groups of eight, the last of them a checksum (docs/FORMAT.md §5).
//
// A code of n bytes has (n+3)*8/5 digits, so n+3 is a multiple of five. The
// checksum is the first 3 bytes of the SHA-256 of the code: it finds a slip of the
// hand, and no forger. What is parsed is bounded before it is looked at. All
// functions may be called concurrently.
package typed

import (
	"bytes"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

const (
	sumBytes = 3
	group    = 8
	// maxText bounds what is parsed, in bytes: more is not a code with some spaces.
	maxText = 1 << 10
)

var encoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// Format gives the text of a code.
func Format(prefix string, code []byte) string {
	sum := sha256.Sum256(code)
	digits := encoding.EncodeToString(slices.Concat(code, sum[:sumBytes]))
	var b strings.Builder
	b.WriteString(prefix)
	for g := range slices.Chunk([]byte(digits), group) {
		b.WriteByte('-')
		b.Write(g)
	}
	return b.String()
}

// Parse reads a code of n bytes as Format writes it. Case, spaces and dashes don't
// matter. Its errors say what is wrong, and nothing of the code.
func Parse(prefix string, n int, text string) ([]byte, error) {
	if len(text) > maxText {
		return nil, fmt.Errorf("it is %d bytes long", len(text))
	}
	digits, ok := strings.CutPrefix(Compact(text), prefix)
	if !ok {
		return nil, fmt.Errorf("it does not begin with %q", prefix)
	}
	if want := Count(n); len(digits) != want {
		return nil, fmt.Errorf("it has %d characters after %q and not %d", len(digits), prefix, want)
	}
	b, err := encoding.DecodeString(digits)
	if err != nil {
		return nil, errors.New("it holds a character that is not a to z or 2 to 7")
	}
	if sum := sha256.Sum256(b[:n]); !bytes.Equal(sum[:sumBytes], b[n:]) {
		return nil, errors.New("its checksum is wrong")
	}
	return b[:n], nil
}

// Count is how many digits a code of n bytes has.
func Count(n int) int { return (n + sumBytes) * 8 / 5 }

// Compact drops case, spaces and dashes, the long ones of word processors too.
func Compact(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || unicode.Is(unicode.Dash, r) {
			return -1
		}
		return unicode.ToLower(r)
	}, s)
}
