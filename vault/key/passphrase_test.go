package key

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

func TestNormalizePassphrase(t *testing.T) {
	composed, decomposed := "sch\u00f6ne lange Worte", "scho\u0308ne lange Worte"
	a, errA := NormalizePassphrase([]byte(composed))
	b, errB := NormalizePassphrase([]byte(decomposed))
	if errA != nil || errB != nil || !bytes.Equal(a, b) || string(a) != composed {
		t.Errorf("%q, %v and %q, %v", a, errA, b, errB)
	}
	for _, ok := range []string{
		"exactly 16 chars", strings.Repeat("\U0001f600", 16), strings.Repeat("x", 1024),
		strings.Repeat("o\u0308", 512), // 1,024 bytes in NFC, more as typed
	} {
		if _, err := NormalizePassphrase([]byte(ok)); err != nil {
			t.Errorf("%q: %v", ok, err)
		}
	}
	for _, bad := range []string{
		"", "fifteen chars..", strings.Repeat("o\u0308", 15), // 15 code points in NFC
		strings.Repeat("x", 1025), strings.Repeat("x", 1<<20), "not UTF-8: \xff\xff\xff\xff\xff\xff",
	} {
		if p, err := NormalizePassphrase([]byte(bad)); !errors.Is(err, ErrPassphrase) || p != nil {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
}

func TestNewPassphraseStrength(t *testing.T) {
	for _, weak := range []string{
		"aaaaaaaaaaaaaaaa", "AaAaAaAaAaAaAaAa", "abababababababab", "abcabcabcabcabcab", "1234123412341234",
		"1234567890123456", "9876543210987654", "abcdefghijklmnop", "zyxwvutsrqponmlk", "ABCDefghijklmnop",
		"a line\nand another line", "\ufeffa long passphrase", RecoveryKey{1}.String(), RecoveryKey{1}.String()[:60],
	} {
		if _, err := NewPassphrase([]byte(weak)); !errors.Is(err, ErrPassphrase) {
			t.Errorf("%q: %v", weak, err)
		}
	}
	for _, ok := range []string{"correct horse battery", "thr1 is how mine begins", "0123456789abcdef!"} {
		if _, err := NewPassphrase([]byte(ok)); err != nil {
			t.Errorf("%q: %v", ok, err)
		}
	}
	// What is refused today for its strength still opens an old slot.
	if c, err := ParseCredential([]byte("aaaaaaaaaaaaaaaa")); err != nil || c.Kind() != KindPassphrase {
		t.Error(err)
	}
}

func TestGeneratePassphrase(t *testing.T) {
	seen := map[string]bool{}
	letters := map[rune]int{}
	for range 1000 {
		p, err := GeneratePassphrase(nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := NewPassphrase([]byte(p)); err != nil || len(p) != 29 || seen[p] {
			t.Fatalf("%q: %v", p, err)
		}
		seen[p] = true
		for _, r := range p {
			letters[r]++
		}
	}
	if len(letters) != 33 {
		t.Errorf("%d different characters", len(letters))
	}
	if _, err := GeneratePassphrase(strings.NewReader("short")); err == nil {
		t.Error("too few random bytes are accepted")
	}
}

func FuzzNormalizePassphrase(f *testing.F) {
	f.Add([]byte("a long passphrase"))
	f.Fuzz(func(t *testing.T, typed []byte) {
		p, err := NormalizePassphrase(typed)
		if err != nil {
			return
		}
		if utf8.RuneCount(p) < MinPassphraseRunes || len(p) > MaxPassphraseBytes || !norm.NFC.IsNormal(p) {
			t.Fatalf("%q gives %q", typed, p)
		}
		if again, err := NormalizePassphrase(p); err != nil || !bytes.Equal(again, p) {
			t.Fatalf("%q becomes %q: %v", p, again, err)
		}
	})
}
