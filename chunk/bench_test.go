package chunk

import (
	"bytes"
	"crypto/sha256"
	"flag"
	"fmt"
	"os"
	"testing"
)

// The measurements of docs/decisions/0002-chunk-parameters.md. On a corpus of one's
// own, cut as one file:
//
//	tar cf /tmp/mix.tar /usr/local/go/src /usr/lib/x86_64-linux-gnu
//	go test ./chunk -run '^$' -bench . -corpus /tmp/mix.tar
var corpusFlag = flag.String("corpus", "", "measure on the content of this `file` instead of generated data")

func corpus(b *testing.B) []byte {
	b.Helper()
	if *corpusFlag == "" {
		return mixture(seeded(1), 16<<20)
	}
	data, err := os.ReadFile(*corpusFlag)
	if err != nil {
		b.Fatal(err)
	}
	return data
}

// edit changes 1 % of data in a number of places: at each it overwrites half of
// its share, and inserts a few bytes, so that all behind it moves.
func edit(data []byte, places int, seed uint64) []byte {
	r := seeded(seed)
	share := len(data) / 100 / places
	out := make([]byte, 0, len(data)+places*100)
	for i := range places {
		part := data[i*len(data)/places : (i+1)*len(data)/places]
		at := r.IntN(len(part) - share)
		out = append(out, part[:at]...)
		out = append(out, randomBytes(r, share+r.IntN(100))...)
		out = append(out, part[at+share:]...)
	}
	return out
}

func BenchmarkCut(b *testing.B) {
	data := corpus(b)
	for _, p := range []CutParams{
		{512 << 10, 8 << 20, 20}, // restic's
		{512 << 10, 4 << 20, 19},
		{384 << 10, 4 << 20, 18},
		{512 << 10, 4 << 20, 17},
		{512 << 10, 4 << 20, 18},
		{512 << 10, 2 << 20, 18},
		{768 << 10, 4 << 20, 18},
		{1 << 20, 4 << 20, 19},
		{1536 << 10, 4 << 20, 19},
	} {
		b.Run(fmt.Sprintf("min=%dK/bits=%d/max=%dM", p.Min>>10, p.Bits, p.Max>>20), func(b *testing.B) {
			benchmarkCut(b, p, data)
		})
	}
}

func benchmarkCut(b *testing.B, p CutParams, data []byte) {
	c := newCutter(b, p)
	buf := make([]byte, 0, p.Max)
	each := func(data []byte, f func([]byte)) (n int) {
		c.Reset(bytes.NewReader(data))
		for {
			chunk, err := c.Next(buf)
			if err != nil {
				return n
			}
			f(chunk)
			n++
		}
	}
	known := map[[32]byte]bool{}
	n, stored := 0, 0
	n = each(data, func(chunk []byte) {
		if id := sha256.Sum256(chunk); !known[id] {
			known[id] = true
			stored += len(chunk)
		}
	})
	fresh := func(places int) float64 {
		sum, total := 0, 0
		for seed := range uint64(5) {
			each(edit(data, places, seed), func(chunk []byte) {
				total += len(chunk)
				if !known[sha256.Sum256(chunk)] {
					sum += len(chunk)
				}
			})
		}
		return 100 * float64(sum) / float64(total)
	}
	if !testing.Short() { // the speed alone takes a tenth of the time
		defer b.ReportMetric(fresh(20), "new20-%")
		defer b.ReportMetric(fresh(200), "new200-%")
	}
	perSecond(b, len(data), func() { each(data, func([]byte) {}) })
	b.ReportMetric(float64(n), "chunks")
	b.ReportMetric(float64(len(data)>>10/n), "KiB/chunk")
	b.ReportMetric(100*float64(stored)/float64(len(data)), "unique-%")
}

// perSecond runs f, which processes n bytes, and reports megabytes for a second of
// CPU time.
func perSecond(b *testing.B, n int, f func()) {
	start := cpuTime()
	for b.Loop() {
		f()
	}
	b.ReportMetric(float64(n)*float64(b.N)/1e6/(cpuTime()-start).Seconds(), "MB/cpu-s")
	b.ReportMetric(0, "ns/op")
}

func BenchmarkCompress(b *testing.B) {
	data := corpus(b)
	for _, size := range []int{256 << 10, 512 << 10, 1 << 20, 1536 << 10} {
		for _, level := range []Level{LevelFastest, LevelDefault, LevelBetter} {
			b.Run(fmt.Sprintf("record=%dK/level=%d", size>>10, level), func(b *testing.B) {
				benchmarkCompress(b, size, level, data)
			})
		}
	}
}

func benchmarkCompress(b *testing.B, size int, level Level, data []byte) {
	c, _ := newCodecs(b, level)
	dst := make([]byte, 0, CompressBound(size))
	var in, out, plain, records int
	perSecond(b, len(data)/size*size, func() {
		in, out, plain, records = 0, 0, 0, 0
		for i := 0; i+size <= len(data); i += size {
			stored, codec := c.Compress(dst, data[i:i+size])
			in += size
			out += len(stored)
			records++
			if codec == CodecPlain {
				plain++
			}
		}
	})
	b.ReportMetric(float64(out)/float64(in), "ratio")
	b.ReportMetric(100*float64(plain)/float64(records), "plain-%")
}

func BenchmarkDecompress(b *testing.B) {
	data := corpus(b)
	const size = 1 << 20
	c, d := newCodecs(b, LevelFastest)
	type record struct {
		stored []byte
		codec  Codec
	}
	var records []record
	for i := 0; i+size <= len(data); i += size {
		stored, codec := c.Compress(nil, data[i:i+size])
		records = append(records, record{bytes.Clone(stored), codec})
	}
	dst := make([]byte, 0, size+decodeSpare)
	perSecond(b, len(records)*size, func() {
		for _, r := range records {
			if _, err := d.Decompress(dst, r.stored, r.codec, size); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkLooksIncompressible(b *testing.B) {
	data := randomBytes(seeded(1), 1<<20)
	perSecond(b, len(data), func() { looksIncompressible(data) })
}

func BenchmarkHashAndSeal(b *testing.B) {
	data := randomBytes(seeded(1), 1<<20)
	b.Run("hash", func(b *testing.B) {
		h := NewHasher(Key{1})
		perSecond(b, len(data), func() { h.Sum(data) })
	})
	b.Run("seal", func(b *testing.B) {
		s := NewSealer(Key{1}, 3, nil)
		dst := make([]byte, 0, len(data)+BoxOverhead)
		perSecond(b, len(data), func() { s.Seal(dst, data, nil) })
	})
	b.Run("hash-1KiB", func(b *testing.B) {
		h := NewHasher(Key{1})
		perSecond(b, 1<<10, func() { h.Sum(data[:1<<10]) })
	})
	b.Run("reset-cutter", func(b *testing.B) {
		c := newCutter(b, DefaultCutParams)
		for b.Loop() {
			c.Reset(eof{})
		}
	})
	b.Run("derive-polynomial", func(b *testing.B) {
		for b.Loop() {
			if _, err := DerivePolynomial(Key{1}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
