package key

import (
	"encoding/binary"

	"github.com/tharsis-backup/tharsis/chunk"
)

// VaultID names a vault: 16 random bytes, drawn by init.
type VaultID [16]byte

// Root is a vault's root key, from which all others are derived.
type Root [32]byte

// The types of objects, as in their headers (docs/FORMAT.md §3).
const (
	TypeConfig       uint8 = 1
	TypeSlot         uint8 = 2
	TypeDataPack     uint8 = 3
	TypeManifestPack uint8 = 4
	TypeIndex        uint8 = 5
	TypeLog          uint8 = 6
	TypeBundle       uint8 = 7
)

// Ring holds the keys that the root key of one vault gives. It is immutable and
// safe for concurrent use.
type Ring struct {
	Vault VaultID
	// ChunkID and PageID key the checksums that name chunks and pages.
	ChunkID chunk.Key
	PageID  chunk.Key
	// Chunker is the secret that the cutting of files depends on.
	Chunker chunk.Key
	// Cache authenticates a machine's derived data. It is never used in the vault.
	Cache chunk.Key

	pack, manifest, index, log chunk.Key
}

// NewRing derives the keys of a vault (docs/FORMAT.md §2), epoch 0.
func NewRing(id VaultID, root Root) *Ring {
	derive := func(purpose string) chunk.Key {
		info := append([]byte("tharsis/0/"+purpose+"\x00"), id[:]...)
		info = binary.LittleEndian.AppendUint16(info, 0)
		return chunk.Key(chunk.Expand(root[:], string(info), 32))
	}
	return &Ring{
		Vault:    id,
		ChunkID:  derive("chunk-id"),
		PageID:   derive("page-id"),
		Chunker:  derive("chunker"),
		Cache:    derive("cache"),
		pack:     derive("pack"),
		manifest: derive("manifest"),
		index:    derive("index"),
		log:      derive("log"),
	}
}

// Sealer gives the key of one pack, index run or log entry. objectType must be
// one of those types.
func (r *Ring) Sealer(objectType uint8, objectID []byte) *chunk.Sealer {
	switch objectType {
	case TypeDataPack:
		return chunk.NewSealer(r.pack, objectType, objectID)
	case TypeManifestPack:
		return chunk.NewSealer(r.manifest, objectType, objectID)
	case TypeIndex:
		return chunk.NewSealer(r.index, objectType, objectID)
	case TypeLog:
		return chunk.NewSealer(r.log, objectType, objectID)
	}
	panic("key: internal error: objects of this type are not sealed by the ring")
}
