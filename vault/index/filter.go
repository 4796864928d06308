package index

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/bits"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/key"
)

const (
	// filterBits is how many bits a filter has for a chunk: at 12, it is wrong for
	// one absent chunk in 200, and 10^8 chunks take 150 MB.
	filterBits = 12
	// filterBlockBytes is what a test touches: a cache line of 8 words, one bit each.
	filterBlockBytes = 64

	filterMagic       = "THSF\x01"
	filterHeaderBytes = len(filterMagic) + len(chunk.ID{})
	filterSumBytes    = 4
)

// Filter tells without a look-up that a run does not have a chunk: a Bloom filter
// in blocks of a cache line. It is derived data, kept beside a local copy of the
// run and never in the vault.
//
// It is not authenticated, only guarded by a checksum against rot. A spoilt one may
// deny chunks that are there, and then costs storing them again, no more: so it is
// for deciding what to upload, and never for finding what to restore, to verify or
// to keep.
//
// It holds 1.5 bytes a chunk, is immutable, and safe for concurrent use.
type Filter struct {
	// encoded is the serialised form: magic, run ID, blocks, CRC-32C.
	encoded []byte
	blocks  []byte // the part of encoded
}

// BuildFilter makes the filter of a run by reading its chunk table.
func BuildFilter(ctx context.Context, r *Run) (*Filter, error) {
	n := (uint64(r.counts.Chunks)*filterBits + 8*filterBlockBytes - 1) / (8 * filterBlockBytes)
	f := &Filter{encoded: make([]byte, filterHeaderBytes+int(n)*filterBlockBytes+filterSumBytes)}
	f.blocks = f.encoded[filterHeaderBytes : len(f.encoded)-filterSumBytes]
	copy(f.encoded[copy(f.encoded, filterMagic):], r.id[:])
	for row, err := range r.Chunks(ctx) {
		if err != nil {
			return nil, fmt.Errorf("build filter: %w", err)
		}
		f.add(&row.ID)
	}
	body := f.encoded[:len(f.encoded)-filterSumBytes]
	binary.LittleEndian.PutUint32(f.encoded[len(body):], filterSum(body))
	return f, nil
}

// LoadFilter takes what Bytes returned for the filter of the run id. It keeps b.
// What is wrong with it wraps key.ErrDamaged: the filter is then built again.
func LoadFilter(b []byte, run chunk.ID) (*Filter, error) {
	body := len(b) - filterSumBytes
	blocks := body - filterHeaderBytes
	switch {
	case blocks < filterBlockBytes || blocks%filterBlockBytes != 0 || string(b[:len(filterMagic)]) != filterMagic:
		return nil, fmt.Errorf("load filter: %w: not a filter", key.ErrDamaged)
	case chunk.ID(b[len(filterMagic):filterHeaderBytes]) != run:
		return nil, fmt.Errorf("load filter: %w: it is of another run", key.ErrDamaged)
	case binary.LittleEndian.Uint32(b[body:]) != filterSum(b[:body]):
		return nil, fmt.Errorf("load filter: %w: checksum differs", key.ErrDamaged)
	}
	return &Filter{encoded: b, blocks: b[filterHeaderBytes:body]}, nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func filterSum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// Bytes is the filter as LoadFilter takes it. It must not be changed.
func (f *Filter) Bytes() []byte { return f.encoded }

// MayHave tells whether the run may have the chunk. False is certain, as long as
// the filter is whole.
func (f *Filter) MayHave(id chunk.ID) bool {
	block, h := f.place(&id)
	for i := range 8 {
		if binary.LittleEndian.Uint64(block[8*i:])&(1<<(h>>(6*i)&63)) == 0 {
			return false
		}
	}
	return true
}

func (f *Filter) add(id *chunk.ID) {
	block, h := f.place(id)
	for i := range 8 {
		word := block[8*i:]
		binary.LittleEndian.PutUint64(word, binary.LittleEndian.Uint64(word)|1<<(h>>(6*i)&63))
	}
}

// place is an ID's block, and the hash whose lowest 8 * 6 bits choose a bit of
// each word. IDs are keyed checksums, so that their bytes are as good as any hash.
func (f *Filter) place(id *chunk.ID) ([]byte, uint64) {
	n := uint64(len(f.blocks) / filterBlockBytes)
	i, _ := bits.Mul64(binary.LittleEndian.Uint64(id[8:]), n)
	return f.blocks[i*filterBlockBytes:][:filterBlockBytes], binary.LittleEndian.Uint64(id[16:])
}
