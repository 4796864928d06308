package chunk

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
)

// BoxOverhead is how many bytes longer than its plaintext a sealed box is: a
// 12-byte nonce before it and a 16-byte tag behind it (docs/FORMAT.md §2).
const BoxOverhead = 12 + 16

// ErrAuth is returned by [Sealer.Open] where a box was not sealed under this
// key with this additional data: it was altered, cut, or stands in for another.
var ErrAuth = errors.New("authentication failed")

// Key is a 256-bit symmetric key.
type Key [32]byte

// Commitment pins down the key of an object (docs/FORMAT.md §3): AES-GCM alone
// lets one ciphertext open under several keys.
type Commitment [32]byte

// Equal compares in constant time.
func (c Commitment) Equal(d Commitment) bool { return subtle.ConstantTimeCompare(c[:], d[:]) == 1 }

// Expand derives length bytes from secret, a uniform key, for one use named by
// info: HKDF-SHA-256, Expand only (RFC 5869). length is at most 8,160.
func Expand(secret []byte, info string, length int) []byte {
	out, err := hkdf.Expand(sha256.New, secret, info, length)
	if err != nil {
		panic(fmt.Sprintf("chunk: internal error: expand %d bytes: %v", length, err))
	}
	return out
}

// Sealer seals and opens the boxes of one object under the object's own key.
// It is safe for concurrent use.
type Sealer struct {
	aead cipher.AEAD
	// Commitment stands in the object's header; a reader compares it first.
	Commitment Commitment
}

// NewSealer derives the key and the commitment of the object of a type with an
// ID from the purpose key, as docs/FORMAT.md §2 says.
func NewSealer(purpose Key, objectType uint8, objectID []byte) *Sealer {
	info := "tharsis/0/object" + string([]byte{objectType}) + string(objectID)
	return SealerFrom(Expand(purpose[:], info, 64))
}

// SealerFrom makes a Sealer of 64 derived bytes: the key, then the commitment.
func SealerFrom(material []byte) *Sealer {
	block, err := aes.NewCipher(material[:32])
	if err != nil {
		panic("chunk: internal error: " + err.Error())
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic("chunk: internal error: " + err.Error())
	}
	return &Sealer{aead: aead, Commitment: Commitment(material[32:64])}
}

// Seal appends the box of plaintext, bound to aad, to dst. dst's spare capacity
// must not overlap plaintext.
func (s *Sealer) Seal(dst, plaintext, aad []byte) []byte {
	return s.aead.Seal(dst, nil, plaintext, aad)
}

// Open appends the plaintext of box to dst, or returns ErrAuth.
func (s *Sealer) Open(dst, box, aad []byte) ([]byte, error) {
	out, err := s.aead.Open(dst, nil, box, aad)
	if err != nil {
		return nil, ErrAuth
	}
	return out, nil
}
