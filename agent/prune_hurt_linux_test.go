package agent

import (
	"errors"
	"strings"
	"testing"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/log"
)

// plant appends an entry of this machine with a source whose manifest is not there.
func (p *pruneWorld) plant(t *testing.T, path string, body func(log.Point) log.Body) (id string) {
	t.Helper()
	ctx := t.Context()
	noErr(t, p.session(ctx, true, func(s *Session) error {
		point := log.Point{Machine: s.machine.ID, Install: s.machine.Nonce, Previous: s.lastCommit(s.vault.Log.State()), Started: p.now.UnixNano()}
		point.Sources = []log.Source{{
			ID: sourceID(s.machine.ID, path), Path: path, Status: log.StatusComplete, Root: chunk.ID{1, 2, 3}, Base: log.None, Entries: 3, Files: 1,
		}}
		if err := s.random(point.ID[:]); err != nil {
			return err
		}
		id = point.ID.String()
		entry, err := s.vault.Log.Append(ctx, s.machine.Key, func(*log.State) (log.Body, error) { return body(point), nil })
		if err != nil {
			return err
		}
		return s.committed(entry)
	}))
	return id
}

// TestPruneHurtPoint: a point whose manifest cannot be read keeps all packs, and the
// prune says which it is. Once it was deleted and its period is over, it ends, and space
// is freed again; what was announced before is not deleted while it is there.
func TestPruneHurtPoint(t *testing.T) {
	p := newTimedWorld(t)
	first := p.backs(t, 0)
	second := p.backs(t, 1)
	p.deletes(t, PruneOptions{Confirm: true}, first)
	if res := p.must(t, PruneOptions{Confirm: true}); res.Condemned == 0 {
		t.Fatalf("nothing is condemned: %+v", res)
	}
	commit := func(p log.Point) log.Body { return &log.Commit{Point: p} }
	hurt, other := p.plant(t, "/lost", commit), p.plant(t, "/more", commit)
	p.passes(t, 4)
	for range 2 {
		res, err := p.prune(t.Context(), PruneOptions{Confirm: true})
		if !isFinding(err) || !strings.Contains(err.Error(), "point "+hurt) && !strings.Contains(err.Error(), "point "+other) || res.Swept+res.Condemned > 0 {
			t.Fatalf("prune of a vault with a point that is hurt: %+v, %v", res, err)
		}
		if p.forgot(t, hurt) {
			break
		}
		p.forgets(t, other)
	}
	p.passes(t, 15)
	if res, err := p.prune(t.Context(), PruneOptions{}); !errors.Is(err, ErrConfirm) || res.Swept > 0 {
		t.Errorf("two of three points end, and it is not asked before all else: %+v, %v", res, err)
	}
	dry := p.must(t, PruneOptions{Confirm: true, DryRun: true})
	res := p.must(t, PruneOptions{Confirm: true})
	if res.Purged != 2 || res.Swept == 0 || dry.Purged != 2 || dry.Swept != res.Swept {
		t.Errorf("the point is over: %+v; said before: %+v", res, dry)
	}
	p.whole(t, map[string]int{second: 1})
}

// forgot deletes a point unless it is deleted already.
func (p *pruneWorld) forgot(t *testing.T, id string) (before bool) {
	t.Helper()
	noErr(t, p.session(t.Context(), true, func(s *Session) error {
		for _, point := range s.vault.Log.State().Points() {
			before = before || point.Point.ID.String() == id && point.Forgotten != 0
		}
		return nil
	}))
	if !before {
		p.forgets(t, id)
	}
	return before
}
