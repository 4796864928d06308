// Package chunk turns bytes into the pieces that a vault stores, and back:
// a [Cutter] splits a file by content, a [Hasher] names a piece by a keyed
// checksum, a [Compressor] shrinks records of pieces, and a [Sealer] encrypts
// them. Docs: docs/FORMAT.md §2 and §6, docs/decisions/0002-chunk-parameters.md.
//
// On disk: a box is nonce (12) || ciphertext || tag (16) of AES-256-GCM. What
// is in it is the record as it is ([CodecPlain]) or one zstd frame ([CodecZstd]).
//
// Errors: [ErrAuth] where a box is not what was sealed, [ErrMalformed] where a
// frame is not what a Compressor writes. Both mean that the data can't be used.
// A Cutter returns the errors of its reader, wrapped.
//
// Concurrency: a [Sealer] and a [Polynomial] may be shared. Hasher, Cutter,
// Compressor and Decompressor own buffers so that they need not allocate for
// each call, and are for one goroutine at a time.
//
// Security: all that is read back is taken to be hostile until its box opened
// and its ID was compared. Lengths are checked before anything is allocated for
// them, and no function needs more than [MaxChunk] bytes and a constant. Where a
// file is cut depends on a secret of the vault, so that the sizes of pieces tell
// little of known files; hiding the sizes is the task of the packs (vault/pack).
//
// The package is pure: no files, no network, no clock, no logger. It does not
// know vaults, packs or manifests, and it keeps nothing from one call to the
// next but buffers.
package chunk

// MaxChunk is the most bytes that a chunk, and the plaintext of a record, may
// have: what a reader must be able to hold (docs/FORMAT.md §13).
const MaxChunk = 8 << 20
