package extsort

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
)

// TestSort compares with a stable sort in memory, over budgets that spill never,
// sometimes, and so often that runs are merged.
func TestSort(t *testing.T) {
	for _, budget := range []int{0, 1, 200, 5000, 1 << 20} {
		for seed := range uint64(8) {
			t.Run(fmt.Sprintf("budget %d seed %d", budget, seed), func(t *testing.T) { trySort(t, budget, seed) })
		}
	}
}

func trySort(t *testing.T, budget int, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	type pair struct{ k, v []byte }
	var want []pair
	dir := t.TempDir()
	s := New(dir, budget)
	defer s.Close()
	for i := range rng.IntN(400) {
		k := make([]byte, rng.IntN(4))
		for j := range k {
			k[j] = byte(rng.IntN(3))
		}
		v := fmt.Appendf(nil, "%d-%s", i, bytes.Repeat([]byte{'x'}, rng.IntN(40)))
		want = append(want, pair{k, v})
		if err := s.Add(k, v); err != nil {
			t.Fatal(err)
		}
	}
	slices.SortStableFunc(want, func(a, b pair) int { return bytes.Compare(a.k, b.k) })
	it, err := s.Sort(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer it.Close()
	for i, w := range want {
		k, v, err := it.Next()
		if err != nil || !bytes.Equal(k, w.k) || !bytes.Equal(v, w.v) {
			t.Fatalf("record %d: got %q %q %v, want %q %q", i, k, v, err, w.k, w.v)
		}
	}
	if _, _, err := it.Next(); err != io.EOF {
		t.Fatalf("after the last record: %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Fatalf("left behind: %v", left)
	}
}

// TestSealed looks for plaintext in what is spilled.
func TestSealed(t *testing.T) {
	s := New(t.TempDir(), 1)
	defer s.Close()
	canary := []byte("a name that nobody may read")
	if err := s.Add(canary, canary); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1<<16)
	n, _ := s.runs[0].f.ReadAt(b, 0)
	if n == 0 || bytes.Contains(b[:n], canary) {
		t.Fatalf("%d bytes spilled, the canary among them: %v", n, n > 0)
	}
}
