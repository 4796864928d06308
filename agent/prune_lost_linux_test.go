package agent

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// TestPruneLost: a pack that is missing, or whose directory is, and whose content a
// backup stored again, is condemned and swept. Before that it stays.
func TestPruneLost(t *testing.T) {
	for name, hurt := range map[string]func(file string) error{
		"missing": os.Remove,
		"cut":     func(file string) error { return os.Truncate(file, 60) },
	} {
		t.Run(name, func(t *testing.T) {
			p := newTimedWorld(t)
			point := p.backs(t, 0)
			var lost []chunk.ID
			p.beside(t, func(ctx context.Context, s *Session) (err error) {
				if lost, err = packsOfType(ctx, s, key.TypeDataPack); err != nil {
					return err
				}
				if err := hurt(filepath.Join(p.vault, pack.Name(lost[0]))); err != nil {
					return err
				}
				return s.asAdmin(ctx, t, p.faultWorld, &log.Quarantine{Packs: lost, Reason: "a test"})
			})
			if res := p.must(t, PruneOptions{Confirm: true}); res.Condemned > 0 {
				t.Errorf("no other pack has it, and yet: %+v", res)
			}
			again := p.backs(t, 0)
			if res := p.must(t, PruneOptions{Confirm: true}); res.Condemned != int64(len(lost)) {
				t.Errorf("%d packs were lost: %+v", len(lost), res)
			}
			p.passes(t, 4)
			p.must(t, PruneOptions{Confirm: true})
			p.whole(t, map[string]int{point: 0, again: 0})
		})
	}
}
