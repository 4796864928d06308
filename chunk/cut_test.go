package chunk

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/iotest"
)

// small parameters make many chunks of little data.
var small = CutParams{Min: 64 << 10, Max: 512 << 10, Bits: 16}

func newCutter(t testing.TB, p CutParams) *Cutter {
	t.Helper()
	pol, err := DerivePolynomial(Key{1})
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewCutter(p, pol)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func cutAll(t testing.TB, c *Cutter, r io.Reader) [][]byte {
	t.Helper()
	c.Reset(r)
	var chunks [][]byte
	for {
		b, err := c.Next(nil)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		chunks = append(chunks, b)
	}
	if _, err := c.Next(nil); err != io.EOF {
		t.Fatalf("Next behind the end: %v", err)
	}
	return chunks
}

// checkChunks checks that chunks tile data and keep to the bounds.
func checkChunks(t testing.TB, p CutParams, data []byte, chunks [][]byte) {
	t.Helper()
	if !bytes.Equal(bytes.Join(chunks, nil), data) {
		t.Fatalf("%d bytes: the chunks are not the input", len(data))
	}
	for i, b := range chunks {
		switch {
		case len(b) == 0 || len(b) > int(p.Max):
			t.Fatalf("%d bytes: chunk %d of %d has %d bytes", len(data), i, len(chunks), len(b))
		case len(b) < int(p.Min) && i < len(chunks)-1:
			t.Fatalf("%d bytes: inner chunk %d has %d bytes", len(data), i, len(b))
		}
	}
}

func TestCutSizesAroundBounds(t *testing.T) {
	c := newCutter(t, small)
	random := randomBytes(newRand(t), int(small.Max)*2+1)
	zero := make([]byte, len(random))
	const readAhead = 512 << 10
	for _, at := range []int{0, 64, int(small.Min), 2 * int(small.Min), int(small.Max), readAhead, 2 * int(small.Max)} {
		for n := max(at-2, 0); n <= min(at+2, len(random)); n++ {
			for _, data := range [][]byte{random[:n], zero[:n]} {
				chunks := cutAll(t, c, bytes.NewReader(data))
				checkChunks(t, small, data, chunks)
				if 0 < n && n < int(small.Min) && len(chunks) != 1 {
					t.Errorf("%d bytes, below the minimum: %d chunks", n, len(chunks))
				}
			}
		}
	}
}

func TestCutRandomReads(t *testing.T) {
	r := newRand(t)
	c := newCutter(t, small)
	buf := make([]byte, 0, small.Max)
	for range 10 {
		data := randomBytes(r, r.IntN(3<<20))
		want := cutAll(t, c, bytes.NewReader(data))
		checkChunks(t, small, data, want)

		// The cuts depend on nothing but content: not on how much a read gives,
		// nor on the buffer, nor on what was cut before.
		c.Reset(iotest.HalfReader(bytes.NewReader(data)))
		for i := range want {
			got, err := c.Next(buf)
			if err != nil || !bytes.Equal(got, want[i]) {
				t.Fatalf("chunk %d of %d bytes differs on a second pass: %v", i, len(data), err)
			}
		}
	}
}

// TestCutZeros pins that a run of zeros gives equal chunks of the minimum, which
// dedupe, and not of the maximum.
func TestCutZeros(t *testing.T) {
	chunks := cutAll(t, newCutter(t, small), bytes.NewReader(make([]byte, 2<<20+1)))
	for i, b := range chunks[:len(chunks)-1] {
		if len(b) != int(small.Min) {
			t.Fatalf("chunk %d has %d bytes, want %d", i, len(b), small.Min)
		}
	}
}

// TestCutConstant: some bytes repeated never give a cut, so the maximum bounds them.
func TestCutConstant(t *testing.T) {
	c := newCutter(t, small)
	for _, v := range []byte{1, 'a', 0xff} {
		data := bytes.Repeat([]byte{v}, 2<<20+1)
		checkChunks(t, small, data, cutAll(t, c, bytes.NewReader(data)))
	}
}

// TestCutInsert: an edit costs the chunks around it and no others.
func TestCutInsert(t *testing.T) {
	r := newRand(t)
	c := newCutter(t, small)
	data := randomBytes(r, 8<<20)
	known := map[[32]byte]bool{}
	for _, b := range cutAll(t, c, bytes.NewReader(data)) {
		known[sha256.Sum256(b)] = true
	}
	for range 5 {
		at, drop := r.IntN(len(data)), r.IntN(100)
		edited := append([]byte{}, data[:at]...)
		edited = append(edited, randomBytes(r, 1+r.IntN(100))...)
		edited = append(edited, data[min(at+drop, len(data)):]...)
		fresh := 0
		for _, b := range cutAll(t, c, bytes.NewReader(edited)) {
			if !known[sha256.Sum256(b)] {
				fresh++
			}
		}
		// Of 70 chunks. Cuts resynchronize at the first old cut that is not skipped.
		if fresh > 15 {
			t.Errorf("an edit at %d made %d of %d chunks new", at, fresh, len(known))
		}
	}
}

func TestCutReaderErrors(t *testing.T) {
	c := newCutter(t, small)
	data := make([]byte, 200<<10)
	for _, want := range []error{errors.New("disk"), io.ErrUnexpectedEOF, fmt.Errorf("wrapped: %w", io.EOF)} {
		for _, n := range []int{0, 1, len(data)} {
			c.Reset(io.MultiReader(bytes.NewReader(data[:n]), iotest.ErrReader(want)))
			for range 2 {
				if b, err := c.Next(nil); b != nil || !errors.Is(err, want) || err == io.EOF {
					t.Fatalf("after %d bytes: %d bytes, error %v, want %v", n, len(b), err, want)
				}
			}
		}
	}
	checkChunks(t, small, data, cutAll(t, c, bytes.NewReader(data)))
}

func TestCutDoesNotAllocate(t *testing.T) {
	c := newCutter(t, small)
	data := randomBytes(seeded(1), 1<<20)
	buf := make([]byte, 0, small.Max)
	r := bytes.NewReader(nil)
	n := testing.AllocsPerRun(10, func() {
		r.Reset(data)
		c.Reset(r)
		for {
			if _, err := c.Next(buf); err != nil {
				return
			}
		}
	})
	if n != 0 {
		t.Errorf("%v allocations for a file", n)
	}
}

// TestPolynomialPinned pins docs/FORMAT.md §6.4: another polynomial, or another
// reading of it, would make every vault store everything again.
func TestPolynomialPinned(t *testing.T) {
	pol, err := DerivePolynomial(Key{1})
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("%#x", uint64(pol.pol)); got != pinnedPolynomial {
		t.Errorf("polynomial %s, want %s", got, pinnedPolynomial)
	}
	if s := fmt.Sprint(pol); s != "polynomial" {
		t.Errorf("prints as %q", s)
	}
	data := make([]byte, 1<<20)
	state := uint32(1)
	for i := range data {
		state = state*1664525 + 1013904223
		data[i] = byte(state >> 24)
	}
	var lengths []int
	for _, b := range cutAll(t, newCutter(t, small), bytes.NewReader(data)) {
		lengths = append(lengths, len(b))
	}
	if got := fmt.Sprint(lengths); got != pinnedLengths {
		t.Errorf("lengths %s, want %s", got, pinnedLengths)
	}
	if other, _ := DerivePolynomial(Key{2}); other == pol {
		t.Error("two secrets give one polynomial")
	}
}

func TestCutParams(t *testing.T) {
	ok := []CutParams{DefaultCutParams, small, {64 << 10, 64<<10 + 1, 12}, {MaxChunk - 1, MaxChunk, 24}}
	bad := []CutParams{{}, {64<<10 - 1, 1 << 20, 16}, {1 << 20, MaxChunk + 1, 16}, {1 << 20, 1 << 20, 16},
		{1 << 20, 2 << 20, 11}, {1 << 20, 2 << 20, 25}}
	for _, p := range ok {
		if err := p.Check(); err != nil {
			t.Errorf("%+v: %v", p, err)
		}
	}
	pol, _ := DerivePolynomial(Key{1})
	for _, p := range bad {
		if _, err := NewCutter(p, pol); err == nil {
			t.Errorf("%+v is accepted", p)
		}
	}
	if _, err := NewCutter(small, Polynomial{}); err == nil {
		t.Error("no polynomial is accepted")
	}
}

const (
	pinnedPolynomial = "0x2650ddef9d39eb"
	pinnedLengths    = "[89843 106985 72847 93946 70665 157410 107569 110038 205031 34242]"
)
