package vault

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/wire"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// AppendDirectory appends a pack's directory in a form for a machine's own
// journal; it is no part of the vault's format.
func AppendDirectory(b []byte, d pack.Directory) []byte {
	b = append(b, d.ID[:]...)
	b = append(b, d.Type)
	b = wire.AppendUvarint(b, d.Length)
	b = wire.AppendUvarint(b, uint64(len(d.Records)))
	for _, r := range d.Records {
		for _, v := range []uint32{r.Number, uint32(r.Codec), r.Plain, r.Stored, r.Offset} {
			b = wire.AppendUvarint(b, uint64(v))
		}
		b = wire.AppendUvarint(b, uint64(len(r.Chunks)))
		for _, c := range r.Chunks {
			b = append(b, c.ID[:]...)
			b = wire.AppendUvarint(b, uint64(c.Length))
		}
	}
	return b
}

// DecodeDirectory reads what AppendDirectory wrote.
func DecodeDirectory(raw []byte) (pack.Directory, error) {
	d := wire.NewDecoder(raw)
	var dir pack.Directory
	d.Fixed(dir.ID[:])
	dir.Type = d.U8()
	dir.Length = d.Uvarint(pack.MaxLength)
	dir.Records = make([]pack.Record, d.Count(pack.MaxRecords, 6))
	u32 := func() uint32 { return uint32(d.Uvarint(1<<32 - 1)) }
	for i := range dir.Records {
		r := &dir.Records[i]
		r.Number, r.Codec, r.Plain, r.Stored, r.Offset = u32(), chunk.Codec(u32()), u32(), u32(), u32()
		r.Chunks = make([]pack.Chunk, d.Count(pack.MaxChunks, 33))
		for k := range r.Chunks {
			d.Fixed(r.Chunks[k].ID[:])
			r.Chunks[k].Length = u32()
		}
	}
	if err := d.Done(); err != nil {
		return pack.Directory{}, fmt.Errorf("read pack directory: %w", err)
	}
	dir.Stamp()
	return dir, nil
}

// HasPack tells whether the backend has a pack of just the directory's length. An
// error says nothing about the pack.
func (v *Vault) HasPack(ctx context.Context, d pack.Directory) (bool, error) {
	r, err := v.Backend.Get(ctx, pack.Name(d.ID), int64(d.Length)-1, 2)
	if errors.Is(err, backend.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for pack %s: %w", d.ID.Short(), err)
	}
	defer r.Close()
	n, err := io.Copy(io.Discard, io.LimitReader(r, 2))
	if err != nil {
		return false, fmt.Errorf("look for pack %s: %w", d.ID.Short(), err)
	}
	return n == 1, nil
}
