package journal

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/wire"
	"github.com/tharsis-backup/tharsis/vault/key"
)

// Reader reads the records of a journal in the order of writing.
type Reader struct {
	f      *os.File
	r      *bufio.Reader
	sealer *chunk.Sealer
	n      uint64
	good   int64 // end of the last frame that opened
	box    []byte
	plain  []byte
	dec    wire.Decoder
}

// Open reads the journal at path. It returns an error wrapping fs.ErrNotExist
// where there is none, or one of another vault: both mean that nothing resumes.
func Open(path string, ring *key.Ring) (*Reader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	r := &Reader{f: f, r: bufio.NewReaderSize(f, frameBytes), sealer: firstSealer(ring)}
	id, err := r.frame()
	if err != nil || len(id) != 32 {
		f.Close()
		return nil, fmt.Errorf("open journal: %w: not of this vault", fs.ErrNotExist)
	}
	r.sealer = sealerOf(ring, id)
	return r, nil
}

// frame returns the next frame's records, or io.EOF at the first that is cut
// or does not open.
func (r *Reader) frame() ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r.r, head[:]); err != nil {
		return nil, endOf(err)
	}
	n := int(binary.LittleEndian.Uint32(head[:]))
	if n < chunk.BoxOverhead || n > maxFrameBytes {
		return nil, io.EOF
	}
	if cap(r.box) < n {
		r.box = make([]byte, n)
	}
	r.box = r.box[:n]
	if _, err := io.ReadFull(r.r, r.box); err != nil {
		return nil, endOf(err)
	}
	plain, err := r.sealer.Open(r.plain[:0], r.box, frameAAD(r.n))
	if err != nil {
		return nil, io.EOF
	}
	r.plain = plain
	r.n++
	r.good += int64(4 + n)
	return plain, nil
}

func endOf(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return io.EOF
	}
	return fmt.Errorf("read journal: %w", err)
}

// Next returns the next record, valid until the call after, or io.EOF.
func (r *Reader) Next() (Record, error) {
	for r.dec.Len() == 0 {
		b, err := r.frame()
		if err != nil {
			return Record{}, err
		}
		r.dec.Reset(b)
	}
	var rec Record
	rec.Type = Type(r.dec.U8())
	r.dec.Fixed(rec.Source[:])
	rec.Key = r.dec.Blob(maxFrameBytes)
	rec.Value = r.dec.Blob(maxFrameBytes)
	if err := r.dec.Err(); err != nil {
		// The seal held, so an older or newer agent wrote it: of no use here.
		return Record{}, io.EOF
	}
	return rec, nil
}

// Close closes the file.
func (r *Reader) Close() error { return r.f.Close() }
