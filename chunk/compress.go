package chunk

import (
	"fmt"
	"math"

	"github.com/klauspost/compress/zstd"
)

// Codec says how the plaintext of a record is stored (docs/FORMAT.md §6.1).
type Codec uint8

// The codecs.
const (
	// CodecPlain stores it as it is.
	CodecPlain Codec = 1
	// CodecZstd stores it as one zstd frame that says its content's size.
	CodecZstd Codec = 2
)

// String is the codec's name, for messages.
func (c Codec) String() string {
	switch c {
	case CodecPlain:
		return "plain"
	case CodecZstd:
		return "zstd"
	}
	return fmt.Sprintf("codec %d", uint8(c))
}

// Level trades time for size. All levels write frames that every Decompressor reads.
type Level uint8

// The levels, with what they do on a source tree and on one core of the machine of
// docs/decisions/0002-chunk-parameters.md.
const (
	LevelFastest Level = iota // 0.21 of the size, 280 MB/s; the default
	LevelDefault              // 0.20 of the size, 210 MB/s
	LevelBetter               // 0.18 of the size, 110 MB/s
)

// CompressorOptions configures a Compressor. The zero value is the default.
type CompressorOptions struct {
	Level Level
}

const (
	// encoderWindow bounds how far back the encoder looks, and with it the memory
	// of a Compressor (2.7 MiB). Segments are shorter, and longer chunks lose under
	// 0.1 % of their size by it.
	encoderWindow = 2 << 20
	// minSavingShift: a frame is worth the time to decode it when it saves more than
	// 1/32 (3 %).
	minSavingShift = 5
)

// Compressor compresses records. It is for one goroutine at a time.
type Compressor struct {
	fastest *zstd.Encoder
	// slower is nil at LevelFastest.
	slower *zstd.Encoder
}

// NewCompressor makes a Compressor. It starts no goroutine and need not be closed.
// It returns an error for an unknown level.
func NewCompressor(o CompressorOptions) (*Compressor, error) {
	c := &Compressor{}
	var err error
	if c.fastest, err = newEncoder(zstd.SpeedFastest); err != nil {
		return nil, err
	}
	switch o.Level {
	case LevelFastest:
	case LevelDefault:
		c.slower, err = newEncoder(zstd.SpeedDefault)
	case LevelBetter:
		c.slower, err = newEncoder(zstd.SpeedBetterCompression)
	default:
		err = fmt.Errorf("unknown compression level %d", o.Level)
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// newEncoder makes an encoder that allocates its memory when it is first used.
func newEncoder(level zstd.EncoderLevel) (*zstd.Encoder, error) {
	e, err := zstd.NewWriter(nil,
		zstd.WithEncoderLevel(level),
		zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(encoderWindow),
		// Faster too, where the input fits into the window: less memory is touched.
		zstd.WithLowerEncoderMem(true),
		// The box authenticates the frame, and the chunk IDs its content.
		zstd.WithEncoderCRC(false),
		// Without it frames of under 256 bytes don't say their content's size.
		zstd.WithSingleSegment(true),
	)
	if err != nil {
		return nil, fmt.Errorf("make zstd encoder: %w", err)
	}
	return e, nil
}

// CompressBound is the most bytes that Compress needs in dst for n bytes of input.
func CompressBound(n int) int {
	const headerBytes, blockHeaderBytes, minBlockBytes = 14, 3, 64 << 10
	return headerBytes + n + blockHeaderBytes*(n/minBlockBytes+1)
}

// Compress returns src, of at most MaxChunk bytes, as it should be stored, and
// how that is: as a frame where it saves more than 3 %, else a copy. It overwrites dst
// and returns a slice of it, or a new one where dst's capacity is below
// CompressBound(len(src)). dst must not overlap src.
func (c *Compressor) Compress(dst, src []byte) ([]byte, Codec) {
	if cap(dst) < CompressBound(len(src)) {
		dst = make([]byte, 0, CompressBound(len(src)))
	}
	dst = dst[:0]
	if len(src) == 0 {
		return dst, CodecPlain
	}
	frame := c.encoder(src).EncodeAll(src, dst)
	if len(frame)+len(src)>>minSavingShift < len(src) {
		return frame, CodecZstd
	}
	return append(dst, src...), CodecPlain
}

// encoder chooses one for src. The fastest gives up on incompressible data by
// itself, at thousands of MB/s, and needs no test before. The slower ones go on
// trying, at a tenth of that, so that they don't get data that looks like it.
func (c *Compressor) encoder(src []byte) *zstd.Encoder {
	if c.slower == nil || looksIncompressible(src) {
		return c.fastest
	}
	return c.slower
}

const (
	// samples and sampleBytes say what is looked at: 16 KiB cost 15 us.
	samples, sampleBytes = 16, 1 << 10
	// minSampled: below it a sample costs as much as it could save.
	minSampled = 64 << 10
	// randomEntropy is in bits a byte. 16 KiB of random bytes have 7.99, deflated
	// data and pictures over 7.9, executables and text below 7.
	randomEntropy = 7.9
)

// looksIncompressible tells whether the bytes of evenly spaced samples of src
// are about equally frequent. It is a guess: repetitions are not seen.
func looksIncompressible(src []byte) bool {
	if len(src) < minSampled {
		return false
	}
	var count [256]uint32
	step := len(src) / samples
	for i := range samples {
		for _, b := range src[i*step : i*step+sampleBytes] {
			count[b]++
		}
	}
	// The entropy is log2(n) - sum(c log2 c)/n.
	const n = samples * sampleBytes
	sum := 0.0
	for _, c := range count {
		if c > 0 {
			sum += float64(c) * math.Log2(float64(c))
		}
	}
	return math.Log2(n)-sum/n > randomEntropy
}
