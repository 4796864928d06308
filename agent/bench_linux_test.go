package agent

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tharsis-backup/tharsis/agent/home"
	"github.com/tharsis-backup/tharsis/vault/key"
)

// benchTree is the folder that benchmarks back up: THARSIS_BENCH_TREE, or
// generated small files.
func benchTree(b *testing.B) string {
	if dir := os.Getenv("THARSIS_BENCH_TREE"); dir != "" {
		return dir
	}
	dir := b.TempDir()
	rng := rand.New(rand.NewPCG(1, 2))
	buf := make([]byte, 4096)
	for i := range 5000 {
		p := filepath.Join(dir, fmt.Sprintf("d%03d", i/50), fmt.Sprintf("file-%d.txt", i))
		os.MkdirAll(filepath.Dir(p), 0o755)
		for k := range buf {
			buf[k] = "etaoin shrdlu\n"[rng.IntN(14)]
		}
		if err := os.WriteFile(p, buf[:rng.IntN(len(buf))], 0o644); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}

// benchSession makes a home and a vault; the clock runs ahead, so that no file is racy.
func benchSession(b *testing.B) *Session {
	dir := b.TempDir()
	h, err := home.Open(filepath.Join(dir, "home"))
	if err != nil {
		b.Fatal(err)
	}
	if err := h.Lock(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { h.Unlock() })
	env := Environment{Clock: func() time.Time { return time.Now().Add(time.Minute) }}
	recovery, _ := key.NewRecoveryKey(nil)
	_, err = Init(b.Context(), env, h, InitOptions{
		Vault: filepath.Join(dir, "vault"), Passphrase: "a passphrase for benchmarks 7", Recovery: recovery,
		KDF: key.KDFParams{Time: 1, MemoryKiB: 64, Lanes: 1},
	})
	if err != nil {
		b.Fatal(err)
	}
	s, err := Open(b.Context(), env, h, "")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	return s
}

func BenchmarkFirstBackup(b *testing.B) {
	tree := benchTree(b)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		s := benchSession(b)
		b.StartTimer()
		res, err := s.Backup(b.Context(), BackupOptions{Paths: []string{tree}})
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(res.FilesNew), "files")
	}
}

func BenchmarkNothingNew(b *testing.B) {
	tree := benchTree(b)
	s := benchSession(b)
	if _, err := s.Backup(b.Context(), BackupOptions{Paths: []string{tree}}); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Backup(b.Context(), BackupOptions{Paths: []string{tree}}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRestore(b *testing.B) {
	tree := benchTree(b)
	s := benchSession(b)
	if _, err := s.Backup(b.Context(), BackupOptions{Paths: []string{tree}}); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		dir := b.TempDir()
		b.StartTimer()
		if _, err := s.Restore(b.Context(), RestoreOptions{Point: "latest", Target: dir}); err != nil {
			b.Fatal(err)
		}
	}
}
