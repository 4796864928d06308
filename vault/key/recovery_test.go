package key

import (
	"errors"
	"strings"
	"testing"

	"github.com/tharsis-backup/tharsis/internal/typed"
)

func TestRecoveryKeyRoundTrip(t *testing.T) {
	for range 100 {
		k, err := NewRecoveryKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		s := k.String()
		if len(s) != 67 || strings.Count(s, "-") != 7 || !strings.HasPrefix(s, "thr1-") {
			t.Fatalf("shown as %s", s)
		}
		for _, text := range []string{
			s, strings.ToUpper(s), strings.ReplaceAll(s, "-", ""), strings.ReplaceAll(s, "-", " "),
			" " + s + "\r\n", strings.ReplaceAll(s, "-", "\u2013"), strings.ReplaceAll(s, "-", "\u00a0"), s[:20] + "\n" + s[20:],
		} {
			got, err := ParseRecoveryKey(text)
			if err != nil || got != k || !LooksLikeRecoveryKey(text) {
				t.Fatalf("%q: %v", text, err)
			}
		}
	}
}

func TestRecoveryKeyMistyped(t *testing.T) {
	k, _ := NewRecoveryKey(nil)
	s := k.String()
	reject := func(text string) {
		t.Helper()
		if got, err := ParseRecoveryKey(text); !errors.Is(err, ErrMistyped) || got != (RecoveryKey{}) {
			t.Errorf("%q: %v", text, err)
		}
	}
	for i := range s {
		for _, c := range "a7-018é" {
			if text := s[:i] + string(c) + s[i+1:]; typed.Compact(text) != typed.Compact(s) {
				reject(text)
				if _, err := ParseCredential([]byte(text)); i > 4 && !errors.Is(err, ErrMistyped) {
					t.Errorf("%q is taken for a passphrase: %v", text, err)
				}
			}
		}
		reject(s[:i])
	}
	for i := 5; i+1 < len(s); i++ {
		if text := s[:i] + s[i+1:i+2] + s[i:i+1] + s[i+2:]; typed.Compact(text) != typed.Compact(s) {
			reject(text) // two characters swapped
		}
	}
	reject(s + "a")
	reject(s + s)
	reject("")
	reject(strings.Repeat(" ", 2000) + s)
}

func FuzzParseRecoveryKey(f *testing.F) {
	f.Add(RecoveryKey{1, 2, 3}.String())
	f.Add("thr1 ")
	f.Fuzz(func(t *testing.T, text string) {
		k, err := ParseRecoveryKey(text)
		switch {
		case err != nil && !errors.Is(err, ErrMistyped):
			t.Fatal(err)
		case err == nil && typed.Compact(text) != typed.Compact(k.String()):
			t.Fatalf("%q is read as %s", text, k)
		case err == nil && !LooksLikeRecoveryKey(text):
			t.Fatalf("%q does not look like a key", text)
		}
	})
}
