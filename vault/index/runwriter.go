package index

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/stage"
	"github.com/tharsis-backup/tharsis/vault/key"
)

// runWriter seals rows into blocks and writes them in order, or compares them with
// those of a run. It holds one block. The caller appends rows in the order of the
// format, all of one table before the next; the first error sticks.
type runWriter struct {
	w      io.Writer
	check  *checker // in place of w
	sealer *chunk.Sealer
	binder binder
	err    error
	size   int64 // bytes written

	counts Counts
	fences []uint64
	rows   []byte // the open block's
	box    []byte
	table  table // rows is the number appended so far
}

// newRunWriter writes nothing yet: a run that turns out empty is not begun.
func newRunWriter(w io.Writer, ring *key.Ring, id chunk.ID) *runWriter {
	return &runWriter{
		w: w, sealer: ring.Sealer(key.TypeIndex, id[:]), binder: binder{ring.Vault, id},
		rows:  make([]byte, 0, blockRows*chunkRowBytes),
		box:   make([]byte, 0, blockRows*chunkRowBytes+chunk.BoxOverhead),
		table: table{number: tablePacks, width: packRowBytes},
	}
}

func (rw *runWriter) pack(r *PackRow) {
	if rw.counts.Packs == 0 && rw.check == nil {
		rw.write(key.AppendHeader(nil, key.TypeIndex, rw.sealer))
	}
	rw.rows = appendPackRow(rw.rows, r)
	rw.counts.Packs++
	rw.endRow()
}

func (rw *runWriter) record(r *RecordRow) {
	rw.enter(tableRecords, recordRowBytes)
	rw.rows = appendRecordRow(rw.rows, r)
	rw.counts.Records++
	rw.endRow()
}

func (rw *runWriter) chunk(r *ChunkRow) {
	rw.enter(tableChunks, chunkRowBytes)
	if len(rw.rows) == 0 {
		rw.fences = append(rw.fences, prefix(r.ID[:]))
	}
	rw.rows = appendChunkRow(rw.rows, r)
	rw.counts.Chunks++
	rw.endRow()
}

// enter goes on to a table, which ends the one before.
func (rw *runWriter) enter(number uint8, width int) {
	if rw.table.number != number {
		rw.flush()
		rw.table = table{number: number, width: width}
	}
}

func (rw *runWriter) endRow() {
	rw.table.rows++
	if rw.table.rows > MaxChunks && rw.err == nil {
		rw.err = fmt.Errorf("write index run: more than %d rows", MaxChunks)
	}
	if len(rw.rows) == blockRows*rw.table.width {
		rw.flush()
	}
}

func (rw *runWriter) flush() {
	rows := len(rw.rows) / rw.table.width
	if rows == 0 || rw.err != nil {
		rw.rows = rw.rows[:0]
		return
	}
	number := (rw.table.rows - 1) / blockRows
	if rw.check != nil {
		rw.err = rw.check.block(rw.table.number, number, rw.rows)
		rw.rows = rw.rows[:0]
		return
	}
	stage.Pass(stage.IndexRows, rw.rows)
	rw.box = rw.sealer.Seal(rw.box[:0], rw.rows, rw.binder.block(rw.table.number, number, rows))
	stage.Pass(stage.IndexBox, rw.box)
	rw.write(rw.box)
	rw.rows = rw.rows[:0]
}

// finish writes the footer and returns the object's length.
func (rw *runWriter) finish() (int64, error) {
	rw.flush()
	if rw.err != nil {
		return 0, rw.err
	}
	if rw.counts.Chunks == 0 {
		return 0, ErrEmpty
	}
	if rw.check != nil {
		return 0, rw.check.end(rw.counts, rw.fences)
	}
	size := newLayout(rw.counts).size
	box := rw.sealer.Seal(nil, appendFooter(nil, rw.counts, rw.fences), rw.binder.footer(size))
	rw.write(binary.LittleEndian.AppendUint32(box, uint32(len(box))))
	if rw.err == nil && rw.size != size {
		panic(fmt.Sprintf("index: internal error: %d bytes written of %d", rw.size, size))
	}
	return rw.size, rw.err
}

func (rw *runWriter) write(b []byte) {
	if rw.err != nil {
		return
	}
	n, err := rw.w.Write(b)
	if err == nil && n != len(b) {
		err = io.ErrShortWrite
	}
	if err != nil {
		rw.err = fmt.Errorf("write index run: %w", err)
	}
	rw.size += int64(n)
}
