package home

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"

	"github.com/gofrs/flock"
	"github.com/tharsis-backup/tharsis/internal/durable"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
)

// Head is what the home knows for certain of a vault's log: a vault that does
// not continue it was rolled back, forked or replaced.
type Head struct {
	Head log.Head
	// Commit is this machine's newest COMMIT, with Seq = log.NoSeq before the first.
	Commit log.Head
}

type headFile struct {
	Seq        uint64 `json:"seq"`
	Hash       string `json:"hash"`
	CommitSeq  uint64 `json:"commit_seq"`
	CommitHash string `json:"commit_hash"`
}

// Head returns the last known head of a vault's log, or ok = false before the first.
func (h *Home) Head(id key.VaultID) (head Head, ok bool, err error) {
	name := fmt.Sprintf("heads/%x", id)
	var f headFile
	err = h.read(name, &f)
	if errors.Is(err, fs.ErrNotExist) {
		return Head{}, false, nil
	}
	if err != nil {
		return Head{}, false, err
	}
	if !parseHash(f.Hash, &head.Head.Hash) || !parseHash(f.CommitHash, &head.Commit.Hash) {
		return Head{}, false, fmt.Errorf("read %s: bad hash", h.path(name))
	}
	head.Head.Seq, head.Commit.Seq = f.Seq, f.CommitSeq
	return head, true, nil
}

// SetHead stores the head durably, whatever the home knew before.
func (h *Home) SetHead(id key.VaultID, head Head) error {
	return h.UpdateHead(id, func(Head) Head { return head })
}

// UpdateHead durably replaces what the home knows by what change makes of it: of a
// Head with no Commit and an entry 0 of no hash before the first. It may be called
// without the home's lock, also by several processes: each sees what the one before
// it stored.
func (h *Home) UpdateHead(id key.VaultID, change func(Head) Head) error {
	if err := durable.MkdirAll(h.path("heads"), 0o700); err != nil {
		return err
	}
	l := flock.New(h.path("heads/lock"), flock.SetPermissions(0o600))
	if err := l.Lock(); err != nil {
		return fmt.Errorf("lock heads: %w", err)
	}
	defer l.Unlock()
	was, has, err := h.Head(id)
	if err != nil {
		return err
	}
	if !has {
		was.Commit = log.NoEntry
	}
	is := change(was)
	if has && is == was {
		return nil
	}
	return h.write(fmt.Sprintf("heads/%x", id), headFile{
		is.Head.Seq, hex.EncodeToString(is.Head.Hash[:]),
		is.Commit.Seq, hex.EncodeToString(is.Commit.Hash[:]),
	})
}

func parseHash(s string, dst *[32]byte) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 32 && copy(dst[:], b) == 32
}
