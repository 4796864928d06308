package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tharsis-backup/tharsis/vault/key"
)

// framed writes a journal with so many frames of one record each, behind the first, and
// returns its frames.
func framed(t *testing.T, ring *key.Ring, frames int) [][]byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "journal")
	w, err := Create(path, ring)
	if err != nil {
		t.Fatal(err)
	}
	for i := range frames {
		if err := errors.Join(w.Append(Record{Type: Entry, Key: fmt.Append(nil, i)}), w.Flush()); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all [][]byte
	for len(b) > 0 {
		n := 4 + int(binary.LittleEndian.Uint32(b))
		all, b = append(all, b[:n]), b[n:]
	}
	return all
}

// keys are what a reader finds of a journal of these frames.
func keys(t *testing.T, ring *key.Ring, frames [][]byte) (found []string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "journal")
	if err := os.WriteFile(path, slices.Concat(frames...), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := Open(path, ring)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for {
		rec, err := r.Next()
		if err == io.EOF {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, string(rec.Key))
	}
}

// TestPlaceOfFrames puts each frame in the place of each other, of this journal, of
// another one of the vault, and of another vault: reading ends before it.
func TestPlaceOfFrames(t *testing.T) {
	const n = 5
	ring := key.NewRing(key.VaultID{1}, key.Root{2})
	frames := framed(t, ring, n)
	if len(frames) != n+1 || len(keys(t, ring, frames)) != n {
		t.Fatalf("%d frames, %q", len(frames), keys(t, ring, frames))
	}
	others := map[string][][]byte{
		"this journal":    frames,
		"another journal": framed(t, ring, n),
		"another vault":   framed(t, key.NewRing(key.VaultID{9}, key.Root{2}), n),
	}
	for name, from := range others {
		for at := range n + 1 {
			for i := range from {
				if name == "this journal" && i == at || name == "another journal" && i == 0 && at == 0 {
					continue // the latter begins another journal, of which nothing follows
				}
				mixed := slices.Clone(frames)
				mixed[at] = from[i]
				if got, want := len(keys(t, ring, mixed)), max(at-1, 0); got != want {
					t.Errorf("frame %d of %s in the place of %d: %d records, want %d", i, name, at, got, want)
				}
			}
		}
	}
	if got := keys(t, key.NewRing(key.VaultID{1}, key.Root{3}), frames); len(got) != 0 {
		t.Errorf("another root key reads %q", got)
	}
	mixed := slices.Clone(frames)
	mixed[0] = others["another journal"][0]
	if got := keys(t, ring, mixed); len(got) != 0 {
		t.Errorf("behind another beginning: %q", got)
	}
}

// TestFlipsInFrames flips one bit of each byte: reading ends before the frame.
func TestFlipsInFrames(t *testing.T) {
	ring := key.NewRing(key.VaultID{1}, key.Root{2})
	frames := framed(t, ring, 3)
	for at, frame := range frames {
		for i := range frame {
			mixed := slices.Clone(frames)
			mixed[at] = slices.Clone(frame)
			mixed[at][i] ^= 1 << (i % 8)
			if got, want := len(keys(t, ring, mixed)), max(at-1, 0); got > want {
				t.Errorf("byte %d of frame %d: %d records", i, at, got)
			}
		}
	}
}
