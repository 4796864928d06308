package agent

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/wire"
	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/manifest"
	"github.com/tharsis-backup/tharsis/vault/pack"
	"github.com/tharsis-backup/tharsis/vault/pack/packtest"
)

// TestFaultHostilePages restores points whose list of files says that it holds far
// more than it does.
func TestFaultHostilePages(t *testing.T) {
	ctx := t.Context()
	h, outside := newHostile(t)
	good := hostilePage([]hostileRow{hostileDir(""), h.file("a")})
	head := func(kind, level byte, rows uint64, rest ...[]byte) []byte {
		return append(wire.AppendUvarint([]byte{kind, level}, rows), bytes.Join(rest, nil)...)
	}
	id := bytes.Repeat([]byte{9}, 32)
	for name, page := range map[string][]byte{
		"2^63 rows":                  head(1, 0, 1<<63, good[3:]),
		"more rows than there are":   head(1, 0, 3, good[3:]),
		"a key that shares 2^63":     head(1, 0, 1, hostileNumber(1<<63), hostileNumber(0)),
		"a key of 2^63 bytes":        head(1, 0, 1, hostileNumber(0), hostileNumber(1<<63)),
		"an inner page of 2^63 rows": head(2, 1, 1<<63, id),
		"an inner page of nothing":   head(2, 1, 0),
		"a level of 255":             head(2, 255, 2, id, id),
		"a kind that there isn't":    head(9, 0, 1, good[3:]),
		"a MiB of zeros":             make([]byte, 1<<20),
		"nothing":                    {},
	} {
		point, err := h.plant(ctx, "/s", page)
		if err != nil {
			t.Logf("%s: cannot be written: %v", name, err)
			continue
		}
		before := canary(t, outside)
		res, allocated, err := h.restore(ctx, point, filepath.Join(h.dir, "target-"+name), "copy")
		if err == nil && res.Failed == 0 {
			t.Errorf("%s: it passes for whole: %+v", name, res)
		}
		if allocated > hostileBytes || canary(t, outside) != before {
			t.Errorf("%s: %d bytes were allocated, or something outside of the target was changed", name, allocated)
		}
	}
}

// TestFaultHostileSources restores points of two sources, of which one makes links in
// the way of the other.
func TestFaultHostileSources(t *testing.T) {
	ctx := t.Context()
	h, outside := newHostile(t)
	file := hostilePage([]hostileRow{hostileDir(""), h.file("file"), hostileDir("sub"), h.file("sub\x00file")})
	link := hostilePage([]hostileRow{hostileDir(""), hostileLink("a", outside), hostileLink("b", ".."), hostileLink("file", filepath.Join(outside, "file"))})
	for _, paths := range [][2]string{
		{"/s", "/s/a"}, {"/s", "/s/a/sub"}, {"/s", "/s/b/outside"}, {"/s", "/s/file"}, {"/s", "/s"}, {"/s/a", "/s"}, {"/s/a/sub", "/s"}, {"/s/./a", "/s/../s"},
	} {
		for i, order := range [][2][]byte{{link, file}, {file, link}} {
			point, err := h.plantAll(ctx, nil, hostileSource{path: paths[0], pages: [][]byte{order[0]}}, hostileSource{path: paths[1], pages: [][]byte{order[1]}})
			if err != nil {
				t.Logf("%q: cannot be written: %v", paths, err)
				continue
			}
			for _, conflict := range []string{"copy", "overwrite", "skip", "newer"} {
				target := filepath.Join(h.dir, fmt.Sprintf("target-%d", h.n))
				h.n++
				before := canary(t, outside)
				for range 2 { // what the first one made is in the way of the second
					h.restore(ctx, point, target, conflict)
				}
				if after := canary(t, outside); after != before {
					t.Fatalf("%q, %d, %s: something outside of the target was changed: it was\n%sand is\n%s", paths, i, conflict, before, after)
				}
			}
		}
	}
}

// zstdRLE is a frame that says that it holds so many bytes, and has blocks of 128 KiB
// of one byte each, in four bytes.
func zstdRLE(says uint32, blocks int) []byte {
	b := []byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0} // magic; single segment, a content size of 4 bytes
	b = binary.LittleEndian.AppendUint32(b, says)
	for i := range blocks {
		header := uint32(1<<17)<<3 | 1<<1
		if i == blocks-1 {
			header |= 1
		}
		b = append(b, byte(header), byte(header>>8), byte(header>>16), 0)
	}
	return b
}

// bomb stores a pack with one record, whose stored bytes are these, and makes an index
// run say that it has a chunk.
func (h *hostileVault) bomb(s *Session, wr *vault.Writer, stored []byte, plain uint32, id chunk.ID) error {
	object, dir, err := packtest.Lying(s.vault.Ring, key.TypeDataPack, chunk.CodecZstd, stored, plain, id)
	if err != nil {
		return err
	}
	if err := backend.PutBytes(h.t.Context(), s.backend, pack.Name(dir.ID), object); err != nil {
		return err
	}
	return wr.Adopt(h.t.Context(), dir)
}

// TestFaultHostileBombs restores files whose chunks are little in the vault and a lot
// when they are decoded.
func TestFaultHostileBombs(t *testing.T) {
	ctx := t.Context()
	h, _ := newHostile(t)
	zeros := make([]byte, chunk.MaxChunk)
	lie := chunk.ID{7}
	for _, c := range []struct {
		name   string
		stored []byte
		plain  uint32
		times  int
		whole  bool
	}{
		{"8 MiB of zeros, many times", zstdRLE(chunk.MaxChunk, chunk.MaxChunk>>17), chunk.MaxChunk, manifest.MaxInlineExtents, true},
		{"40 bytes that are 512 MiB", zstdRLE(40, 4096), 40, 1, false},
		{"8 MiB that are 512 MiB", zstdRLE(chunk.MaxChunk, 4096), chunk.MaxChunk, 1, false},
		{"8 MiB that are 4 GiB by their frame", zstdRLE(1<<32-1, chunk.MaxChunk>>17), chunk.MaxChunk, 1, false},
		{"8 MiB of zeros under another ID", zstdRLE(chunk.MaxChunk, chunk.MaxChunk>>17), chunk.MaxChunk, 1, false},
		{"8 MiB that are less", zstdRLE(chunk.MaxChunk, 1), chunk.MaxChunk, 1, false},
		{"8 MiB that are nothing", zstdRLE(chunk.MaxChunk, 0), chunk.MaxChunk, 1, false},
	} {
		id := lie
		point, err := h.plantAll(ctx, func(s *Session, wr *vault.Writer, _ *hostilePages) error {
			if c.whole {
				id = chunk.NewHasher(s.vault.Ring.ChunkID).Sum(zeros)
			}
			return h.bomb(s, wr, c.stored, c.plain, id)
		}, hostileSource{path: "/s", make: func(w manifest.PageWriter) (chunk.ID, error) {
			row := hostileRow{key: "bomb", entry: manifest.Entry{Kind: manifest.KindFile, Size: uint64(c.plain) * uint64(c.times)}}
			for range c.times {
				row.entry.Extents = append(row.entry.Extents, manifest.Extent{Length: uint64(c.plain), ID: id})
			}
			return w.PutPage(ctx, hostilePage([]hostileRow{hostileDir(""), row}))
		}})
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		target := filepath.Join(h.dir, fmt.Sprintf("target-%d", h.n))
		h.n++
		res, allocated, err := h.restore(ctx, point, target, "copy")
		if err != nil || (res.Failed == 0) != c.whole {
			t.Errorf("%s: %+v, %v", c.name, res, err)
		}
		if allocated > hostileBytes {
			t.Errorf("%s: %d bytes were allocated", c.name, allocated)
		}
		if fi, err := os.Stat(filepath.Join(target, "s", "bomb")); c.whole != (err == nil) || c.whole && fi.Size() != int64(c.plain)*int64(c.times) {
			t.Errorf("%s: %v, %v", c.name, fi, err)
		}
		os.RemoveAll(target)
	}
}

// TestFaultHostileTable restores a file of 2^54 bytes, of which a few pages in the
// vault tell: it ends when the disk is full, and takes no memory.
func TestFaultHostileTable(t *testing.T) {
	ctx := t.Context()
	h, _ := newHostile(t)
	target := filepath.Join(h.dir, "target")
	smallDisk(t, target, 2<<20)
	const rows = 1024
	point, err := h.plantAll(ctx, nil, hostileSource{path: "/s", make: func(w manifest.PageWriter) (chunk.ID, error) {
		page := wire.AppendUvarint([]byte{3, 0}, rows)
		for range rows {
			page = append(wire.AppendUvarint(page, uint64(len(hostileText))<<1), h.chunk[:]...)
		}
		size := uint64(len(hostileText)) * rows
		id, err := w.PutPage(ctx, page)
		for level := byte(1); err == nil && level < 5; level++ {
			page = wire.AppendUvarint([]byte{4, level}, rows)
			for range rows {
				page = wire.AppendUvarint(append(page, id[:]...), size)
			}
			size *= rows
			id, err = w.PutPage(ctx, page)
		}
		if err != nil {
			return id, err
		}
		row := hostileRow{key: "huge", entry: manifest.Entry{Kind: manifest.KindFile, Size: size, Table: id}}
		return w.PutPage(ctx, hostilePage([]hostileRow{hostileDir(""), row}))
	}})
	if err != nil {
		t.Fatal(err)
	}
	var res RestoreResult
	var allocated int64
	err = faultWatch(t, "the restore", func() (err error) {
		res, allocated, err = h.restore(ctx, point, target, "copy")
		return err
	})
	if !errors.Is(err, syscall.ENOSPC) || allocated > hostileBytes {
		t.Errorf("%+v, %v, %d bytes were allocated", res, err, allocated)
	}
}

// TestFaultHostileCrowd restores a folder of 100,000 entries, or of fewer in a plain
// run: the memory that it takes does not grow with them.
func TestFaultHostileCrowd(t *testing.T) {
	ctx := t.Context()
	h, outside := newHostile(t)
	crowd := 12_000
	if os.Getenv(faultAllEnv) != "" {
		crowd = 100_000
	}
	per := map[int]int64{}
	for _, n := range []int{crowd / 4, crowd} {
		point, err := h.plantAll(ctx, nil, hostileSource{path: "/s", make: func(w manifest.PageWriter) (chunk.ID, error) {
			b := manifest.NewBuilder(w)
			root, file, link := hostileDir(""), h.file(""), hostileLink("", outside)
			if err := b.Add(ctx, nil, &root.entry); err != nil {
				return chunk.ID{}, err
			}
			for i := range n {
				e := &file.entry
				if i%5 == 0 {
					e = &link.entry
				}
				if err := b.Add(ctx, fmt.Appendf(nil, "%06d", i), e); err != nil {
					return chunk.ID{}, err
				}
			}
			id, _, err := b.Finish(ctx)
			return id, err
		}})
		if err != nil {
			t.Fatal(err)
		}
		target := filepath.Join(h.dir, fmt.Sprint("target-", n))
		before := canary(t, outside)
		peak := watchHeap()
		res, _, err := h.restore(ctx, point, target, "copy")
		per[n] = peak()
		if err != nil || res.Failed > 0 || res.Restored != int64(n)+1 {
			t.Errorf("%d entries: %+v, %v", n, res, err)
		}
		if canary(t, outside) != before {
			t.Error("something outside of the target was changed")
		}
		list, err := os.ReadDir(filepath.Join(target, "s"))
		if err != nil || len(list) != n {
			t.Errorf("%d names of %d, %v", len(list), n, err)
		}
		data, err := os.ReadFile(filepath.Join(target, "s", fmt.Sprintf("%06d", n-1)))
		if err != nil || n%5 != 1 && string(data) != hostileText {
			t.Errorf("the last one holds %q, %v", data, err)
		}
		os.RemoveAll(target)
	}
	t.Logf("heap: %v", per)
	if grown := per[crowd] - per[crowd/4]; grown > 48<<20 {
		t.Errorf("the heap grew by %d bytes with the entries: %v", grown, per)
	}
}

// watchHeap watches the heap until the function that it returns is called, which
// gives the most that was in use.
func watchHeap() (peak func() int64) {
	percent := debug.SetGCPercent(20)
	var most atomic.Int64
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
				most.Store(max(most.Load(), heapInUse()))
			}
		}
	}()
	return func() int64 {
		close(stop)
		<-done
		debug.SetGCPercent(percent)
		return most.Load()
	}
}

// TestFaultHostileRacer restores again and again while somebody exchanges folders and
// files of the target with links to what lies outside, as fast as possible.
func TestFaultHostileRacer(t *testing.T) {
	ctx := t.Context()
	h, outside := newHostile(t)
	rows := []hostileRow{hostileDir(""), hostileDir("a"), hostileDir("a\x00b"), h.file("a\x00b\x00c"), h.file("a\x00b\x00d"), hostileLink("a\x00b\x00l", "d"), h.file("a\x00file"), h.file("f"), hostileDir("sub"), h.file("sub\x00file")}
	point, err := h.plant(ctx, "/s", hostilePage(rows))
	if err != nil {
		t.Fatal(err)
	}
	before := canary(t, outside)
	target := filepath.Join(h.dir, "target")
	want, until := int64(0), time.Now().Add(2*time.Second)
	if os.Getenv(faultAllEnv) != "" {
		want, until = 1_000_000, time.Now().Add(time.Hour)
	}
	var swaps atomic.Int64
	stop := make(chan struct{})
	var racer sync.WaitGroup
	racer.Go(func() {
		victims := []string{"s/a", "s/a/b", "s/sub", "s/f", "s/a/b/c", "s/sub/file", "s"}
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
				if swapOut(target, outside, victims[n%len(victims)], n) {
					swaps.Add(1)
				}
			}
		}
	})
	restored, refused, rounds := int64(0), int64(0), 0
	for time.Now().Before(until) && (want == 0 || swaps.Load() < want) {
		for _, conflict := range []string{"overwrite", "copy", "newer", "skip"} {
			res, _, err := h.restore(ctx, point, target, conflict)
			restored, refused = restored+res.Restored, refused+res.Failed
			if err != nil {
				refused++
			}
		}
		rounds++
		if rounds%50 == 0 { // what was swapped away, and copies
			os.RemoveAll(filepath.Join(target, "s"))
		}
	}
	close(stop)
	racer.Wait()
	t.Logf("%d swaps, %d entries restored, %d refused", swaps.Load(), restored, refused)
	if after := canary(t, outside); after != before {
		t.Errorf("something outside of the target was changed: it was\n%sand is\n%s", before, after)
	}
	if restored == 0 || swaps.Load() == 0 || swaps.Load() < want {
		t.Error("it was no race")
	}
}

// swapOut exchanges what is at a path of the target with a link to the same below
// outside, and back the next time. It goes down by descriptors, so that it does not
// fall for its own links.
func swapOut(target, outside, path string, n int) bool {
	fd, err := unix.Open(target, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	parts := strings.Split(path, "/")
	for _, name := range parts[:len(parts)-1] {
		if err != nil {
			return false
		}
		next, nerr := unix.Openat(fd, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		unix.Close(fd)
		fd, err = next, nerr
	}
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	name := parts[len(parts)-1]
	evil := name + ".evil"
	var st unix.Stat_t
	if n%16 < 8 { // the restore may have put something in the place of the link: both are real now
		if unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT != unix.S_IFLNK &&
			unix.Fstatat(fd, evil, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT != unix.S_IFLNK {
			unix.Renameat(fd, evil, fd, fmt.Sprint("old-", n))
		}
	}
	unix.Symlinkat(filepath.Join(outside, strings.TrimPrefix(strings.TrimPrefix(path, "s"), "/")), fd, evil)
	return unix.Renameat2(fd, name, fd, evil, unix.RENAME_EXCHANGE) == nil
}
