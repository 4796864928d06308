package chunk

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"testing"
)

func TestSealRoundTrip(t *testing.T) {
	r := newRand(t)
	s := NewSealer(Key{1}, 3, []byte("object"))
	for _, n := range []int{0, 1, 15, 16, 17, 1000, 100_000} {
		plain, aad := randomBytes(r, n), randomBytes(r, r.IntN(50))
		box := s.Seal([]byte("before"), plain, aad)
		if len(box) != len("before")+n+BoxOverhead {
			t.Fatalf("box of %d bytes has %d", n, len(box))
		}
		got, err := s.Open([]byte("x"), box[len("before"):], aad)
		if err != nil || string(got[:1]) != "x" || !bytes.Equal(got[1:], plain) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
}

// TestOpenRejects tries every bit flip, every truncation and an extension of a box,
// every flip of its additional data, and other keys.
func TestOpenRejects(t *testing.T) {
	s := NewSealer(Key{1}, 3, []byte("object"))
	plain, aad := []byte("some plaintext of a record"), []byte("additional data")
	box := s.Seal(nil, plain, aad)
	reject := func(what string, s *Sealer, box, aad []byte) {
		t.Helper()
		if out, err := s.Open(nil, box, aad); !errors.Is(err, ErrAuth) || out != nil {
			t.Errorf("%s: got %d bytes, error %v", what, len(out), err)
		}
	}
	flips(box, func(bit int, b []byte) { reject(fmt.Sprint("box, bit ", bit), s, b, aad) })
	flips(aad, func(bit int, b []byte) { reject(fmt.Sprint("aad, bit ", bit), s, box, b) })
	for n := range box {
		reject(fmt.Sprint("cut to ", n), s, box[:n], aad)
	}
	for n := range aad {
		reject(fmt.Sprint("aad cut to ", n), s, box, aad[:n])
	}
	reject("extended", s, append(box, 0), aad)
	reject("aad extended", s, box, append(aad, 0))
	reject("another key", NewSealer(Key{2}, 3, []byte("object")), box, aad)
	reject("another type", NewSealer(Key{1}, 4, []byte("object")), box, aad)
	reject("another object", NewSealer(Key{1}, 3, []byte("objecu")), box, aad)
}

// flips calls f with each copy of b that differs in one bit.
func flips(b []byte, f func(bit int, flipped []byte)) {
	for bit := range len(b) * 8 {
		c := bytes.Clone(b)
		c[bit/8] ^= 1 << (bit % 8)
		f(bit, c)
	}
}

func TestNoncesAreUnique(t *testing.T) {
	s := NewSealer(Key{1}, 3, []byte("object"))
	seen := map[[12]byte]bool{}
	var buf []byte
	for range 20_000 {
		buf = s.Seal(buf[:0], nil, nil)
		nonce := [12]byte(buf)
		if seen[nonce] {
			t.Fatalf("nonce %x repeats", nonce)
		}
		seen[nonce] = true
	}
}

// TestSealerPinned pins the derivation of docs/FORMAT.md §2.
func TestSealerPinned(t *testing.T) {
	s := NewSealer(Key{1}, 3, bytes.Repeat([]byte{9}, 32))
	if got := hex.EncodeToString(s.Commitment[:]); got != pinnedCommitment {
		t.Errorf("commitment %s, want %s", got, pinnedCommitment)
	}
	box, _ := hex.DecodeString(pinnedBox)
	if got, err := s.Open(nil, box, []byte("aad")); err != nil || string(got) != "pinned" {
		t.Errorf("pinned box: %q, %v; a new one is %x", got, err, s.Seal(nil, []byte("pinned"), []byte("aad")))
	}
}

func TestSealDoesNotAllocate(t *testing.T) {
	s := NewSealer(Key{1}, 3, nil)
	plain, aad := make([]byte, 1000), []byte("aad")
	box, out := make([]byte, 0, 2000), make([]byte, 0, 2000)
	n := testing.AllocsPerRun(100, func() {
		box = s.Seal(box[:0], plain, aad)
		out, _ = s.Open(out[:0], box, aad)
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

const (
	pinnedCommitment = "987d144448a4433a7a1c2aa675c9fd2128534e4be7fe6a0da7af7699e4b0178e"
	pinnedBox        = "0c6b861b09ecd8c8746e8b88321a86365da255ad50b54c7612a862c622fac86374e1"
)
