package log

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/stage"
	"github.com/tharsis-backup/tharsis/internal/wire"
	"github.com/tharsis-backup/tharsis/vault/key"
)

const (
	// MaxObjectBytes bounds the object of an entry: a full body and what is
	// around it, rounded up.
	MaxObjectBytes = MaxBodyBytes + 1024

	signatureBytes = ed25519.SignatureSize
)

// Entry is one entry of the log, opened.
type Entry struct {
	Seq    uint64
	Prev   [32]byte // hash of the object before it, zero in entry 0
	Time   int64    // the writer's clock, ns since 1970
	Nonce  [16]byte // random, settles whether an ambiguous Put was one's own
	Writer PublicKey
	Body   Body
}

// Seal gives the object that stores e, signed by signer, whose public key it
// sets as the writer. Two calls give two objects: the box's nonce is random.
func (e *Entry) Seal(ring *key.Ring, signer ed25519.PrivateKey) ([]byte, error) {
	e.Writer = PublicOf(signer)
	plain, err := e.encode(ring.Vault, signer)
	if err != nil {
		return nil, err
	}
	stage.Pass(stage.EntryPlain, plain)
	s := sealer(ring, e.Seq)
	object := make([]byte, 0, key.HeaderBytes+len(plain)+chunk.BoxOverhead)
	object = key.AppendHeader(object, key.TypeLog, s)
	object = s.Seal(object, plain, entryAAD(ring.Vault, e.Seq))
	stage.Pass(stage.EntryBox, object)
	return object, nil
}

// sealVerified is Seal, and then what a reader will do with the object: it opens, it
// is signed, and it says what e says. It returns stage.ErrSpoilt where it doesn't.
func (e *Entry) sealVerified(ring *key.Ring, signer ed25519.PrivateKey) (*stage.Bytes, error) {
	object, err := e.Seal(ring, signer)
	if err != nil {
		return nil, err
	}
	checked := stage.Check(object) // before it is opened: what changes later is found when it is read
	got, err := OpenEntry(ring, e.Seq, object)
	if err == nil && !got.same(e) {
		err = errors.New("it says something else")
	}
	if err != nil {
		return nil, fmt.Errorf("verify sealed entry: %w: %v", stage.ErrSpoilt, err)
	}
	stage.Pass(stage.EntryReady, object)
	return checked, nil
}

// same tells whether two entries are equal.
func (e *Entry) same(o *Entry) bool {
	a, aerr := EncodeBody(e.Body)
	b, berr := EncodeBody(o.Body)
	return aerr == nil && berr == nil && bytes.Equal(a, b) && e.Body.Type() == o.Body.Type() &&
		e.Seq == o.Seq && e.Prev == o.Prev && e.Time == o.Time && e.Nonce == o.Nonce && e.Writer == o.Writer
}

// OpenEntry opens the object of entry seq and checks all that it says but its
// place in the chain: whether Prev is the hash of the entry before. Its errors
// wrap key.ErrDamaged or key.ErrNewer.
func OpenEntry(ring *key.Ring, seq uint64, object []byte) (*Entry, error) {
	e, _, err := openEntry(ring, seq, object, nil, false)
	return e, err
}

// openEntry is OpenEntry with a buffer for the plaintext, which it returns.
// Only with signed, when the signature was checked before, it is not again.
func openEntry(ring *key.Ring, seq uint64, object, buf []byte, signed bool) (*Entry, []byte, error) {
	if len(object) > MaxObjectBytes {
		return nil, buf, fmt.Errorf("%w: %d bytes", key.ErrDamaged, len(object))
	}
	s := sealer(ring, seq)
	if err := key.CheckHeader(object, key.TypeLog, s); err != nil {
		return nil, buf, err
	}
	plain, err := s.Open(buf[:0], object[key.HeaderBytes:], entryAAD(ring.Vault, seq))
	if err != nil {
		return nil, buf, fmt.Errorf("%w: %w", key.ErrDamaged, err)
	}
	e, err := decodeEntry(plain)
	switch {
	case err != nil:
		return nil, plain, fmt.Errorf("%w: %w", key.ErrDamaged, err)
	case e.Seq != seq:
		return nil, plain, fmt.Errorf("%w: entry %d stands in its place", key.ErrDamaged, e.Seq)
	case !signed && !signatureHolds(ring.Vault, e.Writer, plain):
		return nil, plain, fmt.Errorf("%w: the signature does not hold", key.ErrDamaged)
	}
	return e, plain, nil
}

// encode gives the signed plaintext.
func (e *Entry) encode(vault key.VaultID, signer ed25519.PrivateKey) ([]byte, error) {
	body, err := EncodeBody(e.Body)
	if err != nil {
		return nil, err
	}
	b := e.appendFields(nil, body)
	stage.Pass(stage.EntryField, b)
	return append(b, ed25519.Sign(signer, signedMessage(vault, b))...), nil
}

// appendFields appends all fields but the signature.
func (e *Entry) appendFields(b, body []byte) []byte {
	b = wire.AppendU64(b, e.Seq)
	b = append(b, e.Prev[:]...)
	b = append(b, byte(e.Body.Type()))
	b = wire.AppendU64(b, uint64(e.Time))
	b = append(b, e.Nonce[:]...)
	b = append(b, e.Writer[:]...)
	b = wire.AppendU32(b, uint32(len(body)))
	return append(b, body...)
}

// decodeEntry decodes a plaintext, without a look at its signature.
func decodeEntry(plain []byte) (*Entry, error) {
	var e Entry
	d := wire.NewDecoder(plain)
	e.Seq = d.U64()
	d.Fixed(e.Prev[:])
	t := Type(d.U8())
	e.Time = d.I64()
	d.Fixed(e.Nonce[:])
	d.Fixed(e.Writer[:])
	n := d.U32()
	if n > MaxBodyBytes {
		d.Fail("body of %d bytes", n)
	}
	body := d.Bytes(int(n))
	d.Bytes(signatureBytes)
	if err := d.Done(); err != nil {
		return nil, err
	}
	var err error
	e.Body, err = DecodeBody(t, body)
	return &e, err
}

// signatureHolds checks the signature at the end of a decoded plaintext.
func signatureHolds(vault key.VaultID, writer PublicKey, plain []byte) bool {
	at := len(plain) - signatureBytes
	return ed25519.Verify(writer[:], signedMessage(vault, plain[:at]), plain[at:])
}

func signedMessage(vault key.VaultID, fields []byte) []byte {
	const purpose = "tharsis/0/log-entry"
	m := make([]byte, 0, len(purpose)+len(vault)+len(fields))
	m = append(m, purpose...)
	m = append(m, vault[:]...)
	return append(m, fields...)
}

func entryAAD(vault key.VaultID, seq uint64) []byte {
	aad := append([]byte("tharsis/0/log"), vault[:]...)
	return binary.LittleEndian.AppendUint64(aad, seq)
}

func sealer(ring *key.Ring, seq uint64) *chunk.Sealer {
	var id [8]byte
	binary.LittleEndian.PutUint64(id[:], seq)
	return ring.Sealer(key.TypeLog, id[:])
}

func entryName(seq uint64) string { return fmt.Sprintf("log/%016x", seq) }

func bundleName(n uint64) string { return fmt.Sprintf("bundle/%016x", n) }
