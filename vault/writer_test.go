package vault

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/stage"
	"github.com/tharsis-backup/tharsis/vault/backend/mem"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// liar is a compressor that gives back what lie says.
type liar struct {
	honest *chunk.Compressor
	lie    func(stored []byte, c chunk.Codec) ([]byte, chunk.Codec)
}

func (l liar) Compress(dst, src []byte) ([]byte, chunk.Codec) {
	return l.lie(l.honest.Compress(dst, src))
}

// TestLyingCompressor: whatever a compressor gives, nothing is stored that does not
// decode to the content, and the writer is of no more use.
func TestLyingCompressor(t *testing.T) {
	ring := key.NewRing(key.VaultID{1}, key.Root{2})
	honest, err := chunk.NewCompressor(chunk.CompressorOptions{})
	if err != nil {
		t.Fatal(err)
	}
	text := bytes.Repeat([]byte("a line of some text\n"), 500)
	other, _ := honest.Compress(nil, bytes.Repeat([]byte("A line of some text\n"), 500))
	random := make([]byte, len(text))
	copy(random, text)
	random[77] ^= 4
	lies := map[string]func([]byte, chunk.Codec) ([]byte, chunk.Codec){
		"another frame":     func([]byte, chunk.Codec) ([]byte, chunk.Codec) { return other, chunk.CodecZstd },
		"a changed copy":    func([]byte, chunk.Codec) ([]byte, chunk.Codec) { return random, chunk.CodecPlain },
		"a frame as plain":  func(b []byte, _ chunk.Codec) ([]byte, chunk.Codec) { return b, chunk.CodecPlain },
		"plain as a frame":  func([]byte, chunk.Codec) ([]byte, chunk.Codec) { return text, chunk.CodecZstd },
		"no such codec":     func(b []byte, _ chunk.Codec) ([]byte, chunk.Codec) { return b, 9 },
		"cut":               func(b []byte, c chunk.Codec) ([]byte, chunk.Codec) { return b[:len(b)-1], c },
		"one byte too many": func(b []byte, c chunk.Codec) ([]byte, chunk.Codec) { return append(b, 0), c },
		"nothing":           func([]byte, chunk.Codec) ([]byte, chunk.Codec) { return nil, chunk.CodecZstd },
		"spoilt":            func(b []byte, c chunk.Codec) ([]byte, chunk.Codec) { b[len(b)/2] ^= 1; return b, c },
		"the truth":         func(b []byte, c chunk.Codec) ([]byte, chunk.Codec) { return b, c },
	}
	for name, lie := range lies {
		b := mem.New()
		w := (&Vault{Ring: ring, Backend: b}).NewWriter(t.Context(), unknown, WriterOptions{SpoolDir: t.TempDir()})
		ws, err := NewWorkspace()
		if err != nil {
			t.Fatal(err)
		}
		ws.compressor = liar{honest, lie}
		for _, typ := range []uint8{key.TypeDataPack, key.TypeManifestPack} {
			c := pack.NameChunk(ws.hasher(ring, typ), text)
			err := w.AddRecord(t.Context(), ws, typ, text, []pack.Chunk{c})
			if want := name != "the truth"; errors.Is(err, stage.ErrSpoilt) != want || (err != nil) != want {
				t.Errorf("%s: add: %v", name, err)
			}
		}
		err = w.Flush()
		w.Close()
		if want := name != "the truth"; errors.Is(err, stage.ErrSpoilt) != want || (len(b.Names()) == 0) != want {
			t.Errorf("%s: flush: %v; stored %q", name, err, b.Names())
		}
	}
}

func unknown(context.Context, chunk.ID) (bool, error) { return false, nil }
