package key

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/tharsis-backup/tharsis/chunk"
)

// Errors of headers, apart from each other since a user acts differently.
var (
	// ErrNewer is for an object that a newer agent wrote.
	ErrNewer = errors.New("written by a newer agent")
	// ErrDamaged is for an object whose bytes are not what a writer wrote.
	ErrDamaged = errors.New("damaged")
)

const (
	magic = "THSR"
	// FormatVersion is the version that this package writes, and the highest it reads.
	FormatVersion = 0
	// ShortHeaderBytes is the length of the header of config, slots and bundles.
	ShortHeaderBytes = 6
	// HeaderBytes is the length of the header of sealed objects.
	HeaderBytes = 40
)

// AppendShortHeader appends the 6-byte header of an object that is not sealed by the ring.
func AppendShortHeader(b []byte, objectType uint8) []byte {
	return append(append(b, magic...), FormatVersion, objectType)
}

// CheckShortHeader checks the first 6 bytes of an object.
func CheckShortHeader(b []byte, objectType uint8) error {
	if len(b) < ShortHeaderBytes || string(b[:4]) != magic {
		return fmt.Errorf("%w: no header", ErrDamaged)
	}
	if b[4] > FormatVersion {
		return fmt.Errorf("%w: format version %d, this agent reads %d", ErrNewer, b[4], FormatVersion)
	}
	if b[5] != objectType {
		return fmt.Errorf("%w: object type %d, want %d", ErrDamaged, b[5], objectType)
	}
	return nil
}

// AppendHeader appends the 40-byte header of an object that s seals.
func AppendHeader(b []byte, objectType uint8, s *chunk.Sealer) []byte {
	b = AppendShortHeader(b, objectType)
	b = binary.LittleEndian.AppendUint16(b, 0)
	return append(b, s.Commitment[:]...)
}

// CheckHeader checks the header of an object that s should open, its key
// commitment included. One of a newer version or epoch that has the commitment of
// this version's key was changed: others derive other keys.
func CheckHeader(b []byte, objectType uint8, s *chunk.Sealer) error {
	ours := len(b) >= HeaderBytes && s.Commitment.Equal(chunk.Commitment(b[8:HeaderBytes]))
	if err := CheckShortHeader(b, objectType); err != nil {
		if ours && errors.Is(err, ErrNewer) {
			err = fmt.Errorf("%w: another format version than the key's", ErrDamaged)
		}
		return err
	}
	if len(b) < HeaderBytes {
		return fmt.Errorf("%w: cut header", ErrDamaged)
	}
	if e := binary.LittleEndian.Uint16(b[6:]); e != 0 {
		if ours {
			return fmt.Errorf("%w: another key epoch than the key's", ErrDamaged)
		}
		return fmt.Errorf("%w: key epoch %d", ErrNewer, e)
	}
	if !ours {
		return fmt.Errorf("%w: key commitment differs", ErrDamaged)
	}
	return nil
}
