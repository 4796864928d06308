package pack

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/key"
)

// TailBytes is what a reader of a directory reads first of an object's end: it
// holds the directory of most packs, and costs a request little.
const TailBytes = 64 << 10

// minLength is the length of the shortest pack: header, a box of one byte, a
// directory of one record and the trailer.
const minLength uint64 = key.HeaderBytes + minStored + chunk.BoxOverhead + 1 + uint64(minRecordBytes) + trailerBytes

// DirectoryBytes tells how many bytes of the end of a pack of length bytes
// ParseDirectory needs. end is any end of the object, of at least 4 bytes.
func DirectoryBytes(length uint64, end []byte) (int, error) {
	if length < minLength || length > MaxLength || !IsPadded(length) {
		return 0, fmt.Errorf("%w: %d bytes is not the length of a pack", key.ErrDamaged, length)
	}
	if len(end) < trailerBytes {
		return 0, fmt.Errorf("%w: %d bytes hold no trailer", key.ErrDamaged, len(end))
	}
	box := uint64(binary.LittleEndian.Uint32(end[len(end)-trailerBytes:]))
	if box < chunk.BoxOverhead+1+uint64(minRecordBytes) || box > chunk.BoxOverhead+MaxDirectory ||
		box > length-trailerBytes-key.HeaderBytes-minStored {
		return 0, fmt.Errorf("%w: directory of %d bytes in a pack of %d", key.ErrDamaged, box, length)
	}
	return int(box) + trailerBytes, nil
}

// ParseDirectory opens the directory of the pack of length bytes from tail, an
// end of the object that has at least the bytes that [DirectoryBytes] tells. tail
// is not changed. The caller has checked the header.
func (o *Opener) ParseDirectory(length uint64, tail []byte) (Directory, error) {
	need, err := DirectoryBytes(length, tail)
	if err != nil {
		return Directory{}, o.directoryError(err)
	}
	if len(tail) < need {
		return Directory{}, o.directoryError(fmt.Errorf("%w: need %d bytes, have %d", key.ErrDamaged, need, len(tail)))
	}
	box := tail[len(tail)-need : len(tail)-trailerBytes]
	plain, err := o.sealer.Open(nil, box, o.directoryAAD(length))
	if err != nil {
		return Directory{}, o.directoryError(fmt.Errorf("%w: %w", key.ErrDamaged, err))
	}
	records, err := decodeDirectory(plain, length-uint64(need))
	if err != nil {
		return Directory{}, o.directoryError(fmt.Errorf("%w: %w", key.ErrDamaged, err))
	}
	d := Directory{ID: o.id, Type: o.packType, Length: length, Records: records}
	d.Stamp()
	return d, nil
}

func (o *Opener) directoryError(err error) error {
	return fmt.Errorf("read directory of pack %s: %w", o.id.Short(), err)
}

// ReadDirectory reads the header and the directory of the pack id, whose object
// has length bytes: two requests, three where the directory is long.
func ReadDirectory(ctx context.Context, b backend.Backend, ring *key.Ring, packType uint8, id chunk.ID, length uint64) (Directory, error) {
	o, err := NewOpener(ring, packType, id)
	if err != nil {
		return Directory{}, err
	}
	if length < minLength || length > MaxLength {
		return Directory{}, o.directoryError(fmt.Errorf("%w: %d bytes is not the length of a pack", key.ErrDamaged, length))
	}
	name := Name(id)
	header := make([]byte, key.HeaderBytes)
	if err := ReadRange(ctx, b, name, 0, header); err != nil {
		return Directory{}, o.directoryError(err)
	}
	if err := o.CheckHeader(header); err != nil {
		return Directory{}, err
	}
	tail := make([]byte, min(length, TailBytes))
	if err := ReadRange(ctx, b, name, int64(length)-int64(len(tail)), tail); err != nil {
		return Directory{}, o.directoryError(err)
	}
	need, err := DirectoryBytes(length, tail)
	if err != nil {
		return Directory{}, o.directoryError(err)
	}
	if need > len(tail) {
		tail = make([]byte, need)
		if err := ReadRange(ctx, b, name, int64(length)-int64(need), tail); err != nil {
			return Directory{}, o.directoryError(err)
		}
	}
	return o.ParseDirectory(length, tail)
}

// FindDirectory is ReadDirectory for a pack whose type is not known. It returns the
// directory's error where neither type fits.
func FindDirectory(ctx context.Context, b backend.Backend, ring *key.Ring, id chunk.ID, length uint64) (Directory, error) {
	var first error
	for _, t := range []uint8{key.TypeDataPack, key.TypeManifestPack} {
		dir, err := ReadDirectory(ctx, b, ring, t, id, length)
		if err == nil || !errors.Is(err, key.ErrDamaged) && !errors.Is(err, key.ErrNewer) {
			return dir, err
		}
		if first == nil {
			first = err
		}
	}
	return Directory{}, first
}

// ReadRange fills p from offset off of an object. An object that ends before is
// reported as damaged.
func ReadRange(ctx context.Context, b backend.Backend, name string, off int64, p []byte) error {
	r, err := b.Get(ctx, name, off, int64(len(p)))
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	n, err := io.ReadFull(r, p)
	closeErr := r.Close()
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("read %s: %w: it ends at byte %d", name, key.ErrDamaged, off+int64(n))
	case err != nil:
		return fmt.Errorf("read %s: %w", name, err)
	case closeErr != nil:
		return fmt.Errorf("read %s: %w", name, closeErr)
	}
	return nil
}
