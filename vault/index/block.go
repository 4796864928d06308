package index

import (
	"bytes"
	"encoding/binary"

	"github.com/tharsis-backup/tharsis/chunk"
)

// The checks of a block return what is wrong, or "". They see one block; the
// order from block to block is checked by a cursor, and for chunks by the fences.

func checkPackBlock(b []byte) string {
	for i := 0; i < len(b); i += packRowBytes {
		row := parsePackRow(b[i:])
		if wrong := row.check(); wrong != "" {
			return wrong
		}
		if i > 0 && bytes.Compare(b[i-packRowBytes:i-packRowBytes+32], b[i:i+32]) >= 0 {
			return "packs are out of order"
		}
	}
	return ""
}

func (r *Run) checkRecordBlock(b []byte) string {
	var prev RecordRow
	for i := 0; i < len(b); i += recordRowBytes {
		row := parseRecordRow(b[i:])
		if wrong := row.check(r.counts.Packs); wrong != "" {
			return wrong
		}
		if i > 0 {
			if wrong := row.checkAfter(&prev); wrong != "" {
				return wrong
			}
		}
		prev = row
	}
	return ""
}

func (r *Run) checkChunkBlock(b []byte, n uint32) string {
	if prefix(b) != r.fences[n] {
		return "the first chunk is not that of the fence"
	}
	if int(n)+1 < len(r.fences) && prefix(b[len(b)-chunkRowBytes:]) > r.fences[n+1] {
		return "the last chunk is behind the next fence"
	}
	// Every block that is read passes here: rows are not copied, and IDs compared
	// whole only where their first 8 bytes are equal.
	last := uint64(0)
	for i := 0; i < len(b); i += chunkRowBytes {
		row := b[i : i+chunkRowBytes]
		p := prefix(row)
		if p < last || p == last && i > 0 && !sortedAt(b, i) {
			return "chunks are out of order"
		}
		last = p
		if record := binary.LittleEndian.Uint32(row[32:]); record >= r.counts.Records {
			return "chunk points outside of the record table"
		}
		offset, length := binary.LittleEndian.Uint32(row[36:]), binary.LittleEndian.Uint32(row[40:])
		if length < 1 || length > chunk.MaxChunk || offset > chunk.MaxChunk {
			return "offset or length of chunk is out of range"
		}
	}
	return ""
}

// sortedAt tells whether the chunk row at i of b stands behind the one before.
func sortedAt(b []byte, i int) bool {
	prev, row := parseChunkRow(b[i-chunkRowBytes:]), parseChunkRow(b[i:])
	return compareChunkRows(&prev, &row) < 0
}
