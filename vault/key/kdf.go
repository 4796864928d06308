package key

import (
	"fmt"
	"runtime/debug"

	"golang.org/x/crypto/argon2"
)

// KDFParams are the costs of Argon2id, which slow down the guessing of a
// passphrase. The zero value stands for DefaultKDF where a slot is made.
type KDFParams struct {
	Time      uint32 // passes over the memory
	MemoryKiB uint32
	Lanes     uint8 // threads
}

// The bounds of the parameters, checked before memory is taken: a slot is read
// before anything proves who wrote it (docs/FORMAT.md §5).
const (
	maxTime      = 16
	maxMemoryKiB = 2 << 20 // 2 GiB
	maxLanes     = 16
	// minLaneKiB is Argon2's own minimum.
	minLaneKiB = 8
)

const (
	defaultMemoryKiB = 256 << 10
	smallMemoryKiB   = 64 << 10
	// smallMachine is the memory in bytes below which a slot takes less. A machine
	// of 4 GiB reports less than that, since its kernel keeps some.
	smallMachine = 3584 << 20
)

// DefaultKDF gives the parameters of a new slot: those of RFC 9106 with 256 MiB,
// or 64 MiB where the machine has less than 4 GiB or so, since a slot that can't
// be opened is worse than one that is guessed 4 times as fast.
func DefaultKDF() KDFParams {
	p := KDFParams{Time: 3, MemoryKiB: defaultMemoryKiB, Lanes: 4}
	if total, ok := totalMemory(); ok && total < smallMachine {
		p.MemoryKiB = smallMemoryKiB
	}
	return p
}

func (p KDFParams) check() error {
	switch {
	case p.Time < 1 || p.Time > maxTime:
		return fmt.Errorf("%d Argon2id passes are not within 1 to %d", p.Time, maxTime)
	case p.Lanes < 1 || p.Lanes > maxLanes:
		return fmt.Errorf("%d Argon2id lanes are not within 1 to %d", p.Lanes, maxLanes)
	case p.MemoryKiB < minLaneKiB*uint32(p.Lanes) || p.MemoryKiB > maxMemoryKiB:
		return fmt.Errorf("%d KiB of Argon2id memory are not within %d to %d",
			p.MemoryKiB, minLaneKiB*uint32(p.Lanes), maxMemoryKiB)
	}
	return nil
}

// returnAboveKiB is the memory from which it is worth to force a collection.
const returnAboveKiB = 16 << 10

// stretch derives the secret of a passphrase. p must have passed check.
func (p KDFParams) stretch(passphrase, salt []byte) []byte {
	secret := argon2.IDKey(passphrase, salt, p.Time, p.MemoryKiB, p.Lanes, 32)
	if p.MemoryKiB >= returnAboveKiB {
		// Else the process would keep the memory for the rest of a long job: the
		// collector sees no reason to run, and takes the peak for the usual need.
		debug.FreeOSMemory()
	}
	return secret
}
