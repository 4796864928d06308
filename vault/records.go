package vault

import (
	"context"
	"errors"
	"fmt"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/index"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// keptRecordBytes bounds the decoded records that a RecordReader keeps: some
// segments, since files that lie together are needed together.
const keptRecordBytes = 32 << 20

// RecordReader reads chunks and pages one after the other and keeps the records
// that it decoded last. It is for one goroutine.
type RecordReader struct {
	blobs   *Blobs
	scratch *Scratch
	kept    map[recordKey][]byte
	order   []recordKey
	bytes   int
}

type recordKey struct {
	pack   chunk.ID
	number uint32
}

// NewRecordReader makes one.
func (v *Vault) NewRecordReader() (*RecordReader, error) {
	s, err := v.NewScratch()
	if err != nil {
		return nil, err
	}
	return &RecordReader{blobs: v.NewBlobs(), scratch: s, kept: map[recordKey][]byte{}}, nil
}

// Chunk reads a chunk or page from the first of some places where it is whole, and
// tells the type of that pack. What it returns is valid until the next call.
func (r *RecordReader) Chunk(ctx context.Context, places []index.Location, id chunk.ID) (data []byte, typ uint8, err error) {
	var first error
	for i := range places {
		l := &places[i]
		plain, err := r.record(ctx, l)
		if err == nil && uint64(l.Offset)+uint64(l.Length) > uint64(len(plain)) {
			// Of a record that another run describes otherwise.
			err = fmt.Errorf("%w: the index points outside of the record", key.ErrDamaged)
		}
		if err == nil {
			data = plain[l.Offset : l.Offset+l.Length]
			err = r.scratch.Check(l.Type, id, data)
		}
		if err == nil {
			return data, l.Type, nil
		}
		if !errors.Is(err, key.ErrDamaged) {
			return nil, 0, err
		}
		if first == nil {
			first = err
		}
	}
	return nil, 0, fmt.Errorf("read chunk %s: %w", id.Short(), first)
}

func (r *RecordReader) record(ctx context.Context, l *index.Location) ([]byte, error) {
	k := recordKey{l.Pack, l.Number}
	if plain, ok := r.kept[k]; ok {
		return plain, nil
	}
	plain, err := r.blobs.record(ctx, pack.Name(l.Pack), l, r.scratch, make([]byte, 0, l.Plain))
	if err != nil {
		return nil, err
	}
	for len(r.order) > 0 && r.bytes+len(plain) > keptRecordBytes {
		r.bytes -= len(r.kept[r.order[0]])
		delete(r.kept, r.order[0])
		r.order = r.order[1:]
	}
	r.kept[k] = plain
	r.order = append(r.order, k)
	r.bytes += len(plain)
	return plain, nil
}
