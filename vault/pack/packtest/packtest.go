// Package packtest makes packs that no writer makes, for tests of those that read them:
// a pack.Writer opens and checks all that it stores, and so stores no lie.
//
// It is for tests alone, needs nothing but the vault's keys, and returns the bytes of the
// object: who calls stores it and makes an index run lead to it.
package packtest

import (
	"bytes"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// noDirectory is how many bytes stand in the place of the directory.
const noDirectory = 200

// Lying makes a pack with one record that holds one chunk: stored under codec, it is said
// to be plain bytes that have this ID, whatever it is. The object is a header and a box,
// with zeros for a directory; a reader that has the box's place from an index run needs
// none. The returned directory is what that run is made of.
func Lying(ring *key.Ring, typ uint8, codec chunk.Codec, stored []byte, plain uint32, id chunk.ID) (object []byte, dir pack.Directory, err error) {
	packID, err := pack.NewID(nil)
	if err != nil {
		return nil, dir, err
	}
	var b bytes.Buffer
	w, err := pack.NewWriter(ring, typ, packID, &b, pack.Options{})
	if err != nil {
		return nil, dir, err
	}
	rec := pack.Record{Codec: codec, Plain: plain, Offset: uint32(b.Len()), Chunks: []pack.Chunk{{ID: id, Length: plain}}}
	box := w.Seal(nil, rec.Number, codec, stored, plain)
	rec.Stored = uint32(len(box))
	b.Write(box)
	b.Write(make([]byte, noDirectory))
	b.Write(make([]byte, pack.PaddedLength(uint64(b.Len()))-uint64(b.Len())))
	dir = pack.Directory{ID: packID, Type: typ, Length: uint64(b.Len()), Records: []pack.Record{rec}}
	dir.Stamp()
	return b.Bytes(), dir, nil
}
