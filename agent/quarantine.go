package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// A pack in quarantine counts as absent for whoever stores: no new point refers to
// it, so that a job that still has its content stores that again. It is not
// garbage: a restore tries it where it finds no better place. That is final, so a
// pack is named only where its own bytes, or their absence, speak against it.

// quarantinedAtOnce is how many packs one QUARANTINE entry names: half of what its
// body can hold.
const quarantinedAtOnce = log.MaxBodyBytes / 64

// suspect is a pack that was found damaged or missing.
type suspect struct {
	id      chunk.ID
	length  uint64 // as the index says
	missing bool   // by a list, or by its length: to be looked for once more
}

// suspects are the packs that a check found damaged or missing, by ID, less those
// that no point may refer to anyhow.
func (c *verify) suspects() []suspect {
	usable := c.v.Log.State().Usable
	var all []suspect
	for id, p := range c.packs {
		if p.wrong != nil && usable(id) && !errors.Is(p.wrong, key.ErrNewer) {
			all = append(all, suspect{id, p.length, p.absent})
		}
	}
	slices.SortFunc(all, func(a, b suspect) int { return bytes.Compare(a.id[:], b.id[:]) })
	return all
}

// distrust takes trust from the packs that a check found damaged or missing, and
// returns of how many.
//
// Where points need something that is in no index, the pack that had it is not known.
// If all packs are trusted, jobs do not look up what they carry over, and their points
// would lack it as well. So a pack is named that nobody has.
func (s *Session) distrust(ctx context.Context, c *verify, reason string) (int64, error) {
	n, err := s.quarantine(ctx, c.suspects(), reason)
	if err != nil || c.lost.nowhere == 0 || s.vault.Log.State().HasUntrusted() {
		return n, err
	}
	id, err := pack.NewID(s.randomness())
	if err != nil {
		return n, err
	}
	if _, err := s.quarantineEntry(ctx, []chunk.ID{id}, "stands for content that no index knows; "+reason); err != nil {
		return n, fmt.Errorf("put packs into quarantine: %w", err)
	}
	return n, s.saveHead()
}

// errAllKnown ends an append that would say nothing new.
var errAllKnown = errors.New("all of it is in quarantine")

// quarantine takes trust from packs and returns of how many. Those that are said to
// be missing are looked for once more, by a read: a list may be behind.
func (s *Session) quarantine(ctx context.Context, packs []suspect, reason string) (n int64, err error) {
	var ids []chunk.ID
	for _, p := range packs {
		if p.missing {
			there, err := s.direct.HasPack(ctx, pack.Directory{ID: p.id, Length: p.length})
			if err != nil {
				return 0, fmt.Errorf("put packs into quarantine: %w", err)
			}
			if there {
				continue
			}
		}
		ids = append(ids, p.id)
	}
	for part := range slices.Chunk(ids, quarantinedAtOnce) {
		done, err := s.quarantineEntry(ctx, part, reason)
		n += done
		if err != nil {
			return n, fmt.Errorf("put packs into quarantine: %w", err)
		}
	}
	if n == 0 {
		return 0, nil
	}
	return n, s.saveHead()
}

// quarantineEntry appends one entry, of what is not in one yet.
func (s *Session) quarantineEntry(ctx context.Context, ids []chunk.ID, reason string) (n int64, err error) {
	_, err = s.vault.Log.Append(ctx, s.machine.Key, func(st *log.State) (log.Body, error) {
		body := &log.Quarantine{Reason: reason}
		for _, id := range ids {
			if st.Usable(id) {
				body.Packs = append(body.Packs, id)
			}
		}
		if n = int64(len(body.Packs)); n == 0 {
			return nil, errAllKnown
		}
		return body, nil
	})
	if errors.Is(err, errAllKnown) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	s.log.Warn("put packs into quarantine", "packs", n, "reason", reason)
	return n, nil
}

// beginWriting prepares a session for appending entries of this machine.
func (s *Session) beginWriting(ctx context.Context) error {
	if err := s.refresh(ctx); err != nil {
		return err
	}
	return s.enrol(ctx)
}
