package pack

import (
	"bytes"
	"fmt"
	"math/bits"
	"slices"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/wire"
	"github.com/tharsis-backup/tharsis/vault/key"
)

// The fewest bytes that a chunk and a record take in a directory: what bounds
// the memory that a count may ask for.
const (
	minChunkBytes  = len(chunk.ID{}) + 1
	minRecordBytes = 5 + minChunkBytes
)

// placeBytes is what appendPlaced appends to a row.
const placeBytes = 4

func uvarintBytes(v uint64) uint64 { return uint64(bits.Len64(v|1)+6) / 7 }

// directoryBytes is how many bytes appendRecord writes for r.
func (r *Record) directoryBytes() uint64 {
	n := uvarintBytes(uint64(r.Number)) + 1 + uvarintBytes(uint64(r.Plain)) +
		uvarintBytes(uint64(r.Stored)) + uvarintBytes(uint64(len(r.Chunks)))
	for _, c := range r.Chunks {
		n += uint64(len(c.ID)) + uvarintBytes(uint64(c.Length))
	}
	return n
}

func appendRecord(b []byte, r *Record) []byte {
	b = wire.AppendUvarint(b, uint64(r.Number))
	b = append(b, uint8(r.Codec))
	b = wire.AppendUvarint(b, uint64(r.Plain))
	b = wire.AppendUvarint(b, uint64(r.Stored))
	b = wire.AppendUvarint(b, uint64(len(r.Chunks)))
	for i := range r.Chunks {
		b = append(b, r.Chunks[i].ID[:]...)
		b = wire.AppendUvarint(b, uint64(r.Chunks[i].Length))
	}
	return b
}

// appendDirectory appends the directory's plaintext without its padding.
func appendDirectory(b []byte, records []Record) []byte {
	b = wire.AppendUvarint(b, uint64(len(records)))
	for i := range records {
		b = appendRecord(b, &records[i])
	}
	return b
}

// decodeDirectory reads a directory's plaintext. end is where its box begins, and
// so where the last record must end.
func decodeDirectory(plain []byte, end uint64) ([]Record, error) {
	d := wire.NewDecoder(plain)
	count := d.Count(MaxRecords, minRecordBytes)
	if d.Err() == nil && count == 0 {
		d.Fail("no records")
	}
	records := make([]Record, 0, count)
	offset, chunks := uint64(key.HeaderBytes), 0
	for i := 0; i < count && d.Err() == nil; i++ {
		r := decodeRecord(d, MaxChunks-chunks)
		r.Offset = uint32(offset)
		offset += uint64(r.Stored)
		chunks += len(r.Chunks)
		if d.Err() == nil && offset > end {
			d.Fail("record %d ends at %d, behind the records' end %d", i, offset, end)
		}
		records = append(records, r)
	}
	if d.Err() == nil && offset != end {
		d.Fail("records end at %d, the directory begins at %d", offset, end)
	}
	if pad := d.Bytes(d.Len()); len(bytes.TrimLeft(pad, "\x00")) != 0 {
		d.Fail("padding is not zero")
	}
	if err := d.Err(); err != nil {
		return nil, err
	}
	return records, checkNumbers(records)
}

func decodeRecord(d *wire.Decoder, maxChunks int) Record {
	r := Record{
		Number: uint32(d.Uvarint(1<<32 - 1)),
		Codec:  chunk.Codec(d.U8()),
		Plain:  uint32(d.Uvarint(chunk.MaxChunk)),
		Stored: uint32(d.Uvarint(MaxStored)),
	}
	r.Chunks = make([]Chunk, d.Count(min(MaxRecordChunks, maxChunks), minChunkBytes))
	for i := range r.Chunks {
		d.Fixed(r.Chunks[i].ID[:])
		r.Chunks[i].Length = uint32(d.Uvarint(chunk.MaxChunk))
	}
	if d.Err() == nil {
		if err := r.Check(); err != nil {
			d.Fail("record %d: %v", r.Number, err)
		}
	}
	return r
}

// checkNumbers refuses a repeated number: two boxes under one number could stand
// in for each other.
func checkNumbers(records []Record) error {
	numbers := make([]uint32, len(records))
	for i := range records {
		numbers[i] = records[i].Number
	}
	slices.Sort(numbers)
	for i := 1; i < len(numbers); i++ {
		if numbers[i] == numbers[i-1] {
			return fmt.Errorf("%w: two records have the number %d", wire.ErrMalformed, numbers[i])
		}
	}
	return nil
}
