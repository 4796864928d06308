package index

import (
	"encoding/binary"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/wire"
	"github.com/tharsis-backup/tharsis/vault/key"
)

const (
	blockRows    = 256
	fenceBytes   = 8
	countBytes   = 12
	trailerBytes = 4
	// maxFooter bounds a footer's plaintext: 8 MiB of fences, for MaxChunks.
	maxFooter = countBytes + fenceBytes*(MaxChunks/blockRows)
)

func blocks(rows uint32) uint32 { return (rows + blockRows - 1) / blockRows }

// table is where the blocks of one table lie in the object.
type table struct {
	number uint8
	width  int // bytes of a row
	rows   uint32
	begin  int64 // offset of block 0
}

func (t *table) end() int64 {
	return t.begin + int64(t.rows)*int64(t.width) + int64(blocks(t.rows))*chunk.BoxOverhead
}

// boxBytes is the length of the box of a full block.
func (t *table) boxBytes() int { return blockRows*t.width + chunk.BoxOverhead }

// rowsIn is how many rows block n has.
func (t *table) rowsIn(n uint32) int { return int(min(t.rows-n*blockRows, blockRows)) }

// layout is what the counts say about the object.
type layout struct {
	packs, records, chunks table
	size                   int64
}

func newLayout(c Counts) layout {
	var l layout
	l.packs = table{tablePacks, packRowBytes, c.Packs, key.HeaderBytes}
	l.records = table{tableRecords, recordRowBytes, c.Records, l.packs.end()}
	l.chunks = table{tableChunks, chunkRowBytes, c.Chunks, l.records.end()}
	footer := countBytes + fenceBytes*int64(blocks(c.Chunks)) + chunk.BoxOverhead
	l.size = l.chunks.end() + footer + trailerBytes
	return l
}

// binder makes the additional data of a run's boxes.
type binder struct {
	vault key.VaultID
	run   chunk.ID
}

func (b *binder) block(table uint8, number uint32, rows int) []byte {
	aad := make([]byte, 0, 80)
	aad = append(aad, "tharsis/0/index-block"...)
	aad = append(aad, b.vault[:]...)
	aad = append(aad, b.run[:]...)
	aad = append(aad, table)
	aad = binary.LittleEndian.AppendUint32(aad, number)
	return binary.LittleEndian.AppendUint16(aad, uint16(rows))
}

func (b *binder) footer(size int64) []byte {
	aad := make([]byte, 0, 80)
	aad = append(aad, "tharsis/0/index-footer"...)
	aad = append(aad, b.vault[:]...)
	aad = append(aad, b.run[:]...)
	return binary.LittleEndian.AppendUint64(aad, uint64(size))
}

func appendFooter(b []byte, c Counts, fences []uint64) []byte {
	b = wire.AppendU32(b, c.Packs)
	b = wire.AppendU32(b, c.Records)
	b = wire.AppendU32(b, c.Chunks)
	for _, f := range fences {
		b = binary.BigEndian.AppendUint64(b, f) // bytes of an ID, as they are
	}
	return b
}

// parseFooter reads a footer's plaintext of an object of size bytes.
func parseFooter(b []byte, size int64) (Counts, []uint64, error) {
	d := wire.NewDecoder(b)
	c := Counts{d.U32(), d.U32(), d.U32()}
	switch {
	case d.Err() != nil:
		return Counts{}, nil, damaged("%w", d.Err())
	case c.Packs < 1 || c.Packs > c.Records || c.Records > c.Chunks || c.Chunks > MaxChunks:
		return Counts{}, nil, damaged("%d packs, %d records, %d chunks", c.Packs, c.Records, c.Chunks)
	case d.Len() != fenceBytes*int(blocks(c.Chunks)):
		return Counts{}, nil, damaged("%d bytes of fences for %d chunks", d.Len(), c.Chunks)
	case newLayout(c).size != size:
		return Counts{}, nil, damaged("%d bytes, want %d by its counts", size, newLayout(c).size)
	}
	fences := make([]uint64, blocks(c.Chunks))
	for i := range fences {
		fences[i] = binary.BigEndian.Uint64(d.Bytes(fenceBytes))
		if i > 0 && fences[i] < fences[i-1] {
			return Counts{}, nil, damaged("fences are not sorted")
		}
	}
	return c, fences, nil
}

// prefix is the part of an ID that a fence has; it sorts as IDs do.
func prefix(id []byte) uint64 { return binary.BigEndian.Uint64(id) }
