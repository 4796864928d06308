// Package extsort sorts more records than memory should hold: it keeps a budget
// of them, spills sorted runs to files that are gone with the process, and merges.
//
// What is spilled is sealed under a key that only this process has ever had, so
// that nothing readable reaches the disk.
//
// Errors are of the spill files' reads and writes. A Sorter and its Iterator are
// for one goroutine.
package extsort

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"slices"

	"github.com/tharsis-backup/tharsis/chunk"
)

const (
	// DefaultBudget is how many bytes of records are sorted in memory: enough
	// for the changes of a usual job, small beside what a job may take.
	DefaultBudget = 8 << 20
	// recordBytes is what a record costs besides its key and value.
	recordBytes = 16
	// maxRuns bounds the runs of one merge, each with a block in memory.
	maxRuns = 64
)

// Sorter collects records. Make it with New.
type Sorter struct {
	dir    string
	budget int
	sealer *chunk.Sealer

	arena []byte // keys and values, one after the other
	recs  []rec
	runs  []*run
}

// rec is a record in the arena.
type rec struct{ off, key, value uint32 }

// New makes a sorter that spills to dir beyond budget bytes; 0 means DefaultBudget.
func New(dir string, budget int) *Sorter {
	if budget <= 0 {
		budget = DefaultBudget
	}
	material := make([]byte, 64)
	rand.Read(material)
	return &Sorter{dir: dir, budget: budget, sealer: chunk.SealerFrom(material)}
}

// Add adds a record; key and value are copied.
func (s *Sorter) Add(key, value []byte) error {
	s.recs = append(s.recs, rec{uint32(len(s.arena)), uint32(len(key)), uint32(len(value))})
	s.arena = append(append(s.arena, key...), value...)
	if len(s.arena)+len(s.recs)*recordBytes < s.budget {
		return nil
	}
	return s.spill()
}

func (s *Sorter) key(r rec) []byte { return s.arena[r.off : r.off+r.key] }

func (s *Sorter) value(r rec) []byte { return s.arena[r.off+r.key : r.off+r.key+r.value] }

// sort sorts what is in memory; records of equal keys stay in the order of Add.
func (s *Sorter) sort() {
	slices.SortFunc(s.recs, func(a, b rec) int {
		return cmp.Or(bytes.Compare(s.key(a), s.key(b)), cmp.Compare(a.off, b.off))
	})
}

// spill writes what is in memory as a run.
func (s *Sorter) spill() error {
	if len(s.recs) == 0 {
		return nil
	}
	s.sort()
	w, err := newRunWriter(s.dir, s.sealer)
	if err != nil {
		return err
	}
	for _, r := range s.recs {
		if err := w.add(s.key(r), s.value(r)); err != nil {
			w.f.Close()
			return err
		}
	}
	s.arena, s.recs = s.arena[:0], s.recs[:0]
	r, err := w.finish()
	if err != nil {
		return err
	}
	s.runs = append(s.runs, r)
	if len(s.runs) < maxRuns {
		return nil
	}
	return s.mergeRuns()
}

// mergeRuns makes one run of all.
func (s *Sorter) mergeRuns() error {
	w, err := newRunWriter(s.dir, s.sealer)
	if err != nil {
		return err
	}
	it := &Iterator{s: s}
	if err := it.start(); err != nil {
		w.f.Close()
		return err
	}
	for {
		k, v, err := it.Next()
		if err == io.EOF {
			break
		}
		if err == nil {
			err = w.add(k, v)
		}
		if err != nil {
			w.f.Close()
			return err
		}
	}
	r, err := w.finish()
	if err != nil {
		return err
	}
	s.closeRuns()
	s.runs = []*run{r}
	return nil
}

// Sort ends the adding and gives the records in key order. The iterator takes
// over what the sorter holds.
func (s *Sorter) Sort(ctx context.Context) (*Iterator, error) {
	it := &Iterator{s: s, ctx: ctx}
	if len(s.runs) == 0 {
		s.sort()
		return it, nil
	}
	if err := s.spill(); err != nil {
		return nil, err
	}
	s.arena, s.recs = nil, nil
	return it, it.start()
}

// Close frees what a sorter holds. It may be called more than once, and beside
// its iterator's Close.
func (s *Sorter) Close() error {
	s.arena, s.recs = nil, nil
	return s.closeRuns()
}

func (s *Sorter) closeRuns() (err error) {
	for _, r := range s.runs {
		if cerr := r.f.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("close spilled records: %w", cerr)
		}
	}
	s.runs = nil
	return err
}
