package agent

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/tharsis-backup/tharsis/vault"
)

// Once a day a backup compares the packs that the vault lists with those that its
// index names. One that is missing goes into quarantine before the job begins, so
// that the job stores again what it still has of its content. A list only ever takes
// trust away: nothing is deleted by it, and nothing believed.

const (
	// listEvery is how often a machine lists the packs. A list costs a request for
	// every thousand packs at the usual stores.
	listEvery = 24 * time.Hour
	// listedMemo is the name of the memo of the last time.
	listedMemo = "listed"
)

// dailyList lists the packs if it is time. What goes wrong with that is no reason to
// back nothing up.
func (s *Session) dailyList(ctx context.Context) error {
	memo := s.cache.Memo(listedMemo, s.vault.Ring)
	now := s.now()
	if b, err := memo.Read(); err == nil && len(b) == 8 {
		last := time.Unix(0, int64(binary.LittleEndian.Uint64(b)))
		if age := now.Sub(last); age >= 0 && age < listEvery { // else the clock was set back
			return nil
		}
	}
	var n int64
	err := s.missingPacks(ctx, func(lost []suspect) error {
		more, err := s.quarantine(ctx, lost, "missing or cut, by a list")
		n += more
		return err
	})
	if n > 0 {
		s.note(Note{Info, "", missingText(n)})
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		s.log.Warn("list the packs", "err", err)
		return nil
	}
	if err := memo.Write(binary.LittleEndian.AppendUint64(nil, uint64(now.UnixNano()))); err != nil {
		s.log.Warn("list the packs", "err", err)
	}
	return nil
}

func missingText(n int64) string {
	if n == 1 {
		return "1 pack of the vault is missing or cut: what this machine still has of its content is stored again; see what it hurts with: agent verify"
	}
	return fmt.Sprintf("%d packs of the vault are missing or cut: what this machine still has of their content is stored again; see what they hurt with: agent verify", n)
}

// missingPacks gives fn, some at a time, the usable packs that the index names and
// that the vault does not list with the length that they should have. Damaged runs
// are passed over: what they name cannot be used anyhow.
func (s *Session) missingPacks(ctx context.Context, fn func([]suspect) error) error {
	x, err := s.vault.OpenIndex(ctx, vault.IndexOptions{Tolerant: true})
	if err != nil {
		return err
	}
	usable := s.vault.Log.State().Usable
	var lost []suspect
	err = s.comparePacks(ctx, x.Runs(), func(p *packSight) error {
		there := slices.ContainsFunc(p.named, func(n uint64) bool { return slices.Contains(p.listed, n) })
		if len(p.named) == 0 || there || !usable(p.id) {
			return nil
		}
		lost = append(lost, suspect{p.id, p.named[0], true})
		if len(lost) < quarantinedAtOnce {
			return nil
		}
		full := lost
		lost = lost[:0]
		return fn(full)
	})
	if err != nil || len(lost) == 0 {
		return err
	}
	return fn(lost)
}
