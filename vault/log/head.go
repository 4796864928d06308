package log

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/tharsis-backup/tharsis/internal/typed"
)

// Errors of a log that is not the one seen before. Both stop a job until
// somebody looked: the vault was restored from an old copy, or tampered with.
var (
	// ErrRollback is for a log that ends before an entry that was seen.
	ErrRollback = errors.New("the vault's log was rolled back: it is shorter than when it was last seen")
	// ErrForked is for a log with another entry where one was seen.
	ErrForked = errors.New("the vault's log was forked: it does not continue the log that was last seen")
)

// None stands for "no entry" where the format holds a sequence number.
const None = ^uint64(0)

// Head names an entry and, through the chain, all entries before it.
type Head struct {
	Seq  uint64
	Hash [32]byte // SHA-256 of the whole object
}

// String is the sequence number in decimal, a colon, and the hash in hex.
func (h Head) String() string {
	return strconv.FormatUint(h.Seq, 10) + ":" + hex.EncodeToString(h.Hash[:])
}

// A receipt is a head as a typed code: the sequence number in 5 bytes, and the
// hash (docs/FORMAT.md §10). It fits on a line of 80 characters.
const (
	receiptPrefix = "thh1"
	receiptSeq    = 5 // bytes: a log that has an entry a millisecond needs them for 34 years
	receiptBytes  = receiptSeq + 32
)

// Receipt is the head in a form that a person can print and type back, or what
// String gives in a log with more entries than a receipt can count.
func (h Head) Receipt() string {
	if h.Seq >= 1<<(8*receiptSeq) {
		return h.String()
	}
	code := binary.LittleEndian.AppendUint64(nil, h.Seq)
	return typed.Format(receiptPrefix, append(code[:receiptSeq], h.Hash[:]...))
}

// ParseHead reads what String or Receipt writes.
func ParseHead(s string) (Head, error) {
	left, right, long := strings.Cut(s, ":")
	if !long {
		return parseReceipt(s)
	}
	seq, err := strconv.ParseUint(left, 10, 64)
	hash, hexErr := hex.DecodeString(right)
	if err != nil || hexErr != nil || len(hash) != 32 || seq == None {
		return Head{}, fmt.Errorf("%q is no head of a log: not a number, a colon and 64 hex digits", s)
	}
	return Head{Seq: seq, Hash: [32]byte(hash)}, nil
}

func parseReceipt(s string) (Head, error) {
	b, err := typed.Parse(receiptPrefix, receiptBytes, s)
	if err != nil {
		return Head{}, fmt.Errorf("the receipt is mistyped: %w", err)
	}
	var seq [8]byte
	copy(seq[:], b[:receiptSeq])
	return Head{Seq: binary.LittleEndian.Uint64(seq[:]), Hash: [32]byte(b[receiptSeq:])}, nil
}
