// Package pack writes and reads packs: the objects that hold what was backed up
// (docs/FORMAT.md §6).
//
// On disk: header (40) | record boxes | directory box | its length (u32). A
// record is a sealed run of chunks: one large chunk, or a segment of many small
// ones. The directory, sealed too, lists the records with the IDs of their
// chunks, and is padded so that the object's length is a Padmé size.
//
// Use: [NewWriter], then for each record Reserve, Seal, a [Verifier]'s Verify and
// Append, at last Finish. Back: [ReadDirectory] or an [Opener]'s ParseDirectory, and
// OpenRecord with [CheckChunks].
//
// Errors: all that a reader finds wrong with an object wraps key.ErrDamaged (or
// key.ErrNewer); errors of the backend are wrapped as they are. A Writer returns
// [ErrFull] and [ErrFinished]; after another error it is of no more use.
//
// Concurrency: a Writer and an Opener may be shared; a Verifier is for one
// goroutine at a time, as its decompressor is.
//
// Security: what is read is taken to be hostile. Every length is checked against
// a limit before anything is allocated for it, every byte of a pack is
// authenticated, padding included, and bound to the vault, the pack and its
// place in the pack. The operator of the vault learns the sizes of packs; that of
// single records is hidden only by putting them into random ones of several open
// packs, which is the caller's task.
//
// The package stores nothing: a Writer writes to the caller's file or buffer,
// and who puts it into the vault, and when, is decided above.
package pack

import (
	"crypto/rand"
	"fmt"
	"io"
	"strings"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/stage"
	"github.com/tharsis-backup/tharsis/internal/wire"
	"github.com/tharsis-backup/tharsis/vault/key"
)

// Limits of docs/FORMAT.md §6 and §13. A reader rejects what is above them.
const (
	// MaxLength bounds a pack in bytes, so that offsets fit into a u32 with room.
	MaxLength = 256 << 20
	// MaxRecords and MaxChunks bound a directory, so that it fits into memory.
	MaxRecords = 65_536
	MaxChunks  = 131_072
	// MaxRecordChunks bounds the chunks of one record.
	MaxRecordChunks = 65_536
	// MaxStored bounds a record's box: a chunk, what zstd adds at worst, the box.
	MaxStored = chunk.MaxChunk + 64<<10
	// MaxDirectory bounds a directory's plaintext, padding included.
	MaxDirectory = 24 << 20

	minStored    = chunk.BoxOverhead + 1
	trailerBytes = 4
)

// Chunk is a piece of a record's plaintext; it begins where the one before ends.
type Chunk struct {
	ID     chunk.ID
	Length uint32 // bytes, 1 to chunk.MaxChunk

	sum uint32 // of the content and the ID, by NameChunk; 0 is unknown
}

// NameChunk makes the chunk of data, which is not empty. Its checksum, by which a
// Verifier finds what changed since, is taken first: so it also finds what changed
// before the ID was computed.
func NameChunk(ids *chunk.Hasher, data []byte) Chunk {
	sum := stage.Sum(0, data)
	c := Chunk{ID: ids.Sum(data), Length: uint32(len(data))}
	c.sum = stage.Sum(sum, c.ID[:])
	return c
}

// Record is one sealed box of a pack, as the directory tells of it.
type Record struct {
	Number uint32      // unique within the pack, part of what authenticates the box
	Codec  chunk.Codec // how the plaintext is stored
	Plain  uint32      // bytes of plaintext, 1 to chunk.MaxChunk
	Stored uint32      // bytes of the box
	Offset uint32      // where the box begins in the object
	Chunks []Chunk     // in the order of the plaintext

	// Set by a Verifier: the checksum of the row and the box.
	verified bool
	sum      uint32
}

// Directory tells what a pack holds. One that a Writer or a reader gives knows its
// own checksum, by which Intact finds what changed in memory since.
type Directory struct {
	ID      chunk.ID
	Type    uint8  // key.TypeDataPack or key.TypeManifestPack
	Length  uint64 // bytes of the whole object
	Records []Record

	sum uint32 // 0 is unknown
}

// Stamp gives the directory the checksum of what it has now.
func (d *Directory) Stamp() { d.sum = d.total(d.rows()) }

// Intact returns stage.ErrSpoilt where the records are others than they were when
// the directory got its checksum.
func (d *Directory) Intact() error {
	if d.sum != 0 && d.sum != d.total(d.rows()) {
		return fmt.Errorf("directory of pack %s: %w", d.ID.Short(), stage.ErrSpoilt)
	}
	return nil
}

// rows is the checksum of the records.
func (d *Directory) rows() (sum uint32) {
	var row []byte
	for i := range d.Records {
		row = appendPlaced(row[:0], &d.Records[i])
		sum = stage.Sum(sum, row)
	}
	return sum
}

// total extends the checksum of the records by the rest.
func (d *Directory) total(rows uint32) uint32 {
	b := append(append(make([]byte, 0, 48), d.ID[:]...), d.Type)
	return stage.Sum(rows, wire.AppendU64(b, d.Length))
}

// appendPlaced appends a record's row with what the directory leaves to be counted.
func appendPlaced(b []byte, r *Record) []byte {
	return wire.AppendU32(appendRecord(b, r), r.Offset)
}

// NewID draws the ID of a new pack (or index run) from random, or from
// crypto/rand where random is nil.
func NewID(random io.Reader) (chunk.ID, error) {
	if random == nil {
		random = rand.Reader
	}
	var id chunk.ID
	if _, err := io.ReadFull(random, id[:]); err != nil {
		return chunk.ID{}, fmt.Errorf("draw object ID: %w", err)
	}
	return id, nil
}

// Prefix is what the names of all packs begin with.
const Prefix = "packs/"

// Name is the name of a pack's object: packs/<first 2 hex digits>/<64 hex digits>.
func Name(id chunk.ID) string {
	h := id.String()
	return Prefix + h[:2] + "/" + h
}

// IDOf is the ID of the pack whose object has this name; false for other names.
func IDOf(name string) (id chunk.ID, ok bool) {
	_, digits, _ := strings.Cut(strings.TrimPrefix(name, Prefix), "/")
	id, err := chunk.ParseID(digits)
	if err != nil || Name(id) != name {
		return chunk.ID{}, false
	}
	return id, true
}

// checkType refuses a type that is not a pack's: a mistake of the caller, except
// where the type was read from an index.
func checkType(packType uint8) error {
	if packType != key.TypeDataPack && packType != key.TypeManifestPack {
		return fmt.Errorf("%w: object type %d is not a pack's", key.ErrDamaged, packType)
	}
	return nil
}

// Check tells what is wrong with a record in itself. Writer and reader share it,
// so that neither takes what the other refuses.
func (r *Record) Check() error {
	var sum uint64
	for _, c := range r.Chunks {
		if c.Length < 1 || c.Length > chunk.MaxChunk {
			return fmt.Errorf("chunk of %d bytes", c.Length)
		}
		sum += uint64(c.Length)
	}
	if len(r.Chunks) < 1 || len(r.Chunks) > MaxRecordChunks {
		return fmt.Errorf("%d chunks", len(r.Chunks))
	}
	if sum != uint64(r.Plain) {
		return fmt.Errorf("chunks of %d bytes in a plaintext of %d", sum, r.Plain)
	}
	return r.checkSizes()
}

// checkSizes checks what an index knows of a record, too.
func (r *Record) checkSizes() error {
	switch {
	case r.Codec != chunk.CodecPlain && r.Codec != chunk.CodecZstd:
		return fmt.Errorf("unknown codec %d", uint8(r.Codec))
	case r.Plain < 1 || r.Plain > chunk.MaxChunk:
		return fmt.Errorf("plaintext of %d bytes", r.Plain)
	case r.Stored < minStored || r.Stored > MaxStored:
		return fmt.Errorf("box of %d bytes", r.Stored)
	case r.Codec == chunk.CodecPlain && r.Stored != r.Plain+chunk.BoxOverhead:
		return fmt.Errorf("box of %d bytes holds %d bytes as they are", r.Stored, r.Plain)
	}
	return nil
}
