package index

// stream returns the next row of a sorted sequence, or false at its end.
type stream[T any] func() (T, bool, error)

type head[T any] struct {
	row  T
	from int // number of the stream
	next stream[T]
}

// mergeStreams gives emit all rows of sorted streams in order, equal ones in the
// order of the streams. It holds one row of each, in a binary heap.
func mergeStreams[T any](streams []stream[T], compare func(a, b *T) int, emit func(row *T, from int) error) error {
	var heap []*head[T]
	less := func(a, b *head[T]) bool {
		c := compare(&a.row, &b.row)
		return c < 0 || c == 0 && a.from < b.from
	}
	down := func(i int) {
		for {
			child := 2*i + 1
			if child >= len(heap) {
				return
			}
			if child+1 < len(heap) && less(heap[child+1], heap[child]) {
				child++
			}
			if !less(heap[child], heap[i]) {
				return
			}
			heap[i], heap[child] = heap[child], heap[i]
			i = child
		}
	}
	for i, next := range streams {
		row, ok, err := next()
		if err != nil {
			return err
		}
		if ok {
			heap = append(heap, &head[T]{row, i, next})
		}
	}
	for i := len(heap)/2 - 1; i >= 0; i-- {
		down(i)
	}
	for len(heap) > 0 {
		top := heap[0]
		if err := emit(&top.row, top.from); err != nil {
			return err
		}
		row, ok, err := top.next()
		if err != nil {
			return err
		}
		if top.row = row; !ok {
			heap[0] = heap[len(heap)-1]
			heap = heap[:len(heap)-1]
		}
		down(0)
	}
	return nil
}
