package log

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// PointID names a recovery point: 16 random bytes, the ID of the job that made it.
type PointID [16]byte

// MachineID names a protected machine: 16 random bytes, never its host name.
type MachineID [16]byte

// SourceID names a source, which is one path of one machine.
type SourceID [16]byte

// SlotID names a key slot; it is the slot's object name below keys/.
type SlotID [16]byte

// PublicKey is the Ed25519 public key that a machine or an admin signs under.
type PublicKey [32]byte

// String is the ID in 32 lower-case hex digits.
func (id PointID) String() string { return hex.EncodeToString(id[:]) }

// String is the ID in 32 lower-case hex digits.
func (id MachineID) String() string { return hex.EncodeToString(id[:]) }

// String is the ID in 32 lower-case hex digits.
func (id SourceID) String() string { return hex.EncodeToString(id[:]) }

// String is the ID in 32 lower-case hex digits.
func (id SlotID) String() string { return hex.EncodeToString(id[:]) }

// String is the key in 64 lower-case hex digits.
func (k PublicKey) String() string { return hex.EncodeToString(k[:]) }

// Short is the start of the ID, for messages; PointByPrefix takes it back.
func (id PointID) Short() string { return hex.EncodeToString(id[:4]) }

// ParsePointID reads the 32 hex digits that String writes.
func ParsePointID(s string) (PointID, error) {
	id, err := parse16("point ID", s)
	return PointID(id), err
}

// ParseMachineID reads the 32 hex digits that String writes.
func ParseMachineID(s string) (MachineID, error) {
	id, err := parse16("machine ID", s)
	return MachineID(id), err
}

func parse16(what, s string) (id [16]byte, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("parse %s %q: not 32 hex digits", what, s)
	}
	return [16]byte(b), nil
}

// NewSourceID gives the ID of the source at path, in the raw bytes of the
// operating system, on a machine.
func NewSourceID(machine MachineID, path string) SourceID {
	h := sha256.New()
	h.Write([]byte("tharsis/0/source"))
	h.Write(machine[:])
	h.Write([]byte(path))
	return SourceID(h.Sum(nil)[:16])
}

// PublicOf is the public half of a signing key.
func PublicOf(signer ed25519.PrivateKey) PublicKey {
	return PublicKey(signer.Public().(ed25519.PublicKey))
}
