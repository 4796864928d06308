// Package extsort sorts any number of small records by key in bounded memory.
//
// A [Sorter] collects records up to its budget, sorts them and spills them as a run
// into a temporary file; [Sorter.Sort] merges the runs and what is still in
// memory. Records of equal keys come out in the order in which they were added.
//
// On disk: run files, named sort-*.tmp, in the folder that the caller gives. They
// are removed from it as soon as they are made where the system lets an open file go,
// else when they are no longer needed; what a killed process left there may be
// deleted. Their content is sealed block by block under a random key that only
// lives in memory, so nothing readable is on the disk, and a block that was altered
// or exchanged ends the sort with chunk.ErrAuth.
//
// Errors: those of the file system, wrapped; a record above [MaxRecordBytes].
// After any error the Sorter is of no use but to be closed.
//
// Concurrency: a Sorter and its Iterator belong to one goroutine.
//
// It does not make anything durable, and does not drop records of equal keys.
package extsort

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/tharsis-backup/tharsis/chunk"
)

const (
	// DefaultBudget is the memory that a Sorter takes for records: 8 MiB hold
	// some 50,000 entries, which most folders and changes stay below.
	DefaultBudget = 8 << 20
	// MaxRecordBytes bounds the key and the value of a record together. An entry
	// with its key is at most 200 KiB.
	MaxRecordBytes = 1 << 20
	// The names of run files.
	tempPrefix, tempSuffix = "sort-", ".tmp"

	// maxFanIn bounds the runs that are merged at once, and with the depth of
	// merging the files that are open: 32 runs of 8 MiB make one of 256 MiB, 32 of
	// these one of 8 GiB.
	maxFanIn = 32
	// indexBytes is what a record takes besides its key and value.
	indexBytes = 24
	// minBudget lets two runs be merged in half of it.
	minBudget = 4 * blockBytes
)

var (
	errTooLarge = errors.New("record is too large to sort")
	errSorted   = errors.New("sorter was sorted or closed already")
)

// Sorter collects records. Close it in any case.
type Sorter struct {
	dir    string
	budget int
	seal   *chunk.Sealer
	arena  []byte // the records in memory: keys and values
	index  []record
	runs   []*run // the oldest records first
	nextID uint64 // of a run, in its blocks' additional data
	box    []byte // a sealed block, written or read
	closed bool
}

// record is a record in memory.
type record struct {
	prefix uint64 // the key's first 8 bytes, to compare by
	off    uint32 // in the arena, which also tells the order of adding
	key    uint32 // lengths
	value  uint32
}

// New makes an empty Sorter with run files in dir ("": the system's folder for
// temporary files). budget is how many bytes of memory are used for records, and at
// most half of it again while they are merged: 0 is DefaultBudget, and it is never
// less than 256 KiB. Memory is taken as records come.
func New(dir string, budget int) *Sorter {
	if budget <= 0 {
		budget = DefaultBudget
	}
	return &Sorter{dir: dir, budget: max(budget, minBudget), seal: newSealer()}
}

// Add adds a record and copies it. It writes to disk when the budget is used up.
func (s *Sorter) Add(key, value []byte) error {
	n := len(key) + len(value)
	switch {
	case s.closed:
		return errSorted
	case n > MaxRecordBytes:
		return fmt.Errorf("%w: %d bytes", errTooLarge, n)
	}
	if len(s.index) > 0 && len(s.arena)+n+(len(s.index)+1)*indexBytes > s.budget {
		if err := s.makeRoom(context.Background()); err != nil {
			return err
		}
	}
	s.index = append(s.index, record{prefixOf(key), uint32(len(s.arena)), uint32(len(key)), uint32(len(value))})
	s.arena = append(append(s.arena, key...), value...)
	return nil
}

// Sort ends adding and gives the records in order. The Sorter must stay open
// while the iterator is used; the iterator's Close closes it. ctx holds for the
// iterator, too, which is used up at once.
func (s *Sorter) Sort(ctx context.Context) (*Iterator, error) {
	if s.closed {
		return nil, errSorted
	}
	s.closed = true
	s.sortMemory()
	if len(s.runs) > 0 && len(s.index) > 0 {
		if err := s.spill(ctx); err != nil { // so that merging has the memory to itself
			return nil, err
		}
	}
	if len(s.runs) == 0 {
		return &Iterator{s: s, ctx: ctx}, nil
	}
	s.arena, s.index = nil, nil
	for len(s.runs) > s.fanIn() {
		if err := s.mergeLast(ctx, min(s.fanIn(), len(s.runs)-s.fanIn()+1)); err != nil {
			return nil, err
		}
	}
	m, err := s.merge(s.runs)
	if err != nil {
		return nil, err
	}
	return &Iterator{s: s, ctx: ctx, merge: m}, nil
}

// Close frees the memory and the files. It may be called twice.
func (s *Sorter) Close() error {
	s.closed = true
	var errs []error
	for _, r := range s.runs {
		errs = append(errs, r.close())
	}
	s.runs, s.arena, s.index, s.box = nil, nil, nil, nil
	return errors.Join(errs...)
}

// sortMemory sorts the records in memory; their order in the arena settles ties.
func (s *Sorter) sortMemory() {
	slices.SortFunc(s.index, func(a, b record) int {
		if a.prefix != b.prefix {
			return cmp.Compare(a.prefix, b.prefix)
		}
		if c := bytes.Compare(s.keyOf(a), s.keyOf(b)); c != 0 {
			return c
		}
		if a.off != b.off {
			return cmp.Compare(a.off, b.off)
		}
		return cmp.Compare(a.value, b.value) // an empty record is before the one that begins where it does
	})
}

func (s *Sorter) keyOf(r record) []byte { return s.arena[r.off : r.off+r.key : r.off+r.key] }

func (s *Sorter) valueOf(r record) []byte {
	from, to := r.off+r.key, r.off+r.key+r.value
	return s.arena[from:to:to]
}

// prefixOf orders keys as far as 8 bytes do: a shorter key counts as if zeros
// followed, which the whole comparison then settles.
func prefixOf(key []byte) uint64 {
	var b [8]byte
	copy(b[:], key)
	return binary.BigEndian.Uint64(b[:])
}

// Iterator gives the sorted records.
type Iterator struct {
	s     *Sorter
	ctx   context.Context
	at    int    // in memory, where nothing was spilled
	merge *merge // else
}

// Next returns the next record, or io.EOF. Key and value are valid until the next
// call and must not be changed.
func (it *Iterator) Next() (key, value []byte, err error) {
	if it.merge != nil {
		return it.merge.next(it.ctx)
	}
	if it.at == len(it.s.index) {
		return nil, nil, io.EOF
	}
	r := it.s.index[it.at]
	it.at++
	return it.s.keyOf(r), it.s.valueOf(r), nil
}

// Close closes the Sorter.
func (it *Iterator) Close() error { return it.s.Close() }
