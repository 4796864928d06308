package log

import (
	"crypto/ed25519"
	"errors"
	"testing"

	"github.com/tharsis-backup/tharsis/vault/key"
)

// TestAADFields alters each field of the additional data of an entry, bit by bit,
// under the right key, and of what is signed, under the right signature.
func TestAADFields(t *testing.T) {
	ring := key.NewRing(key.VaultID{7}, key.Root{8})
	s := sealer(ring, 5)
	box := s.Seal(nil, []byte("an entry"), entryAAD(ring.Vault, 5))
	opens := func(vault key.VaultID, seq uint64) bool {
		_, err := s.Open(nil, box, entryAAD(vault, seq))
		return err == nil
	}
	signer := ed25519.NewKeyFromSeed(make([]byte, 32))
	fields := []byte("the fields of an entry")
	signature := ed25519.Sign(signer, signedMessage(ring.Vault, fields))
	holds := func(vault key.VaultID, fields []byte) bool {
		return signatureHolds(vault, PublicOf(signer), append(fields[:len(fields):len(fields)], signature...))
	}
	if !opens(ring.Vault, 5) || !holds(ring.Vault, fields) {
		t.Fatal("they do not open")
	}
	for bit := range 128 {
		vault := ring.Vault
		vault[bit/8] ^= 1 << (bit % 8)
		if opens(vault, 5) || holds(vault, fields) {
			t.Errorf("bit %d of the vault ID", bit)
		}
	}
	for bit := range 64 {
		if opens(ring.Vault, 5^1<<bit) {
			t.Errorf("bit %d of the number", bit)
		}
	}
	for bit := range 8 * len(fields) {
		other := append([]byte(nil), fields...)
		if other[bit/8] ^= 1 << (bit % 8); holds(ring.Vault, other) {
			t.Errorf("bit %d of what is signed", bit)
		}
	}
}

// TestEntryOfAnotherVault: an entry of a vault does not open in another one, not even
// one of the same root key, nor under another number.
func TestEntryOfAnotherVault(t *testing.T) {
	root := key.Root{8}
	signer := ed25519.NewKeyFromSeed(make([]byte, 32))
	e := &Entry{Seq: 5, Body: &Purge{Points: []PointID{{1}}}}
	object, err := e.Seal(key.NewRing(key.VaultID{7}, root), signer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenEntry(key.NewRing(key.VaultID{7}, root), 5, object); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenEntry(key.NewRing(key.VaultID{9}, root), 5, object); !errors.Is(err, key.ErrDamaged) {
		t.Errorf("in another vault: %v", err)
	}
	if _, err := OpenEntry(key.NewRing(key.VaultID{7}, root), 6, object); !errors.Is(err, key.ErrDamaged) {
		t.Errorf("under another number: %v", err)
	}
}
