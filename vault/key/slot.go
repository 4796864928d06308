package key

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/stage"
	"github.com/tharsis-backup/tharsis/internal/wire"
)

// ErrWrongKey is returned where a credential does not open a slot: it is another
// one, or the slot's header was altered.
var ErrWrongKey = errors.New("wrong passphrase or recovery key")

// SlotID names a slot: 16 random bytes. Its object is keys/ and the hex of it.
type SlotID [16]byte

// String is the ID in lower-case hex.
func (id SlotID) String() string { return hex.EncodeToString(id[:]) }

// SlotKind says what opens a slot.
type SlotKind uint8

// The kinds of slots.
const (
	KindPassphrase SlotKind = 1
	KindRecovery   SlotKind = 2
)

// String is the kind in words, for messages.
func (k SlotKind) String() string {
	switch k {
	case KindPassphrase:
		return "passphrase"
	case KindRecovery:
		return "recovery key"
	}
	return fmt.Sprintf("slot kind %d", uint8(k))
}

// Secrets is what a slot seals.
type Secrets struct {
	Root Root
	// AdminSeed is the Ed25519 seed of the key that signs as the vault's admin.
	AdminSeed [32]byte
	// Recovery is zero where the vault has none.
	Recovery RecoveryKey
}

// String keeps the secrets out of messages.
func (Secrets) String() string { return "secrets of a vault" }

// GoString keeps the secrets out of %#v.
func (s Secrets) GoString() string { return s.String() }

const (
	slotSaltBytes    = 32
	slotHeaderBytes  = 112
	slotPayloadBytes = 96
	slotBoxBytes     = chunk.BoxOverhead + slotPayloadBytes
	// SlotBytes is the length of a slot's object.
	SlotBytes = slotHeaderBytes + slotBoxBytes
)

// Slot is a key slot: Secrets, sealed under one credential (docs/FORMAT.md §5). A
// reader must check that ID is that of the object's name, Vault that of the config,
// and, once it can read the log, that the log names the object's SHA-256.
type Slot struct {
	ID    SlotID
	Vault VaultID
	Kind  SlotKind
	KDF   KDFParams // zero in a slot of a recovery key

	salt       [slotSaltBytes]byte
	commitment chunk.Commitment
	box        [slotBoxBytes]byte
}

// SlotOptions configures SealSlot.
type SlotOptions struct {
	// Vault is the vault that the slot belongs to.
	Vault VaultID
	// KDF is for passphrases; zero stands for DefaultKDF.
	KDF KDFParams
	// Random gives the ID and the salt; nil stands for crypto/rand.
	Random io.Reader
}

// SealSlot makes a slot that with opens. It returns errors of Random, of parameters
// out of range, and of keys that are zero because somebody forgot to draw them.
func SealSlot(o SlotOptions, with Credential, s Secrets) (Slot, error) {
	if s.Root == (Root{}) {
		return Slot{}, errors.New("seal slot: the root key is zero")
	}
	slot := Slot{Vault: o.Vault, Kind: with.kind}
	if err := fillRandom(o.Random, slot.ID[:]); err != nil {
		return Slot{}, err
	}
	switch with.kind {
	case KindPassphrase:
		slot.KDF = o.KDF
		if slot.KDF == (KDFParams{}) {
			slot.KDF = DefaultKDF()
		}
		if err := slot.KDF.check(); err != nil {
			return Slot{}, fmt.Errorf("seal slot: %w", err)
		}
		if err := fillRandom(o.Random, slot.salt[:]); err != nil {
			return Slot{}, err
		}
	case KindRecovery:
		if with == (RecoveryKey{}).Credential() {
			return Slot{}, errors.New("seal slot: the recovery key is zero")
		}
		s.Recovery = RecoveryKey{} // it needs no copy under itself
	default:
		return Slot{}, errors.New("seal slot: no credential")
	}
	sealer := slot.sealer(with)
	slot.commitment = sealer.Commitment
	payload := slices.Concat(s.Root[:], s.AdminSeed[:], s.Recovery[:])
	slot.box = [slotBoxBytes]byte(sealer.Seal(nil, payload, slot.appendHeader(nil)))
	stage.Pass(stage.SlotBox, slot.box[:])
	// A slot that does not open is found when somebody has nothing else left.
	got, err := sealer.Open(nil, slot.box[:], slot.appendHeader(nil))
	if err != nil || !bytes.Equal(got, payload) {
		return Slot{}, fmt.Errorf("seal slot: %w", stage.ErrSpoilt)
	}
	return slot, nil
}

// sealer derives the slot's key, which for a passphrase takes the memory and time
// that KDF says.
func (s *Slot) sealer(with Credential) *chunk.Sealer {
	secret := []byte(with.secret)
	if s.Kind == KindPassphrase {
		secret = s.KDF.stretch(secret, s.salt[:])
	}
	info := "tharsis/0/slot" + string(s.Vault[:]) + string(s.ID[:])
	return chunk.SealerFrom(chunk.Expand(secret, info, 64))
}

// Open gives the secrets that the slot seals. It returns ErrWrongKey where with does
// not open it, at once where it is of another kind, and ErrDamaged where it does but
// the rest was altered. A recovery key is given back as Secrets.Recovery.
func (s *Slot) Open(with Credential) (Secrets, error) {
	if with.kind != s.Kind {
		return Secrets{}, ErrWrongKey
	}
	sealer := s.sealer(with)
	if !sealer.Commitment.Equal(s.commitment) {
		return Secrets{}, ErrWrongKey
	}
	payload, err := sealer.Open(nil, s.box[:], s.appendHeader(nil))
	if err != nil {
		return Secrets{}, fmt.Errorf("%w: key slot %s: %w", ErrDamaged, s.ID, err)
	}
	secrets := Secrets{Root(payload[:32]), [32]byte(payload[32:64]), RecoveryKey(payload[64:])}
	if s.Kind == KindRecovery {
		if !secrets.Recovery.IsZero() {
			return Secrets{}, fmt.Errorf("%w: key slot %s: a recovery key under another", ErrDamaged, s.ID)
		}
		secrets.Recovery = RecoveryKey([]byte(with.secret))
	}
	return secrets, nil
}

// Append appends the slot's object, of SlotBytes bytes, to b.
func (s *Slot) Append(b []byte) []byte {
	return append(s.appendHeader(b), s.box[:]...)
}

// appendHeader appends the bytes before the box, which are its additional data.
func (s *Slot) appendHeader(b []byte) []byte {
	b = append(AppendShortHeader(b, TypeSlot), byte(s.Kind))
	b = append(b, s.ID[:]...)
	b = append(b, s.Vault[:]...)
	b = wire.AppendU32(b, s.KDF.Time)
	b = wire.AppendU32(b, s.KDF.MemoryKiB)
	b = append(b, s.KDF.Lanes)
	b = append(b, s.salt[:]...)
	return append(b, s.commitment[:]...)
}

// ParseSlot reads the object of a slot. It returns ErrNewer or ErrDamaged, and takes
// no memory by what the object says.
func ParseSlot(b []byte) (Slot, error) {
	if err := CheckShortHeader(b, TypeSlot); err != nil {
		return Slot{}, fmt.Errorf("key slot: %w", err)
	}
	if len(b) != SlotBytes {
		return Slot{}, fmt.Errorf("%w: key slot of %d bytes, want %d", ErrDamaged, len(b), SlotBytes)
	}
	var s Slot
	d := wire.NewDecoder(b[ShortHeaderBytes:])
	s.Kind = SlotKind(d.U8())
	d.Fixed(s.ID[:])
	d.Fixed(s.Vault[:])
	s.KDF = KDFParams{Time: d.U32(), MemoryKiB: d.U32(), Lanes: d.U8()}
	d.Fixed(s.salt[:])
	d.Fixed(s.commitment[:])
	d.Fixed(s.box[:])
	err := d.Done()
	if err == nil {
		err = s.checkHeader()
	}
	if err != nil {
		return Slot{}, fmt.Errorf("%w: key slot: %w", ErrDamaged, err)
	}
	return s, nil
}

func (s *Slot) checkHeader() error {
	switch s.Kind {
	case KindPassphrase:
		return s.KDF.check()
	case KindRecovery:
		if s.KDF != (KDFParams{}) || s.salt != [slotSaltBytes]byte{} {
			return errors.New("parameters of a passphrase in a slot of a recovery key")
		}
		return nil
	}
	return fmt.Errorf("unknown slot kind %d", s.Kind)
}
