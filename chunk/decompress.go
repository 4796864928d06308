package chunk

import (
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// ErrMalformed is wrapped by [Decompressor.Decompress] where the stored bytes
// are not what a [Compressor] writes for a plaintext of that length.
var ErrMalformed = errors.New("malformed record")

// Decompressor undoes Compress. It is for one goroutine at a time.
type Decompressor struct {
	dec *zstd.Decoder
}

// NewDecompressor makes a Decompressor. It starts no goroutine and need not be
// closed. It holds 200 KiB, whatever it is given to read.
func NewDecompressor() (*Decompressor, error) {
	dec, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(MaxChunk),
		zstd.WithDecoderMaxWindow(MaxChunk),
	)
	if err != nil {
		return nil, fmt.Errorf("make zstd decoder: %w", err)
	}
	return &Decompressor{dec: dec}, nil
}

// decodeSpare is the spare capacity with which the decoder is fastest.
const decodeSpare = 16

// Decompress returns the plaintext of a record, which must have exactly plainLen
// bytes, at most MaxChunk. It overwrites dst and returns a slice of it, or a new
// one where dst's capacity is below plainLen (plainLen+16 is fastest). dst must not
// overlap stored. It returns ErrMalformed for an unknown codec, another length,
// anything but one whole frame, and a frame with a dictionary or a checksum.
func (d *Decompressor) Decompress(dst, stored []byte, c Codec, plainLen int) ([]byte, error) {
	if plainLen < 0 || plainLen > MaxChunk {
		return nil, fmt.Errorf("%w: plaintext length %d is not within 0 to %d", ErrMalformed, plainLen, MaxChunk)
	}
	switch c {
	case CodecPlain:
		if len(stored) != plainLen {
			return nil, fmt.Errorf("%w: %d bytes stored plain, want %d", ErrMalformed, len(stored), plainLen)
		}
		return append(grow(dst, plainLen), stored...), nil
	case CodecZstd:
		return d.decode(grow(dst, plainLen), stored, plainLen)
	}
	return nil, fmt.Errorf("%w: unknown codec %d", ErrMalformed, c)
}

func (d *Decompressor) decode(dst, stored []byte, plainLen int) ([]byte, error) {
	if err := checkFrame(stored, plainLen); err != nil {
		return nil, err
	}
	out, err := d.dec.DecodeAll(stored, dst)
	if err != nil {
		return nil, fmt.Errorf("%w: decode frame: %w", ErrMalformed, err)
	}
	if len(out) != plainLen {
		return nil, fmt.Errorf("%w: frame holds %d bytes, want %d", ErrMalformed, len(out), plainLen)
	}
	return out, nil
}

// grow empties dst and gives it room for n bytes.
func grow(dst []byte, n int) []byte {
	if cap(dst) < n {
		return make([]byte, 0, n+decodeSpare)
	}
	return dst[:0]
}

// The fields of a block header in zstd (RFC 8878 §3.1.1.2).
const (
	blockHeaderBytes = 3
	blockRLE         = 1
	blockReserved    = 3
)

// checkFrame checks that b is one frame of plainLen bytes from its first byte to
// its last. The decoder alone would skip unknown frames, and append those that
// follow.
func checkFrame(b []byte, plainLen int) error {
	off, err := checkFrameHeader(b, plainLen)
	if err != nil {
		return err
	}
	for last := false; !last; {
		if len(b)-off < blockHeaderBytes {
			return fmt.Errorf("%w: frame is cut", ErrMalformed)
		}
		h := int(b[off]) | int(b[off+1])<<8 | int(b[off+2])<<16
		kind, size := h>>1&3, h>>3
		if kind == blockReserved {
			return fmt.Errorf("%w: reserved block type", ErrMalformed)
		}
		if kind == blockRLE {
			size = 1
		}
		off += blockHeaderBytes
		if len(b)-off < size {
			return fmt.Errorf("%w: frame is cut", ErrMalformed)
		}
		off += size
		last = h&1 != 0
	}
	if off != len(b) {
		return fmt.Errorf("%w: %d bytes after the frame", ErrMalformed, len(b)-off)
	}
	return nil
}

// checkFrameHeader returns where the first block begins.
func checkFrameHeader(b []byte, plainLen int) (int, error) {
	var h zstd.Header
	if err := h.Decode(b); err != nil {
		return 0, fmt.Errorf("%w: frame header: %w", ErrMalformed, err)
	}
	const descriptor, dictionaryBits = 4, 3
	switch {
	case h.Skippable:
		return 0, fmt.Errorf("%w: skippable frame", ErrMalformed)
	case !h.HasFCS || h.FrameContentSize != uint64(plainLen):
		return 0, fmt.Errorf("%w: frame does not say that it holds %d bytes", ErrMalformed, plainLen)
	case h.HasCheckSum || b[descriptor]&dictionaryBits != 0:
		return 0, fmt.Errorf("%w: frame with a checksum or a dictionary", ErrMalformed)
	}
	return h.HeaderSize, nil
}
