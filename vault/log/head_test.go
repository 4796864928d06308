package log

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/tharsis-backup/tharsis/internal/typed"
)

// heads are heads of all lengths.
func heads(t *testing.T) (all []Head) {
	rng := newRNG(t)
	for bits := range 64 {
		h := Head{Seq: rng.Uint64() >> bits}
		for i := range h.Hash {
			h.Hash[i] = byte(rng.Uint32())
		}
		all = append(all, h)
	}
	return append(all, Head{}, Head{Seq: 1<<40 - 1}, Head{Seq: 1 << 40})
}

func TestHeadTyped(t *testing.T) {
	for _, h := range heads(t) {
		s := h.Receipt()
		if short := h.Seq < 1<<40; short != strings.HasPrefix(s, "thh1-") || short && len(s) != 76 {
			t.Errorf("the receipt of %s is %s", h, s)
		}
		for _, text := range []string{
			h.String(), strings.ToUpper(h.String()), s, strings.ToUpper(s), " " + s + "\n",
		} {
			if g, err := ParseHead(strings.TrimSpace(text)); err != nil || g != h {
				t.Errorf("%q: %v, %v", text, g, err)
			}
		}
		for _, text := range []string{strings.ReplaceAll(s, "-", " "), strings.ReplaceAll(s, "-", "")} {
			if g, err := ParseHead(text); strings.HasPrefix(s, "thh1-") && (err != nil || g != h) {
				t.Errorf("%q: %v, %v", text, g, err)
			}
		}
	}
}

// A slip of the hand is found, wherever it is.
func TestReceiptMistyped(t *testing.T) {
	s := Head{Seq: 1234, Hash: [32]byte{7, 31: 9}}.Receipt()
	reject := func(text string) {
		t.Helper()
		if h, err := ParseHead(text); err == nil && typed.Compact(text) != typed.Compact(s) {
			t.Errorf("%q is read as %s", text, h)
		}
	}
	for i := range s {
		reject(s[:i])
		reject(s[:i] + s[i+1:])
		for _, c := range "abz27-01:é" {
			reject(s[:i] + string(c) + s[i+1:])
			reject(s[:i] + string(c) + s[i:])
		}
		if i+1 < len(s) {
			reject(s[:i] + s[i+1:i+2] + s[i:i+1] + s[i+2:])
		}
	}
	reject(strings.Repeat(" ", 2000) + s + ".")
}

func FuzzParseHead(f *testing.F) {
	rng := rand.New(rand.NewPCG(5, 6))
	h := Head{Seq: rng.Uint64() >> 30}
	f.Add(h.String())
	f.Add(h.Receipt())
	f.Fuzz(func(t *testing.T, text string) {
		h, err := ParseHead(text)
		if err != nil {
			return
		}
		for _, again := range []string{h.String(), h.Receipt()} {
			if g, err := ParseHead(again); err != nil || g != h {
				t.Fatalf("%q is read as %s, which is read as %s: %v", text, h, g, err)
			}
		}
	})
}
