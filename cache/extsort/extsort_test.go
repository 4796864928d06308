package extsort

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"testing"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/disk"
)

var ctx = context.Background()

type pair struct{ key, value string }

func randomPairs(rng *rand.Rand, n int) []pair {
	pairs := make([]pair, n)
	for i := range pairs {
		k := make([]byte, rng.IntN(12))
		for j := range k {
			k[j] = "\x00\x01ab\xff"[rng.IntN(5)]
		}
		size := rng.IntN(40)
		if rng.IntN(500) == 0 {
			size = rng.IntN(3 * blockBytes)
		}
		v := binary.BigEndian.AppendUint32(make([]byte, size), uint32(i))
		if rng.IntN(10) == 0 {
			v = nil
		}
		pairs[i] = pair{string(k), string(v)}
	}
	return pairs
}

func drain(t *testing.T, s *Sorter) (got []pair) {
	t.Helper()
	it, err := s.Sort(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for {
		k, v, err := it.Next()
		if err == io.EOF {
			if _, _, err := it.Next(); err != io.EOF {
				t.Fatal("no second end", err)
			}
			return got
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, pair{string(k), string(v)})
	}
}

// TestSort compares with a stable sort in memory, from no record to many merges.
func TestSort(t *testing.T) {
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 1))
		dir := t.TempDir()
		s := New(dir, minBudget)
		if seed%3 == 0 {
			s.budget = 4000 + rng.IntN(20000) // tiny runs
		}
		n := rng.IntN(3000)
		pairs := randomPairs(rng, n)
		for _, p := range pairs {
			if err := s.Add([]byte(p.key), []byte(p.value)); err != nil {
				t.Fatal(err)
			}
		}
		if s.budget < minBudget {
			s.budget = minBudget // merge two at a time, often
		}
		got := drain(t, s)
		slices.SortStableFunc(pairs, func(a, b pair) int { return bytes.Compare([]byte(a.key), []byte(b.key)) })
		if !slices.Equal(got, pairs) {
			t.Fatalf("seed %d: %d records, want %d, or out of order", seed, len(got), n)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Fatalf("seed %d: %d files are left", seed, len(left))
		}
	}
}

// TestManyRuns goes through several depths of merging and keeps few files open.
func TestManyRuns(t *testing.T) {
	s := New(t.TempDir(), minBudget)
	defer s.Close()
	most := 0
	const n = 60
	big := make([]byte, minBudget)
	for i := range n {
		key := fmt.Appendf(nil, "%03d", i*37%n)
		if err := s.Add(key, append(big, byte(i))); err != nil {
			t.Fatal(err)
		}
		most = max(most, len(s.runs))
	}
	if most > 10 {
		t.Fatalf("%d runs at once", most)
	}
	got := drain(t, s)
	if len(got) != n || !slices.IsSortedFunc(got, func(a, b pair) int { return bytes.Compare([]byte(a.key), []byte(b.key)) }) {
		t.Fatal(len(got))
	}
}

// TestRunFiles: nothing readable is on the disk, the files are private, and gone
// from the folder where the system allows it.
func TestRunFiles(t *testing.T) {
	dir := t.TempDir()
	s := New(dir, minBudget)
	defer s.Close()
	secret := []byte("a name that nobody should read")
	for i := range 20000 {
		if err := s.Add(fmt.Appendf(nil, "%s %d", secret, i), nil); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.runs) == 0 {
		t.Fatal("nothing was spilled")
	}
	left, err := os.ReadDir(dir)
	if err != nil || runtime.GOOS == "linux" && len(left) != 0 {
		t.Fatal(left, err)
	}
	for _, r := range s.runs {
		if b, err := io.ReadAll(r.file); err != nil || bytes.Contains(b, secret[:8]) || len(b) == 0 {
			t.Fatal("readable", err)
		}
	}
}

func TestDamagedRun(t *testing.T) {
	for name, spoil := range map[string]func(*disk.File) error{
		"bit":    func(f *disk.File) error { _, err := f.WriteAt([]byte{1, 2, 3}, 5000); return err },
		"length": func(f *disk.File) error { _, err := f.WriteAt([]byte{255, 255, 255, 255}, 0); return err },
		"cut":    func(f *disk.File) error { return f.Truncate(70000) },
		"swap": func(f *disk.File) error {
			var head [4]byte
			if _, err := f.ReadAt(head[:], 0); err != nil {
				return err
			}
			n := 4 + int64(binary.LittleEndian.Uint32(head[:]))
			block := make([]byte, n)
			if _, err := f.ReadAt(block, n); err != nil {
				return err
			}
			_, err := f.WriteAt(block, 0)
			return err
		},
	} {
		s := New(t.TempDir(), minBudget)
		for i := range 30000 {
			if err := s.Add(fmt.Appendf(nil, "%010d", i), []byte("0123456789")); err != nil {
				t.Fatal(err)
			}
		}
		if err := spoil(s.runs[0].file); err != nil {
			t.Fatal(err)
		}
		it, err := s.Sort(ctx)
		for err == nil {
			_, _, err = it.Next()
		}
		if !errors.Is(err, errRun) {
			t.Errorf("%s: %v", name, err)
		}
		if name == "bit" && !errors.Is(err, chunk.ErrAuth) {
			t.Errorf("%s: %v", name, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestRejects(t *testing.T) {
	s := New(t.TempDir(), 0)
	if err := s.Add(make([]byte, MaxRecordBytes), []byte{1}); !errors.Is(err, errTooLarge) {
		t.Fatal(err)
	}
	if got := drain(t, s); len(got) != 0 {
		t.Fatal(got)
	}
	if err := s.Add(nil, nil); !errors.Is(err, errSorted) {
		t.Fatal(err)
	}
	if _, err := s.Sort(ctx); !errors.Is(err, errSorted) {
		t.Fatal(err)
	}
	s = New("/nonexistent/folder", minBudget)
	var err error
	for i := 0; i < 20 && err == nil; i++ {
		err = s.Add(nil, make([]byte, blockBytes))
	}
	if !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	stopped, cancel := context.WithCancel(ctx)
	cancel()
	s = New(t.TempDir(), minBudget)
	defer s.Close()
	for range 30 {
		if err := s.Add(nil, make([]byte, blockBytes)); err != nil {
			t.Fatal(err)
		}
	}
	_, err = s.Sort(stopped)
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

func BenchmarkSort(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	b.ReportAllocs()
	const n = 200000
	value := make([]byte, 110)
	for b.Loop() {
		s := New(b.TempDir(), 0)
		for range n {
			if err := s.Add(fmt.Appendf(nil, "folder%03d\x00file%08d", rng.IntN(100), rng.IntN(n)), value); err != nil {
				b.Fatal(err)
			}
		}
		it, err := s.Sort(ctx)
		for err == nil {
			_, _, err = it.Next()
		}
		if err != io.EOF {
			b.Fatal(err)
		}
		s.Close()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/record")
}
