package vault

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/backend/local"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// BenchmarkStore takes records from their content to a local vault: all that a new
// byte costs but for reading, cutting and naming it. It reports megabytes for a
// second of CPU time, which other work on the machine changes little.
func BenchmarkStore(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 1))
	random := make([]byte, 1<<20)
	for i := range random {
		random[i] = byte(rng.Uint32())
	}
	var text bytes.Buffer
	for text.Len() < 1<<20 {
		fmt.Fprintf(&text, "func (w *Writer) step%d(x int) error { return w.do(%d, x) }\n", rng.IntN(1000), rng.IntN(1e6))
	}
	for name, data := range map[string][]byte{"random": random, "text": text.Bytes()[:1<<20]} {
		b.Run(name, func(b *testing.B) {
			back, err := local.Create(b.TempDir(), local.Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer back.Close()
			ring := key.NewRing(key.VaultID{1}, key.Root{2})
			v := &Vault{Ring: ring, Backend: back}
			w := v.NewWriter(b.Context(), nil, WriterOptions{SpoolDir: b.TempDir()})
			defer w.Close()
			ws, err := NewWorkspace()
			if err != nil {
				b.Fatal(err)
			}
			ids := chunk.NewHasher(ring.ChunkID)
			chunks := []pack.Chunk{pack.NameChunk(ids, data)}
			start := cpuTime()
			for b.Loop() {
				if err := w.AddRecord(b.Context(), ws, key.TypeDataPack, data, chunks); err != nil {
					b.Fatal(err)
				}
			}
			if err := w.Flush(); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(len(data))*float64(b.N)/1e6/(cpuTime()-start).Seconds(), "MB/cpu-s")
		})
	}
}

func cpuTime() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
