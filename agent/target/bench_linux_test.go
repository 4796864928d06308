package target

import (
	"os"
	"strconv"
	"testing"

	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// BenchmarkSmallFiles restores 10,000 files of 2 KB in 100 folders, in memory.
func BenchmarkSmallFiles(b *testing.B) {
	base := "/dev/shm"
	if _, err := os.Stat(base); err != nil {
		base = scratch(b)
	}
	content := make([]byte, 2048)
	e := entry(manifest.KindFile, 0o644)
	e.Size = uint64(len(content))
	folder := entry(manifest.KindDir, 0o755)
	names := make([]string, 100)
	for i := range names {
		names[i] = "file-" + strconv.Itoa(i)
	}
	b.ReportAllocs()
	for b.Loop() {
		dir, err := os.MkdirTemp(base, "target")
		must(b, err)
		r := open(b, dir, Options{})
		for i := range 100 {
			d := enter(b, r.Top(), names[i], folder)
			for j := range 100 {
				if _, err := d.WriteFile(names[j], e, content, nil); err != nil {
					b.Fatal(err)
				}
			}
			d.Leave()
		}
		finish(b, r)
		b.StopTimer()
		must(b, os.RemoveAll(dir))
		b.StartTimer()
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/10000, "us/file")
}
