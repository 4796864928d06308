package chunk

import (
	"crypto/hmac"
	"crypto/sha256"
	"hash"
)

// Hasher computes IDs under one key. It is for one goroutine at a time.
type Hasher struct {
	mac hash.Hash
	// sum is a field so that handing it to the interface does not allocate.
	sum ID
}

// NewHasher makes a Hasher for chunks (the key is key.Ring's ChunkID) or for
// pages (PageID).
func NewHasher(k Key) *Hasher {
	return &Hasher{mac: hmac.New(sha256.New, k[:])}
}

// Sum is the ID of a chunk or page with the plaintext b. It does not allocate.
func (h *Hasher) Sum(b []byte) ID {
	h.mac.Reset()
	h.mac.Write(b)
	h.mac.Sum(h.sum[:0])
	return h.sum
}
