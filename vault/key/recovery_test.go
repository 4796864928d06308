package key

import (
	"errors"
	"strings"
	"testing"
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
		for _, typed := range []string{
			s, strings.ToUpper(s), strings.ReplaceAll(s, "-", ""), strings.ReplaceAll(s, "-", " "),
			" " + s + "\r\n", strings.ReplaceAll(s, "-", "\u2013"), strings.ReplaceAll(s, "-", "\u00a0"), s[:20] + "\n" + s[20:],
		} {
			got, err := ParseRecoveryKey(typed)
			if err != nil || got != k || !LooksLikeRecoveryKey(typed) {
				t.Fatalf("%q: %v", typed, err)
			}
		}
	}
}

func TestRecoveryKeyMistyped(t *testing.T) {
	k, _ := NewRecoveryKey(nil)
	s := k.String()
	reject := func(typed string) {
		t.Helper()
		if got, err := ParseRecoveryKey(typed); !errors.Is(err, ErrMistyped) || got != (RecoveryKey{}) {
			t.Errorf("%q: %v", typed, err)
		}
	}
	for i := range s {
		for _, c := range "a7-018é" {
			if typed := s[:i] + string(c) + s[i+1:]; compact(typed) != compact(s) {
				reject(typed)
				if _, err := ParseCredential([]byte(typed)); i > 4 && !errors.Is(err, ErrMistyped) {
					t.Errorf("%q is taken for a passphrase: %v", typed, err)
				}
			}
		}
		reject(s[:i])
	}
	for i := 5; i+1 < len(s); i++ {
		if typed := s[:i] + s[i+1:i+2] + s[i:i+1] + s[i+2:]; compact(typed) != compact(s) {
			reject(typed) // two characters swapped
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
	f.Fuzz(func(t *testing.T, typed string) {
		k, err := ParseRecoveryKey(typed)
		switch {
		case err != nil && !errors.Is(err, ErrMistyped):
			t.Fatal(err)
		case err == nil && compact(typed) != compact(k.String()):
			t.Fatalf("%q is read as %s", typed, k)
		case err == nil && !LooksLikeRecoveryKey(typed):
			t.Fatalf("%q does not look like a key", typed)
		}
	})
}
