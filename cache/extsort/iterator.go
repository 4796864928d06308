package extsort

import (
	"bytes"
	"container/heap"
	"context"
	"io"
)

// Iterator gives records in key order, those of equal keys in the order of Add.
type Iterator struct {
	s    *Sorter
	ctx  context.Context // bounds the iteration, which follows Sort at once
	at   int             // in memory, where nothing was spilled
	heap runHeap
	last *run // whose record was returned
}

// start reads each run's first record.
func (it *Iterator) start() error {
	for i, r := range it.s.runs {
		switch err := r.next(); err {
		case nil:
			it.heap = append(it.heap, numbered{r, i})
		case io.EOF:
		default:
			return err
		}
	}
	heap.Init(&it.heap)
	return nil
}

// Next returns the next record, valid until the call after, or io.EOF.
func (it *Iterator) Next() (key, value []byte, err error) {
	if it.ctx != nil && it.ctx.Err() != nil {
		return nil, nil, it.ctx.Err()
	}
	if len(it.s.runs) == 0 {
		if it.at >= len(it.s.recs) {
			return nil, nil, io.EOF
		}
		r := it.s.recs[it.at]
		it.at++
		return it.s.key(r), it.s.value(r), nil
	}
	if it.last != nil {
		switch err := it.last.next(); err {
		case nil:
			heap.Fix(&it.heap, 0)
		case io.EOF:
			heap.Pop(&it.heap)
		default:
			return nil, nil, err
		}
		it.last = nil
	}
	if len(it.heap) == 0 {
		return nil, nil, io.EOF
	}
	it.last = it.heap[0].run
	return it.last.key, it.last.value, nil
}

// Close frees what the sorter holds.
func (it *Iterator) Close() error { return it.s.Close() }

// numbered is a run with its age.
type numbered struct {
	*run
	n int
}

// runHeap orders runs by their current record, equal ones by age.
type runHeap []numbered

func (h runHeap) Len() int { return len(h) }
func (h runHeap) Less(i, j int) bool {
	if c := bytes.Compare(h[i].key, h[j].key); c != 0 {
		return c < 0
	}
	return h[i].n < h[j].n
}
func (h runHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *runHeap) Push(x any)   { *h = append(*h, x.(numbered)) }
func (h *runHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}
