package extsort

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"runtime"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/wire"
)

// blockBytes is how many bytes of records go into one sealed block of a run; a
// record of more has a block of its own.
const blockBytes = 64 << 10

// run is a sorted sequence of records in a file: blocks of length u32 and box.
type run struct {
	f      *os.File
	sealer *chunk.Sealer
	n      uint64 // blocks read
	off    int64
	box    []byte
	dec    wire.Decoder
	plain  []byte
	key    []byte // current record
	value  []byte
}

type runWriter struct {
	f      *os.File
	sealer *chunk.Sealer
	n      uint64
	off    int64
	buf    []byte
	box    []byte
}

func newRunWriter(dir string, sealer *chunk.Sealer) (*runWriter, error) {
	f, err := os.CreateTemp(dir, "sort-*")
	if err != nil {
		return nil, fmt.Errorf("spill records: %w", err)
	}
	if runtime.GOOS != "windows" {
		os.Remove(f.Name()) // it lives as long as it is open
	}
	return &runWriter{f: f, sealer: sealer}, nil
}

// blockAAD binds a block to its run, by the file's name, and to its place.
func blockAAD(f *os.File, n uint64) []byte {
	return binary.LittleEndian.AppendUint64([]byte(f.Name()), n)
}

func (w *runWriter) add(key, value []byte) error {
	w.buf = wire.AppendBlob(w.buf, key)
	w.buf = wire.AppendBlob(w.buf, value)
	if len(w.buf) < blockBytes {
		return nil
	}
	return w.flush()
}

func (w *runWriter) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	w.box = w.sealer.Seal(append(w.box[:0], 0, 0, 0, 0), w.buf, blockAAD(w.f, w.n))
	binary.LittleEndian.PutUint32(w.box, uint32(len(w.box)-4))
	if _, err := w.f.WriteAt(w.box, w.off); err != nil {
		return fmt.Errorf("spill records: %w", err)
	}
	w.off += int64(len(w.box))
	w.n++
	w.buf = w.buf[:0]
	return nil
}

func (w *runWriter) finish() (*run, error) {
	if err := w.flush(); err != nil {
		w.f.Close()
		return nil, err
	}
	return &run{f: w.f, sealer: w.sealer}, nil
}

// next reads the next record into key and value, or returns io.EOF.
func (r *run) next() error {
	for r.dec.Len() == 0 {
		if err := r.block(); err != nil {
			return err
		}
	}
	r.key = r.dec.Blob(len(r.plain))
	r.value = r.dec.Blob(len(r.plain))
	if err := r.dec.Err(); err != nil {
		return fmt.Errorf("read spilled records: %w", err)
	}
	return nil
}

func (r *run) block() error {
	var head [4]byte
	if n, err := r.f.ReadAt(head[:], r.off); err == io.EOF && n == 0 {
		return io.EOF
	} else if err != nil {
		return fmt.Errorf("read spilled records: %w", err)
	}
	n := int(binary.LittleEndian.Uint32(head[:]))
	if cap(r.box) < n {
		r.box = make([]byte, n)
	}
	r.box = r.box[:n]
	if _, err := r.f.ReadAt(r.box, r.off+4); err != nil {
		return fmt.Errorf("read spilled records: %w", err)
	}
	plain, err := r.sealer.Open(r.plain[:0], r.box, blockAAD(r.f, r.n))
	if err != nil {
		return fmt.Errorf("read spilled records: %w", err)
	}
	r.plain = plain
	r.off += int64(4 + n)
	r.n++
	r.dec.Reset(plain)
	return nil
}
