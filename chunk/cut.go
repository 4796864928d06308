package chunk

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/restic/chunker"
)

// CutParams says how long chunks are. It stands in the vault's config, since
// files that are cut in another way share no chunk.
type CutParams struct {
	// Min and Max bound a chunk's length in bytes; the last one of a file may be
	// shorter. A file shorter than Min need not be cut: it is one chunk.
	Min, Max uint32
	// Bits is the number of bits of the checksum that are zero at a cut: after
	// Min bytes a chunk goes on for 2^Bits bytes on average.
	Bits uint8
}

// The bounds of the parameters (docs/FORMAT.md §4).
const (
	minCutMin              = 64 << 10
	minCutBits, maxCutBits = 12, 24
)

// DefaultCutParams are those of a new vault, chosen by measurement:
// docs/decisions/0002-chunk-parameters.md.
var DefaultCutParams = CutParams{Min: 512 << 10, Max: 2 << 20, Bits: 18}

// Check tells whether a vault may have these parameters.
func (p CutParams) Check() error {
	switch {
	case p.Min < minCutMin:
		return fmt.Errorf("chunk minimum %d is below %d", p.Min, minCutMin)
	case p.Max > MaxChunk:
		return fmt.Errorf("chunk maximum %d is above %d", p.Max, MaxChunk)
	case p.Min >= p.Max:
		return fmt.Errorf("chunk minimum %d is not below the maximum %d", p.Min, p.Max)
	case p.Bits < minCutBits || p.Bits > maxCutBits:
		return fmt.Errorf("%d chunker bits are not within %d to %d", p.Bits, minCutBits, maxCutBits)
	}
	return nil
}

// Polynomial is the secret that places the cuts of one vault. Deriving it takes
// milliseconds, so it is done once and given to every Cutter. The zero value is
// not valid.
type Polynomial struct{ pol chunker.Pol }

// polynomialStream is how many bytes HKDF gives at most. A polynomial takes 8,
// and one in 27 is irreducible, so that the stream of 1,020 is too short for one
// secret in 10^16.
const polynomialStream = 255 * 32

// DerivePolynomial derives the polynomial of a vault from key.Ring's Chunker, as
// docs/FORMAT.md §6.4 says. It returns an error for one secret in 10^16.
func DerivePolynomial(secret Key) (Polynomial, error) {
	stream := Expand(secret[:], "tharsis/0/polynomial", polynomialStream)
	pol, err := chunker.DerivePolynomial(bytes.NewReader(stream))
	if err != nil {
		return Polynomial{}, fmt.Errorf("derive polynomial: %w", err)
	}
	return Polynomial{pol}, nil
}

// String keeps the secret out of messages.
func (Polynomial) String() string { return "polynomial" }

// Cutter splits streams into chunks by their content: an insertion moves the
// cuts near it, and those behind stay where they were in the content. It is made
// once for each worker and reset for each file; it holds 512 KiB and is for one
// goroutine at a time.
type Cutter struct {
	params  CutParams
	pol     Polynomial
	chunker *chunker.Chunker
	source  source
	err     error
}

// NewCutter makes a Cutter. Reset must be called before Next.
func NewCutter(p CutParams, pol Polynomial) (*Cutter, error) {
	if err := p.Check(); err != nil {
		return nil, fmt.Errorf("make cutter: %w", err)
	}
	if pol.pol == 0 {
		return nil, errors.New("make cutter: no polynomial")
	}
	c := &Cutter{params: p, pol: pol}
	c.chunker = chunker.NewWithBoundaries(nil, pol.pol, uint(p.Min), uint(p.Max))
	c.Reset(eof{})
	return c, nil
}

// Reset starts a new stream, which Next reads from r until io.EOF. It does not
// allocate. The Cutter reads ahead of the cuts, in steps of 512 KiB.
func (c *Cutter) Reset(r io.Reader) {
	c.source = source{r: r}
	c.err = nil
	c.chunker.ResetWithBoundaries(&c.source, c.pol.pol, uint(c.params.Min), uint(c.params.Max))
	c.chunker.SetAverageBits(int(c.params.Bits))
}

// Next returns the next chunk of the stream, or io.EOF behind the last one. It
// overwrites buf and returns a slice of it; it allocates only where buf's
// capacity is below the chunk's length, so never with one of Max bytes. An error
// of the reader is returned wrapped, by all later calls too, and what was read
// since the last cut is lost.
func (c *Cutter) Next(buf []byte) ([]byte, error) {
	if c.err != nil {
		return nil, c.err
	}
	ch, err := c.chunker.Next(buf)
	switch {
	case c.source.err != nil:
		c.err = fmt.Errorf("read for cutting: %w", c.source.err)
	case err != nil:
		c.err = err
	default:
		return ch.Data, nil
	}
	c.source.r = eof{} // don't keep a file's reader alive
	return nil, c.err
}

// source notes an error of the reader and hides it from the chunker, which would
// take io.ErrUnexpectedEOF for the end of the stream.
type source struct {
	r   io.Reader
	err error
}

var errSource = errors.New("reader returned an error")

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
		return n, errSource
	}
	return n, err
}

// eof is an empty stream.
type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }
