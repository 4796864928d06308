// Package journal keeps the differencing manifest of a job under way: what it
// found changed, and which packs it stored, so that the next job resumes from
// it after a kill.
//
// # On disk
//
// One file of frames, each `length u32 | box`, appended only. The first frame
// holds a random ID, sealed under a key of the vault; the others are sealed
// under a key of that ID with the frame's number as additional data, so that a
// frame of another journal, vault or place does not open. A frame holds records.
// Reading stops at the first frame that is cut or does not open: what follows
// a torn write is as if it had not been written.
//
// A record of an entry proves nothing about its chunks: it counts only if each
// of them is found in the vault, or in a pack that the journal records as
// stored. The order of records therefore does not matter, and no record waits
// for a pack.
//
// A Writer is safe for concurrent use.
package journal

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/disk"
	"github.com/tharsis-backup/tharsis/internal/wire"
	"github.com/tharsis-backup/tharsis/vault/key"
)

// Type is the type of a record.
type Type uint8

// The types of records.
const (
	// Start begins a job's records: the value is its start time, i64 ns.
	Start Type = 1
	// Entry is a finished entry: key and encoded manifest entry.
	Entry Type = 2
	// Gone is an entry of the base that is no more.
	Gone Type = 3
	// Part is a piece of the block table of a file that is not finished.
	Part Type = 4
	// Pack is the directory of a pack that the vault confirmed.
	Pack Type = 5
	// Void takes back all records of a source before it: the source failed.
	Void Type = 6
)

// Record is one fact. Source numbers a job's sources by their ID's place in
// the file: it is the 16-byte source ID, zeros for Start and Pack.
type Record struct {
	Type   Type
	Source [16]byte
	Key    []byte
	Value  []byte
}

const (
	// frameBytes is when buffered records are sealed and written: large enough
	// for one system call to serve hundreds of files, small enough that a kill
	// costs little.
	frameBytes = 64 << 10
	// maxFrameBytes bounds what a reader allocates: the largest record is a
	// pack's directory (24 MiB, docs/FORMAT.md §6.2).
	maxFrameBytes = 32 << 20
)

// Writer appends to a journal.
type Writer struct {
	mu     sync.Mutex // guards all below
	f      *disk.File
	sealer *chunk.Sealer
	n      uint64 // number of the next frame
	size   int64
	count  int // records appended
	buf    []byte
	box    []byte
	err    error // sticks: a journal with a hole would lose what follows
}

func frameAAD(n uint64) []byte {
	return binary.LittleEndian.AppendUint64([]byte("tharsis/0/journal-frame"), n)
}

func firstSealer(ring *key.Ring) *chunk.Sealer {
	return chunk.SealerFrom(chunk.Expand(ring.Cache[:], "tharsis/0/journal", 64))
}

func sealerOf(ring *key.Ring, id []byte) *chunk.Sealer {
	return chunk.SealerFrom(chunk.Expand(ring.Cache[:], "tharsis/0/journal-id"+string(id), 64))
}

// Create begins a new journal at path, in place of any other.
func Create(path string, ring *key.Ring) (*Writer, error) {
	f, err := disk.Open(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create journal: %w", err)
	}
	id := make([]byte, 32)
	rand.Read(id)
	w := &Writer{f: f, sealer: firstSealer(ring)}
	w.buf = id
	if err := w.Flush(); err != nil {
		f.Close()
		return nil, err
	}
	w.sealer = sealerOf(ring, id)
	return w, nil
}

// Append adds records. It returns an error of this or an earlier write.
func (w *Writer) Append(records ...Record) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count += len(records)
	for _, r := range records {
		w.buf = append(w.buf, byte(r.Type))
		w.buf = append(w.buf, r.Source[:]...)
		w.buf = wire.AppendBlob(w.buf, r.Key)
		w.buf = wire.AppendBlob(w.buf, r.Value)
		if len(w.buf) >= frameBytes {
			w.flush()
		}
	}
	return w.err
}

// Count is how many records this Writer was given. Who reads the journal back
// compares, since a reader takes a spoilt frame for the end.
func (w *Writer) Count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.count
}

// Flush writes all records appended so far to the file.
func (w *Writer) Flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flush()
	return w.err
}

func (w *Writer) flush() {
	if w.err != nil || len(w.buf) == 0 {
		return
	}
	w.box = append(w.box[:0], 0, 0, 0, 0)
	w.box = w.sealer.Seal(w.box, w.buf, frameAAD(w.n))
	binary.LittleEndian.PutUint32(w.box, uint32(len(w.box)-4))
	if _, err := w.f.WriteAt(w.box, w.size); err != nil {
		w.err = fmt.Errorf("write journal: %w", err)
		return
	}
	w.size += int64(len(w.box))
	w.n++
	w.buf = w.buf[:0]
}

// Close writes what is buffered and closes the file, which stays.
func (w *Writer) Close() error {
	err := w.Flush()
	if cerr := w.f.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("close journal: %w", cerr)
	}
	return err
}

// Resume opens the journal at path for appending behind its last whole frame.
// It returns fs.ErrNotExist where there is none or it is not of this vault.
func Resume(path string, ring *key.Ring) (*Writer, error) {
	r, err := Open(path, ring)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	for {
		if _, err := r.frame(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
	}
	f, err := disk.Open(path, os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	if err := f.Truncate(r.good); err != nil {
		f.Close()
		return nil, fmt.Errorf("open journal: %w", err)
	}
	return &Writer{f: f, sealer: r.sealer, n: r.n, size: r.good}, nil
}
