package extsort

import (
	"bytes"
	"context"
	"io"
)

// fanIn is how many runs are merged at once: their blocks take half of the budget.
func (s *Sorter) fanIn() int { return max(2, min(s.budget/2/blockBytes, maxFanIn)) }

// merge is a merge of runs under way: a heap of their next records.
type merge struct {
	heap  []*source
	taken bool // the first source's record was given out
}

// merge starts reading runs. Of equal keys, those of earlier runs come first.
func (s *Sorter) merge(runs []*run) (*merge, error) {
	m := &merge{}
	for i, r := range runs {
		c := &source{s: s, run: r, order: i}
		ok, err := c.next()
		if err != nil {
			return nil, err
		}
		if ok {
			m.heap = append(m.heap, c)
		}
	}
	for i := len(m.heap)/2 - 1; i >= 0; i-- {
		m.down(i)
	}
	return m, nil
}

// next gives the lowest record, valid until the next call.
func (m *merge) next(ctx context.Context) (key, value []byte, err error) {
	if m.taken {
		if err := m.advance(ctx); err != nil {
			return nil, nil, err
		}
	}
	if len(m.heap) == 0 {
		return nil, nil, io.EOF
	}
	m.taken = true
	return m.heap[0].key, m.heap[0].value, nil
}

// advance moves the first source past the record that was given out.
func (m *merge) advance(ctx context.Context) error {
	c := m.heap[0]
	if len(c.rest) == 0 { // a block will be read
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	ok, err := c.next()
	if err != nil {
		return err
	}
	if !ok {
		last := len(m.heap) - 1
		m.heap[0] = m.heap[last]
		m.heap = m.heap[:last]
	}
	m.taken = false
	m.down(0)
	return nil
}

func (m *merge) less(i, j int) bool {
	a, b := m.heap[i], m.heap[j]
	if a.prefix != b.prefix {
		return a.prefix < b.prefix
	}
	if c := bytes.Compare(a.key, b.key); c != 0 {
		return c < 0
	}
	return a.order < b.order
}

func (m *merge) down(i int) {
	for {
		low := i
		for c := 2*i + 1; c <= 2*i+2 && c < len(m.heap); c++ {
			if m.less(c, low) {
				low = c
			}
		}
		if low == i {
			return
		}
		m.heap[i], m.heap[low] = m.heap[low], m.heap[i]
		i = low
	}
}
