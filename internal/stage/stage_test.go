package stage

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

// TestBytes flips every bit of a content after its checksum was taken.
func TestBytes(t *testing.T) {
	b := []byte("some content of an object")
	want := bytes.Clone(b)
	c := Check(b)
	if err := iotest.TestReader(io.NewSectionReader(c, 0, c.Len()), want); err != nil {
		t.Fatal(err)
	}
	for bit := range 8 * len(b) {
		b[bit/8] ^= 1 << (bit % 8)
		if _, err := c.ReadAt(make([]byte, 1), 3); !errors.Is(err, ErrSpoilt) {
			t.Errorf("bit %d: read: %v", bit, err)
		}
		if got, err := c.All(); !errors.Is(err, ErrSpoilt) || got != nil {
			t.Errorf("bit %d: all: %v", bit, err)
		}
		b[bit/8] ^= 1 << (bit % 8)
	}
	if got, err := c.All(); err != nil || !bytes.Equal(got, want) {
		t.Error(err)
	}
	if Sum(Sum(0, b[:7]), b[7:]) != Sum(0, b) {
		t.Error("a checksum in two parts differs")
	}
}

// TestHook: bytes are handed to the hook that is set, and to no other.
func TestHook(t *testing.T) {
	b := []byte{1}
	Pass(Sealed, b)
	restore := SetHook(func(p Point, b []byte) {
		if p == Sealed {
			b[0]++
		}
	})
	Pass(Sealed, b)
	Pass(Body, b)
	restore()
	Pass(Sealed, b)
	if b[0] != 2 {
		t.Errorf("it was called %d times", b[0]-1)
	}
}
