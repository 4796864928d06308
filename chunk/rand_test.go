package chunk

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"
)

// newRand is a source of test data whose seed is printed when the test fails.
func newRand(t testing.TB) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	})
	return seeded(seed)
}

func seeded(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n+7)
	for i := 0; i < n; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], r.Uint64())
	}
	return b[:n:n]
}

// words is text of a small vocabulary: it compresses as source text does.
func words(r *rand.Rand, n int) []byte {
	var vocabulary [200][]byte
	for i := range vocabulary {
		w := randomBytes(r, 3+r.IntN(9))
		for j := range w {
			w[j] = 'a' + w[j]%26
		}
		vocabulary[i] = append(w, ' ')
	}
	b := make([]byte, 0, n+16)
	for len(b) < n {
		b = append(b, vocabulary[r.IntN(len(vocabulary))]...)
	}
	return b[:n]
}
