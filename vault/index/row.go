package index

import (
	"cmp"
	"encoding/binary"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// The tables, by the numbers that their blocks are bound to.
const (
	tablePacks   uint8 = 1
	tableRecords uint8 = 2
	tableChunks  uint8 = 3
)

// The widths of rows, in bytes.
const (
	packRowBytes   = 41
	recordRowBytes = 21
	chunkRowBytes  = 44
)

// PackRow is a row of table 1.
type PackRow struct {
	ID     chunk.ID
	Type   uint8
	Length uint64 // bytes of the object
}

// RecordRow is a row of table 2.
type RecordRow struct {
	Pack   uint32 // row in table 1
	Number uint32
	Offset uint32 // where the box begins in the pack
	Stored uint32 // bytes of the box
	Plain  uint32 // bytes of the plaintext
	Codec  chunk.Codec
}

// ChunkRow is a row of table 3.
type ChunkRow struct {
	ID     chunk.ID
	Record uint32 // row in table 2
	Offset uint32 // in the record's plaintext
	Length uint32 // bytes
}

func appendPackRow(b []byte, r *PackRow) []byte {
	b = append(b, r.ID[:]...)
	b = append(b, r.Type)
	return binary.LittleEndian.AppendUint64(b, r.Length)
}

func appendRecordRow(b []byte, r *RecordRow) []byte {
	b = binary.LittleEndian.AppendUint32(b, r.Pack)
	b = binary.LittleEndian.AppendUint32(b, r.Number)
	b = binary.LittleEndian.AppendUint32(b, r.Offset)
	b = binary.LittleEndian.AppendUint32(b, r.Stored)
	b = binary.LittleEndian.AppendUint32(b, r.Plain)
	return append(b, uint8(r.Codec))
}

func appendChunkRow(b []byte, r *ChunkRow) []byte {
	b = append(b, r.ID[:]...)
	b = binary.LittleEndian.AppendUint32(b, r.Record)
	b = binary.LittleEndian.AppendUint32(b, r.Offset)
	return binary.LittleEndian.AppendUint32(b, r.Length)
}

func parsePackRow(b []byte) PackRow {
	_ = b[packRowBytes-1]
	return PackRow{ID: chunk.ID(b[:32]), Type: b[32], Length: binary.LittleEndian.Uint64(b[33:])}
}

func parseRecordRow(b []byte) RecordRow {
	_ = b[recordRowBytes-1]
	return RecordRow{
		Pack:   binary.LittleEndian.Uint32(b),
		Number: binary.LittleEndian.Uint32(b[4:]),
		Offset: binary.LittleEndian.Uint32(b[8:]),
		Stored: binary.LittleEndian.Uint32(b[12:]),
		Plain:  binary.LittleEndian.Uint32(b[16:]),
		Codec:  chunk.Codec(b[20]),
	}
}

func parseChunkRow(b []byte) ChunkRow {
	_ = b[chunkRowBytes-1]
	return ChunkRow{
		ID:     chunk.ID(b[:32]),
		Record: binary.LittleEndian.Uint32(b[32:]),
		Offset: binary.LittleEndian.Uint32(b[36:]),
		Length: binary.LittleEndian.Uint32(b[40:]),
	}
}

func compareChunkRows(a, b *ChunkRow) int {
	if c := a.ID.Compare(b.ID); c != 0 {
		return c
	}
	if c := cmp.Compare(a.Record, b.Record); c != 0 {
		return c
	}
	return cmp.Compare(a.Offset, b.Offset)
}

// minPackTail is what follows a pack's last record at least: a directory box
// that is not empty, and the trailer.
const minPackTail = chunk.BoxOverhead + 1 + 4

// The checks of rows return what is wrong, or "".

func (r *PackRow) check() string {
	switch {
	case r.Type != key.TypeDataPack && r.Type != key.TypeManifestPack:
		return "type of pack is unknown"
	case r.Length > pack.MaxLength || !pack.IsPadded(r.Length):
		return "length is not that of a pack"
	}
	return ""
}

func (r *RecordRow) check(packs uint32) string {
	switch {
	case r.Pack >= packs:
		return "record points outside of the pack table"
	case r.Codec != chunk.CodecPlain && r.Codec != chunk.CodecZstd:
		return "codec of record is unknown"
	case r.Plain < 1 || r.Plain > chunk.MaxChunk:
		return "plaintext length of record is out of range"
	case r.Stored <= chunk.BoxOverhead || r.Stored > pack.MaxStored,
		r.Codec == chunk.CodecPlain && r.Stored != r.Plain+chunk.BoxOverhead:
		return "stored length of record is out of range"
	case r.Offset < key.HeaderBytes || r.Offset > pack.MaxLength:
		return "offset of record is out of range"
	}
	return ""
}

// checkAfter checks r as the row after prev. Every pack has a record, so that the
// pack column has no gaps.
func (r *RecordRow) checkAfter(prev *RecordRow) string {
	switch {
	case r.Pack == prev.Pack && r.Offset < prev.Offset+prev.Stored:
		return "records overlap or are out of order"
	case r.Pack != prev.Pack && r.Pack != prev.Pack+1:
		return "records are out of order, or a pack has none"
	}
	return ""
}

func (r *RecordRow) checkIn(p *PackRow) string {
	if uint64(r.Offset)+uint64(r.Stored)+minPackTail > p.Length {
		return "record points outside of its pack"
	}
	return ""
}

// checkIn takes the plaintext length of the chunk's record.
func (r *ChunkRow) checkIn(plain uint32) string {
	if r.Offset+r.Length > plain {
		return "chunk points outside of its record"
	}
	return ""
}
