package extsort

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/disk"
)

// A run file is a sequence of blocks: u32 length, and the sealed box of whole
// records, each a uvarint length of the key, one of the value, and both.
const (
	// blockBytes is the plaintext at which a block ends: one is in memory for each
	// run that is merged. A larger record has a block to itself.
	blockBytes = 64 << 10
	// maxBlock bounds what is read for one block.
	maxBlock = MaxRecordBytes + 2*binary.MaxVarintLen32
)

var errRun = errors.New("temporary file was changed")

// newSealer draws the key of one Sorter.
func newSealer() *chunk.Sealer {
	var material [64]byte
	rand.Read(material[:]) // never fails
	return chunk.SealerFrom(material[:])
}

// run is a sorted sequence of records in a file.
type run struct {
	file   *disk.File
	name   string // to be removed on close; "" where it is already
	id     uint64
	blocks uint64
	depth  int // how often its records were merged
}

func (s *Sorter) newRun(depth int) (*run, error) {
	f, err := disk.CreateTemp(s.dir, tempPrefix, tempSuffix)
	if err != nil {
		return nil, fmt.Errorf("create file for sorting: %w", err)
	}
	r := &run{file: f, id: s.nextID, depth: depth}
	s.nextID++
	if disk.Remove(f.Name()) != nil {
		r.name = f.Name() // an open file stays on this system
	}
	return r, nil
}

func (r *run) close() error {
	err := r.file.Close()
	if r.name != "" {
		err = errors.Join(err, disk.Remove(r.name))
	}
	return err
}

// aad binds a block to its place.
func (r *run) aad(block uint64) []byte {
	b := binary.LittleEndian.AppendUint64(make([]byte, 0, 16), r.id)
	return binary.LittleEndian.AppendUint64(b, block)
}

// writer appends records to a run.
type writer struct {
	s     *Sorter
	run   *run
	block []byte
}

func (w *writer) add(key, value []byte) error {
	if len(w.block) > 0 && len(w.block)+len(key)+len(value)+2*binary.MaxVarintLen32 > blockBytes {
		if err := w.flush(); err != nil {
			return err
		}
	}
	w.block = binary.AppendUvarint(w.block, uint64(len(key)))
	w.block = binary.AppendUvarint(w.block, uint64(len(value)))
	w.block = append(append(w.block, key...), value...)
	return nil
}

func (w *writer) flush() error {
	if len(w.block) == 0 {
		return nil
	}
	box := binary.LittleEndian.AppendUint32(w.s.box[:0], uint32(len(w.block)+chunk.BoxOverhead))
	box = w.s.seal.Seal(box, w.block, w.run.aad(w.run.blocks))
	w.s.box, w.block = box, w.block[:0]
	w.run.blocks++
	if _, err := w.run.file.Write(box); err != nil {
		return fmt.Errorf("write sorted records: %w", err)
	}
	return nil
}

// makeRoom spills the records in memory and merges runs once there are many.
func (s *Sorter) makeRoom(ctx context.Context) error {
	s.sortMemory()
	if err := s.spill(ctx); err != nil {
		return err
	}
	for {
		n := 1 // runs at the end that were merged equally often
		for n < len(s.runs) && s.runs[len(s.runs)-n-1].depth == s.runs[len(s.runs)-1].depth {
			n++
		}
		if n < s.fanIn() {
			return nil
		}
		if err := s.mergeLast(ctx, n); err != nil {
			return err
		}
	}
}

// spill writes the records in memory, sorted, to a run of their own.
func (s *Sorter) spill(ctx context.Context) error {
	return s.write(ctx, 0, func(w *writer) error {
		for _, r := range s.index {
			if err := w.add(s.keyOf(r), s.valueOf(r)); err != nil {
				return err
			}
		}
		s.index, s.arena = s.index[:0], s.arena[:0]
		return nil
	})
}

// mergeLast replaces the last n runs by one.
func (s *Sorter) mergeLast(ctx context.Context, n int) error {
	old := s.runs[len(s.runs)-n:]
	m, err := s.merge(old)
	if err != nil {
		return err
	}
	err = s.write(ctx, old[n-1].depth+1, func(w *writer) error {
		for {
			key, value, err := m.next(ctx)
			if err == io.EOF {
				return nil
			}
			if err == nil {
				err = w.add(key, value)
			}
			if err != nil {
				return err
			}
		}
	})
	if err != nil {
		return err
	}
	last := s.runs[len(s.runs)-1]
	s.runs = append(s.runs[:len(s.runs)-n-1:len(s.runs)-n-1], last)
	var errs []error
	for _, r := range old {
		errs = append(errs, r.close())
	}
	return errors.Join(errs...)
}

// write appends a run that fill writes.
func (s *Sorter) write(ctx context.Context, depth int, fill func(*writer) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r, err := s.newRun(depth)
	if err != nil {
		return err
	}
	w := &writer{s: s, run: r}
	if err = fill(w); err == nil {
		err = w.flush()
	}
	if err == nil {
		_, err = r.file.Seek(0, io.SeekStart)
	}
	if err != nil {
		return errors.Join(err, r.close())
	}
	s.runs = append(s.runs, r)
	return nil
}

// source reads a run's records in order.
type source struct {
	s          *Sorter
	run        *run
	order      int // of the run among those merged
	read       uint64
	plain      []byte // of the block, its buffer reused
	rest       []byte // of plain, not read yet
	prefix     uint64
	key, value []byte
}

// next reads the next record; ok is false at the run's end.
func (c *source) next() (ok bool, err error) {
	if len(c.rest) == 0 {
		if c.read == c.run.blocks {
			return false, nil
		}
		if err := c.block(); err != nil {
			return false, err
		}
	}
	k, n := binary.Uvarint(c.rest)
	v, m := binary.Uvarint(c.rest[max(n, 0):])
	body := c.rest[max(n, 0)+max(m, 0):]
	if n <= 0 || m <= 0 || k > uint64(len(body)) || v > uint64(len(body))-k {
		return false, errRun // sealed by us: cannot be
	}
	c.key, c.value, c.rest = body[:k:k], body[k:k+v:k+v], body[k+v:]
	c.prefix = prefixOf(c.key)
	return true, nil
}

func (c *source) block() error {
	var head [4]byte
	if _, err := io.ReadFull(c.run.file, head[:]); err != nil {
		return fmt.Errorf("read sorted records: %w", errors.Join(errRun, err))
	}
	n := int(binary.LittleEndian.Uint32(head[:]))
	if n > maxBlock+chunk.BoxOverhead {
		return fmt.Errorf("read sorted records: %w", errRun)
	}
	if cap(c.s.box) < n {
		c.s.box = make([]byte, n)
	}
	box := c.s.box[:n]
	if _, err := io.ReadFull(c.run.file, box); err != nil {
		return fmt.Errorf("read sorted records: %w", errors.Join(errRun, err))
	}
	plain, err := c.s.seal.Open(c.plain[:0], box, c.run.aad(c.read))
	if err != nil {
		return fmt.Errorf("read sorted records: %w: %w", errRun, err)
	}
	c.read++
	c.plain, c.rest = plain, plain
	return nil
}
