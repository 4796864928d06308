package vault

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

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
	s := r.scratch
	if cap(s.box) < int(l.Stored) {
		s.box = make([]byte, l.Stored)
	}
	if err := r.blobs.ReadRange(ctx, pack.Name(l.Pack), int64(l.RecordOffset), s.box[:l.Stored]); err != nil {
		return nil, err
	}
	plain, err := r.blobs.Decode(make([]byte, 0, l.Plain), l, s.box[:l.Stored], s)
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

// CheckPack reads a pack from end to end and compares it with the directory that
// its writer has.
func (v *Vault) CheckPack(ctx context.Context, want pack.Directory) error {
	dir, err := pack.ReadDirectory(ctx, v.Backend, v.Ring, want.Type, want.ID, want.Length)
	if err != nil {
		return err
	}
	if len(dir.Records) != len(want.Records) {
		return fmt.Errorf("%w: it has %d records and not %d", key.ErrDamaged, len(dir.Records), len(want.Records))
	}
	body, err := v.Backend.Get(ctx, pack.Name(want.ID), 0, int64(want.Length))
	if err != nil {
		return err
	}
	defer body.Close()
	s, err := v.NewScratch()
	if err != nil {
		return err
	}
	o, err := pack.NewOpener(v.Ring, want.Type, want.ID)
	if err != nil {
		return err
	}
	return s.checkRecords(bufio.NewReaderSize(body, checkReadBytes), o, dir)
}

// checkReadBytes is how much of a pack is read at once to check it.
const checkReadBytes = 1 << 20

func (s *Scratch) checkRecords(in io.Reader, o *pack.Opener, dir pack.Directory) error {
	if _, err := io.CopyN(io.Discard, in, key.HeaderBytes); err != nil {
		return err
	}
	hasher := s.chunk
	if dir.Type == key.TypeManifestPack {
		hasher = s.page
	}
	var plain []byte
	for _, rec := range dir.Records {
		if cap(s.box) < int(rec.Stored) {
			s.box = make([]byte, rec.Stored)
		}
		if _, err := io.ReadFull(in, s.box[:rec.Stored]); err != nil {
			return err
		}
		var err error
		if plain, err = o.OpenRecord(plain[:0], rec, s.box[:rec.Stored], s.dec); err != nil {
			return err
		}
		if err := pack.CheckChunks(hasher, rec, plain); err != nil {
			return err
		}
	}
	return nil
}
