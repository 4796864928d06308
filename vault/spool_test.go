package vault

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"

	"github.com/tharsis-backup/tharsis/internal/stage"
)

// testSpool is a spool with random bytes, written in pieces.
func testSpool(t testing.TB, rng *rand.Rand, size int) (*spool, []byte) {
	t.Helper()
	s, err := newSpool(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	want := make([]byte, size)
	for i := range want {
		want[i] = byte(rng.Uint32())
	}
	for rest := want; len(rest) > 0; {
		n := min(1+rng.IntN(3*spoolBlock), len(rest))
		if _, err := s.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	return s, want
}

// TestSpool reads a spool in pieces of all kinds.
func TestSpool(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	for _, size := range []int{0, 1, spoolBlock - 1, spoolBlock, spoolBlock + 1, 5*spoolBlock + 77} {
		s, want := testSpool(t, rng, size)
		if err := iotest.TestReader(io.NewSectionReader(s, 0, int64(size)), want); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
		for range 40 {
			off := rng.IntN(size + 2)
			p := make([]byte, rng.IntN(size+spoolBlock))
			n, err := s.ReadAt(p, int64(off))
			rest := want[min(off, size):]
			if m := min(len(p), len(rest)); n != m || !bytes.Equal(p[:n], rest[:m]) || (err == io.EOF) != (m < len(p)) {
				t.Fatalf("%d bytes: read %d at %d: %d, %v", size, len(p), off, n, err)
			}
		}
	}
}

// TestSpoiltSpool flips each bit of some bytes of the file, and cuts it: whoever
// reads any byte of the block is told.
func TestSpoiltSpool(t *testing.T) {
	s, _ := testSpool(t, rand.New(rand.NewPCG(1, 1)), 2*spoolBlock+100)
	read := func(off, n int) error {
		_, err := s.ReadAt(make([]byte, n), int64(off))
		return err
	}
	for _, at := range []int{0, 1, spoolBlock - 1, spoolBlock, spoolBlock + 4000, 2 * spoolBlock, 2*spoolBlock + 99} {
		for bit := range 8 {
			flip := func() {
				b := make([]byte, 1)
				if _, err := s.file.ReadAt(b, int64(at)); err != nil {
					t.Fatal(err)
				}
				b[0] ^= 1 << bit
				if _, err := s.file.WriteAt(b, int64(at)); err != nil {
					t.Fatal(err)
				}
			}
			flip()
			begin := at - at%spoolBlock
			for _, off := range []int{at, begin, min(begin+spoolBlock, int(s.size)) - 1} {
				if err := read(off, 1); !errors.Is(err, stage.ErrSpoilt) {
					t.Fatalf("byte %d, bit %d: read at %d: %v", at, bit, off, err)
				}
			}
			if err := read(0, int(s.size)); !errors.Is(err, stage.ErrSpoilt) {
				t.Fatalf("byte %d, bit %d: read all: %v", at, bit, err)
			}
			flip()
		}
	}
	if err := read(0, int(s.size)); err != nil {
		t.Fatal(err)
	}
	if err := s.file.Truncate(s.size - 1); err != nil {
		t.Fatal(err)
	}
	if err := read(2*spoolBlock, 10); !errors.Is(err, stage.ErrSpoilt) {
		t.Errorf("cut: %v", err)
	}
}
