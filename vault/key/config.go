package key

import (
	"errors"
	"fmt"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/wire"
)

// Mode says who may write to a vault.
type Mode uint8

// The modes.
const (
	// ModeShared: the backend's Put is create-only, so that any machine may write.
	ModeShared Mode = 0
	// ModeOwner: it is not, so that only one machine may.
	ModeOwner Mode = 1
)

// Config is the object config of a vault, which is made by init and never changed
// (docs/FORMAT.md §4). It is in the clear; a reader with keys must compare its
// SHA-256 with that of the log's GENESIS.
type Config struct {
	Vault VaultID
	Mode  Mode
	// Owner is the ID of the machine that may write in ModeOwner, else zero.
	Owner [16]byte
	Cut   chunk.CutParams
}

const (
	// ConfigBytes is the length of the object.
	ConfigBytes = 52

	suiteAESGCM     = 1
	chunkerRestic   = 1
	compressionZstd = 1
)

// AppendConfig appends the object to b. It returns an error for a Config that
// ParseConfig would reject.
func AppendConfig(b []byte, c Config) ([]byte, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("write config: %w", err)
	}
	b = append(AppendShortHeader(b, TypeConfig), c.Vault[:]...)
	b = wire.AppendU16(b, suiteAESGCM)
	b = append(b, byte(c.Mode))
	b = append(b, c.Owner[:]...)
	b = append(b, chunkerRestic)
	b = wire.AppendU32(b, c.Cut.Min)
	b = wire.AppendU32(b, c.Cut.Max)
	return append(b, c.Cut.Bits, compressionZstd), nil
}

// ParseConfig reads the object. It returns ErrNewer where a newer agent made the
// vault, be it by another version of the format or by a suite, mode, chunker or
// compression that this one does not know, and else ErrDamaged.
func ParseConfig(b []byte) (Config, error) {
	if err := CheckShortHeader(b, TypeConfig); err != nil {
		return Config{}, fmt.Errorf("config: %w", err)
	}
	if len(b) != ConfigBytes {
		return Config{}, fmt.Errorf("%w: config of %d bytes, want %d", ErrDamaged, len(b), ConfigBytes)
	}
	var c Config
	d := wire.NewDecoder(b[ShortHeaderBytes:])
	d.Fixed(c.Vault[:])
	suite := d.U16()
	c.Mode = Mode(d.U8())
	d.Fixed(c.Owner[:])
	chunker := d.U8()
	c.Cut = chunk.CutParams{Min: d.U32(), Max: d.U32(), Bits: d.U8()}
	compression := d.U8()
	if err := d.Done(); err != nil {
		return Config{}, fmt.Errorf("%w: config: %w", ErrDamaged, err)
	}
	if suite > suiteAESGCM || c.Mode > ModeOwner || chunker > chunkerRestic || compression > compressionZstd {
		return Config{}, fmt.Errorf("%w: config: suite %d, mode %d, chunker %d, compression %d",
			ErrNewer, suite, c.Mode, chunker, compression)
	}
	if suite == 0 || chunker == 0 || compression == 0 {
		return Config{}, fmt.Errorf("%w: config: suite, chunker or compression is 0", ErrDamaged)
	}
	if err := c.check(); err != nil {
		return Config{}, fmt.Errorf("%w: config: %w", ErrDamaged, err)
	}
	return c, nil
}

func (c Config) check() error {
	if c.Vault == (VaultID{}) {
		return errors.New("no vault ID")
	}
	switch c.Mode {
	case ModeShared:
		if c.Owner != [16]byte{} {
			return errors.New("an owner in a vault that any machine may write to")
		}
	case ModeOwner:
		if c.Owner == [16]byte{} {
			return errors.New("no owner")
		}
	default:
		return fmt.Errorf("unknown mode %d", c.Mode)
	}
	return c.Cut.Check()
}
