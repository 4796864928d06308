package index

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/key"
)

// TailBytes is what OpenRun reads first of a run's end: the fences of 2 million
// chunks, and the whole of a small run.
const TailBytes = 64 << 10

// Run is an opened index run. It holds the fences: 8 bytes for 256 chunks, at most
// 8 MiB. It is safe for concurrent use, and does not own its source.
type Run struct {
	id     chunk.ID
	ring   *key.Ring
	src    Source
	sealer *chunk.Sealer
	binder binder
	cache  *BlockCache
	serial uint64
	counts Counts
	layout layout
	fences []uint64
}

var serials atomic.Uint64

// OpenRun opens the run id of size bytes: one read, or two (three above 2 million
// chunks). The blocks that look-ups open are kept in cache; nil keeps none.
func OpenRun(ctx context.Context, ring *key.Ring, id chunk.ID, src Source, size int64, cache *BlockCache) (*Run, error) {
	r := &Run{
		id: id, ring: ring, src: src, sealer: ring.Sealer(key.TypeIndex, id[:]),
		binder: binder{ring.Vault, id}, cache: cache, serial: serials.Add(1),
	}
	if err := r.open(ctx, size); err != nil {
		return nil, fmt.Errorf("open index run %s: %w", id.Short(), err)
	}
	return r, nil
}

func (r *Run) open(ctx context.Context, size int64) error {
	if size < newLayout(Counts{1, 1, 1}).size || size > newLayout(Counts{MaxChunks, MaxChunks, MaxChunks}).size {
		return damaged("%d bytes is not the length of a run", size)
	}
	tail := make([]byte, min(size, TailBytes))
	if err := r.src.ReadAt(ctx, tail, size-int64(len(tail))); err != nil {
		return err
	}
	header := tail
	if int64(len(tail)) < size {
		header = make([]byte, key.HeaderBytes)
		if err := r.src.ReadAt(ctx, header, 0); err != nil {
			return err
		}
	}
	if err := key.CheckHeader(header, key.TypeIndex, r.sealer); err != nil {
		return err
	}
	box, err := r.footerBox(ctx, size, tail)
	if err != nil {
		return err
	}
	plain, err := r.sealer.Open(nil, box, r.binder.footer(size))
	if err != nil {
		return damaged("footer: %w", err)
	}
	if r.counts, r.fences, err = parseFooter(plain, size); err != nil {
		return err
	}
	r.layout = newLayout(r.counts)
	return nil
}

// footerBox finds the footer's box in tail, or reads it where it is longer.
func (r *Run) footerBox(ctx context.Context, size int64, tail []byte) ([]byte, error) {
	n := int64(binary.LittleEndian.Uint32(tail[len(tail)-trailerBytes:]))
	if n < countBytes+fenceBytes+chunk.BoxOverhead || n > maxFooter+chunk.BoxOverhead ||
		n > size-key.HeaderBytes-trailerBytes {
		return nil, damaged("footer of %d bytes in a run of %d", n, size)
	}
	if end := int64(len(tail)) - trailerBytes; n <= end {
		return tail[end-n : end], nil
	}
	box := make([]byte, n)
	return box, r.src.ReadAt(ctx, box, size-trailerBytes-n)
}

// ID is the run's ID.
func (r *Run) ID() chunk.ID { return r.id }

// Size is the length of the run's object in bytes.
func (r *Run) Size() int64 { return r.layout.size }

// Counts tells how many rows the tables have.
func (r *Run) Counts() Counts { return r.counts }

// boxBufferBytes holds the box of any block.
const boxBufferBytes = blockRows*chunkRowBytes + chunk.BoxOverhead

// boxes has the buffers that look-ups read into, since each is used for a moment.
var boxes = sync.Pool{New: func() any { return new([boxBufferBytes]byte) }}

// block returns a block's rows, opened and checked, from the cache or the source.
func (r *Run) block(ctx context.Context, t *table, n uint32) ([]byte, error) {
	k := blockKey{r.serial, n, t.number}
	if b := r.cache.get(k); b != nil {
		return b, nil
	}
	buf := boxes.Get().(*[boxBufferBytes]byte)
	defer boxes.Put(buf)
	box := buf[:t.rowsIn(n)*t.width+chunk.BoxOverhead]
	if err := r.src.ReadAt(ctx, box, t.begin+int64(n)*int64(t.boxBytes())); err != nil {
		return nil, fmt.Errorf("read index run %s: %w", r.id.Short(), err)
	}
	b, err := r.openBlock(make([]byte, 0, t.rowsIn(n)*t.width), t, n, box)
	if err != nil {
		return nil, err
	}
	r.cache.put(k, b)
	return b, nil
}

// openBlock appends the rows of a box to dst and checks them.
func (r *Run) openBlock(dst []byte, t *table, n uint32, box []byte) ([]byte, error) {
	b, err := r.sealer.Open(dst, box, r.binder.block(t.number, n, t.rowsIn(n)))
	if err != nil {
		return nil, r.blockError(t, n, damaged("%w", err))
	}
	var wrong string
	switch t.number {
	case tablePacks:
		wrong = checkPackBlock(b)
	case tableRecords:
		wrong = r.checkRecordBlock(b)
	case tableChunks:
		wrong = r.checkChunkBlock(b, n)
	}
	if wrong != "" {
		return nil, r.blockError(t, n, damaged("%s", wrong))
	}
	return b, nil
}

func (r *Run) blockError(t *table, n uint32, err error) error {
	return fmt.Errorf("read index run %s, table %d, block %d: %w", r.id.Short(), t.number, n, err)
}
