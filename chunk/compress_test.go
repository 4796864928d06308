package chunk

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/zstd"
)

func newCodecs(t testing.TB, l Level) (*Compressor, *Decompressor) {
	t.Helper()
	c, err := NewCompressor(CompressorOptions{Level: l})
	if err != nil {
		t.Fatal(err)
	}
	d, err := NewDecompressor()
	if err != nil {
		t.Fatal(err)
	}
	return c, d
}

// mixture is random bytes, text, zeros and repetitions in runs of random length.
func mixture(r *rand.Rand, n int) []byte {
	b := make([]byte, 0, n)
	for len(b) < n {
		k := min(n-len(b), 1+r.IntN(1<<r.IntN(20)))
		switch r.IntN(4) {
		case 0:
			b = append(b, randomBytes(r, k)...)
		case 1:
			b = append(b, words(r, k)...)
		case 2:
			b = append(b, make([]byte, k)...)
		case 3:
			b = append(b, b[:min(k, len(b))]...)
		}
	}
	return b
}

func TestCompressRoundTrip(t *testing.T) {
	r := newRand(t)
	for _, level := range []Level{LevelFastest, LevelDefault, LevelBetter} {
		c, d := newCodecs(t, level)
		var stored, plain []byte
		for i := range 60 {
			n := r.IntN(1 << (1 + i%20))
			src := mixture(r, n)
			var codec Codec
			stored, codec = c.Compress(stored, src)
			if codec == CodecZstd && len(stored) >= n-n/32 || codec == CodecPlain && !bytes.Equal(stored, src) {
				t.Fatalf("%d bytes: stored %s in %d", n, codec, len(stored))
			}
			var err error
			plain, err = d.Decompress(plain, stored, codec, n)
			if err != nil || !bytes.Equal(plain, src) {
				t.Fatalf("level %d: %d bytes, %s: %v", level, n, codec, err)
			}
		}
	}
}

func TestCompressLargest(t *testing.T) {
	c, d := newCodecs(t, LevelFastest)
	for _, src := range [][]byte{make([]byte, MaxChunk), words(seeded(1), MaxChunk), randomBytes(seeded(1), MaxChunk)} {
		stored, codec := c.Compress(nil, src)
		plain, err := d.Decompress(nil, stored, codec, len(src))
		if err != nil || !bytes.Equal(plain, src) {
			t.Fatal(err)
		}
	}
}

func TestCompressChooses(t *testing.T) {
	r := newRand(t)
	for _, level := range []Level{LevelFastest, LevelDefault, LevelBetter} {
		c, _ := newCodecs(t, level)
		for name, test := range map[string]struct {
			src  []byte
			want Codec
		}{
			"empty":         {nil, CodecPlain},
			"one byte":      {[]byte{1}, CodecPlain},
			"random":        {randomBytes(r, 1<<20), CodecPlain},
			"random, short": {randomBytes(r, 500), CodecPlain},
			"text":          {words(r, 1<<20), CodecZstd},
			"zeros":         {make([]byte, 1<<20), CodecZstd},
			// It saves 1 %, which is not worth a decoder.
			"random with few zeros": {append(randomBytes(r, 99<<10), make([]byte, 1<<10)...), CodecPlain},
			// Samples look random, but half of it repeats.
			"random twice": {bytes.Repeat(randomBytes(r, 300<<10), 2), CodecZstd},
		} {
			if _, got := c.Compress(nil, test.src); got != test.want {
				t.Errorf("level %d, %s: %s", level, name, got)
			}
		}
	}
}

func TestCodecsDoNotAllocate(t *testing.T) {
	if underRace {
		t.Skip("the race detector allocates")
	}
	for _, src := range [][]byte{words(seeded(1), 600<<10), randomBytes(seeded(1), 600<<10), words(seeded(1), 100)} {
		c, d := newCodecs(t, LevelFastest)
		stored, plain := make([]byte, 0, CompressBound(len(src))), make([]byte, 0, len(src))
		n := testing.AllocsPerRun(5, func() {
			s, codec := c.Compress(stored, src)
			if _, err := d.Decompress(plain, s, codec, len(src)); err != nil {
				t.Fatal(err)
			}
		})
		if n != 0 {
			t.Errorf("%d bytes: %v allocations", len(src), n)
		}
	}
}

// frame makes a frame with other options than the Compressor's.
func frame(t testing.TB, src []byte, o ...zstd.EOption) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil, append([]zstd.EOption{zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true)}, o...)...)
	if err != nil {
		t.Fatal(err)
	}
	return e.EncodeAll(src, nil)
}

func TestDecompressRejects(t *testing.T) {
	_, d := newCodecs(t, LevelFastest)
	src := words(seeded(1), 1000)
	whole := frame(t, src)
	if _, err := d.Decompress(nil, whole, CodecZstd, len(src)); err != nil {
		t.Fatal(err)
	}
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	// A frame of one raw block by hand, which needs a window of 16 MiB.
	wide := join([]byte("\x28\xb5\x2f\xfd\x40\x70"), []byte{(1000 - 256) & 0xff, (1000 - 256) >> 8}, []byte{0x41, 0x1f, 0}, src)
	narrow := bytes.Clone(wide)
	narrow[5] = 0x68 // 8 MiB
	if _, err := d.Decompress(nil, narrow, CodecZstd, len(src)); err != nil {
		t.Fatal(err)
	}
	skippable := []byte{0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 0}
	for name, test := range map[string]struct {
		stored []byte
		codec  Codec
		length int
	}{
		"codec 0":               {src, 0, len(src)},
		"codec 3":               {src, 3, len(src)},
		"plain, longer":         {src, CodecPlain, len(src) - 1},
		"plain, shorter":        {src, CodecPlain, len(src) + 1},
		"plaintext shorter":     {whole, CodecZstd, len(src) + 1},
		"plaintext longer":      {whole, CodecZstd, len(src) - 1},
		"negative length":       {whole, CodecZstd, -1},
		"length above limit":    {whole, CodecZstd, MaxChunk + 1},
		"not a frame":           {src, CodecZstd, len(src)},
		"trailing byte":         {join(whole, []byte{0}), CodecZstd, len(src)},
		"two frames":            {join(whole, whole), CodecZstd, len(src)},
		"two frames, sum right": {join(frame(t, src[:500]), frame(t, src[500:])), CodecZstd, len(src)},
		"empty frame behind":    {join(whole, frame(t, nil)), CodecZstd, len(src)},
		"skippable before":      {join(skippable, whole), CodecZstd, len(src)},
		"skippable behind":      {join(whole, skippable), CodecZstd, len(src)},
		"skippable only":        {skippable, CodecZstd, 0},
		"checksum":              {frame(t, src, zstd.WithEncoderCRC(true)), CodecZstd, len(src)},
		"no content size":       {frame(t, src[:100], zstd.WithSingleSegment(false)), CodecZstd, 100},
		"window of 16 MiB":      {wide, CodecZstd, len(src)},
		"dictionary":            {frame(t, src, zstd.WithEncoderDictRaw(7, src)), CodecZstd, len(src)},
	} {
		if out, err := d.Decompress(nil, test.stored, test.codec, test.length); !errors.Is(err, ErrMalformed) || out != nil {
			t.Errorf("%s: %d bytes, error %v", name, len(out), err)
		}
	}
	for n := range whole {
		if _, err := d.Decompress(nil, whole[:n], CodecZstd, len(src)); !errors.Is(err, ErrMalformed) {
			t.Fatalf("cut to %d: %v", n, err)
		}
	}
}

// TestDecompressBomb: a frame that says it holds little and holds much is stopped
// before the memory is taken.
func TestDecompressBomb(t *testing.T) {
	_, d := newCodecs(t, LevelFastest)
	bomb := frame(t, make([]byte, MaxChunk), zstd.WithSingleSegment(true))
	// Single segment, a content size of 4 bytes: set it to 1 MiB.
	copy(bomb[5:9], []byte{0, 0, 0x10, 0})
	dst := make([]byte, 0, 1<<20)
	if _, err := d.Decompress(dst, bomb, CodecZstd, 1<<20); !errors.Is(err, ErrMalformed) {
		t.Fatal(err)
	}
	// One of 3 GiB by its header.
	copy(bomb[5:9], []byte{0, 0, 0, 0xc0})
	if n := testing.AllocsPerRun(5, func() { _, _ = d.Decompress(dst, bomb, CodecZstd, 1<<20) }); n > 10 {
		t.Errorf("%v allocations", n)
	}
}

func TestNewCompressorUnknownLevel(t *testing.T) {
	if _, err := NewCompressor(CompressorOptions{Level: 9}); err == nil {
		t.Error("level 9 is accepted")
	}
}

func FuzzDecompress(f *testing.F) {
	r := seeded(1)
	c, d := newCodecs(f, LevelFastest)
	for _, n := range []int{0, 1, 100, 300, 5000, 200_000} {
		stored, codec := c.Compress(nil, words(r, n))
		f.Add(bytes.Clone(stored), uint8(codec), n)
	}
	f.Fuzz(func(t *testing.T, stored []byte, codec uint8, n int) {
		out, err := d.Decompress(nil, stored, Codec(codec), n)
		switch {
		case err != nil && (!errors.Is(err, ErrMalformed) || out != nil):
			t.Fatalf("%d bytes with error %v", len(out), err)
		case err == nil && len(out) != n:
			t.Fatalf("%d bytes, want %d", len(out), n)
		case cap(out) > MaxChunk+decodeSpare:
			t.Fatalf("capacity %d", cap(out))
		}
	})
}

func FuzzCompress(f *testing.F) {
	f.Add([]byte("text text text text text text text text"), 3)
	c, d := newCodecs(f, LevelFastest)
	f.Fuzz(func(t *testing.T, src []byte, times int) {
		src = bytes.Repeat(src, max(1, min(times, 100)))
		stored, codec := c.Compress(nil, src)
		plain, err := d.Decompress(nil, stored, codec, len(src))
		if err != nil || !bytes.Equal(plain, src) || len(stored) > len(src) {
			t.Fatal(fmt.Errorf("%s in %d: %w", codec, len(stored), err))
		}
	})
}
