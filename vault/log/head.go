package log

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
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

// String is the sequence number in decimal, a dash, and the hash in hex.
func (h Head) String() string {
	return strconv.FormatUint(h.Seq, 10) + "-" + hex.EncodeToString(h.Hash[:])
}

// ParseHead reads what String writes.
func ParseHead(s string) (Head, error) {
	left, right, _ := strings.Cut(s, "-")
	seq, err := strconv.ParseUint(left, 10, 64)
	hash, hexErr := hex.DecodeString(right)
	if err != nil || hexErr != nil || len(hash) != 32 {
		return Head{}, fmt.Errorf("parse head %q: not a number, a dash and 64 hex digits", s)
	}
	return Head{Seq: seq, Hash: [32]byte(hash)}, nil
}
