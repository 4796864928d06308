package vault

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

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
	return v.CheckRecords(ctx, &dir, func(_ pack.Record, err error) error { return err })
}

// packReadBytes is how much of a pack a check reads at once.
const packReadBytes = 1 << 20

// CheckRecords reads the records that a directory tells of, in the order of the pack,
// and opens and checks each. bad is told of those that are not what they should be; its
// error ends the work. Other errors are of the whole pack: it cannot be read, or ends
// too early.
func (v *Vault) CheckRecords(ctx context.Context, dir *pack.Directory, bad func(pack.Record, error) error) error {
	o, err := pack.NewOpener(v.Ring, dir.Type, dir.ID)
	if err != nil {
		return err
	}
	r, err := v.Backend.Get(ctx, pack.Name(dir.ID), 0, int64(dir.Length))
	if err != nil {
		return err
	}
	defer r.Close()
	dec, err := chunk.NewDecompressor()
	if err != nil {
		return err
	}
	hasher := chunk.NewHasher(v.Ring.ChunkID)
	if dir.Type == key.TypeManifestPack {
		hasher = chunk.NewHasher(v.Ring.PageID)
	}
	in := bufio.NewReaderSize(r, int(min(dir.Length, packReadBytes)))
	var box, plain []byte
	at := uint32(0)
	for _, rec := range dir.Records {
		if _, err := io.CopyN(io.Discard, in, int64(rec.Offset-at)); err != nil {
			return shortRead(err)
		}
		if cap(box) < int(rec.Stored) {
			box = make([]byte, rec.Stored)
		}
		if _, err := io.ReadFull(in, box[:rec.Stored]); err != nil {
			return shortRead(err)
		}
		at = rec.Offset + rec.Stored
		out, err := o.OpenRecord(plain[:0], rec, box[:rec.Stored], dec)
		if err == nil {
			plain = out
			err = pack.CheckChunks(hasher, rec, out)
		}
		if err != nil {
			if err := bad(rec, err); err != nil {
				return err
			}
		}
	}
	return nil
}

func shortRead(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it is too short", key.ErrDamaged)
	}
	return err
}
