package source

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// benchTree returns the folder that THARSIS_BENCH_TREE names, else makes one of
// 100 folders with 200 files each.
func benchTree(b *testing.B) string {
	b.Helper()
	if root := os.Getenv("THARSIS_BENCH_TREE"); root != "" {
		return root
	}
	root := b.TempDir()
	for d := range 100 {
		dir := fmt.Sprintf("%s/%03d", root, d)
		if err := os.Mkdir(dir, 0o700); err != nil {
			b.Fatal(err)
		}
		for f := range 200 {
			if err := unix.Mknod(fmt.Sprintf("%s/file%05d.txt", dir, f), unix.S_IFREG|0o600, 0); err != nil {
				b.Fatal(err)
			}
		}
	}
	return root
}

func BenchmarkWalk(b *testing.B) {
	root := benchTree(b)
	for name, o := range map[string]Options{
		"plain":    {},
		"patterns": {Excludes: []string{"*.o", "*~", "node_modules/", "/cache/**", "build/*/tmp"}},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			items := 0
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for b.Loop() {
				items = 0
				tree, err := Open(root, o)
				if err != nil {
					b.Fatal(err)
				}
				for {
					if _, err = tree.Next(context.Background()); err != nil {
						break
					}
					items++
				}
				if err != io.EOF {
					b.Fatal(err)
				}
				tree.Close()
			}
			runtime.ReadMemStats(&after)
			total := float64(b.N * items)
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/total, "ns/entry")
			b.ReportMetric(float64(after.Mallocs-before.Mallocs)/total, "allocs/entry")
		})
	}
}

// BenchmarkOpenRead is what reading a small file costs besides its content.
func BenchmarkOpenRead(b *testing.B) {
	root := b.TempDir()
	os.WriteFile(root+"/f", make([]byte, 2000), 0o600)
	tree, err := Open(root, Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer tree.Close()
	var dir *Dir
	for {
		it, err := tree.Next(context.Background())
		if err != nil {
			break
		}
		dir = it.Dir
	}
	buf := make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		f, err := dir.Open("f")
		if err != nil {
			b.Fatal(err)
		}
		if _, err := f.ReadAt(buf, 0); err != io.EOF {
			b.Fatal(err)
		}
		f.Close()
	}
}
