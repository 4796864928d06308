package agent

import (
	"slices"
	"testing"
	"time"

	"github.com/tharsis-backup/tharsis/vault"
)

// Packs that all have lost some of their content, but none over half of it, are written
// anew until little of the vault is dead; where little is, nothing is written.
func TestPruneBoundsWhatIsDead(t *testing.T) {
	for _, c := range []struct {
		edited int // of ten files
		repack bool
	}{{4, true}, {1, false}} {
		w := newAgeWorld(t, 64)
		m := w.machine("box", 400, 32<<10)
		first, err := m.backup(t.Context(), m.src)
		noErr(t, err)
		was := slices.Clone(m.versions)
		for i := range m.files {
			if i%10 < c.edited {
				m.edit(i)
			}
		}
		second, err := m.backup(t.Context(), m.src)
		noErr(t, err)
		m.restored(first.Point, was)
		var res PruneResult
		noErr(t, m.session(t.Context(), true, func(s *Session) error {
			if _, err := s.Forget(t.Context(), []string{first.Point}, ForgetOptions{}); err != nil {
				return err
			}
			w.pass((vault.DefaultSoftDeleteDays*24 + 1) * time.Hour)
			res, err = s.Prune(t.Context(), PruneOptions{Confirm: true})
			return err
		}))
		if dead := res.PackBytes - res.LiveBytes; (res.Repacked > 0) != c.repack || dead*100 > res.PackBytes*(maxDeadShare+3) {
			t.Errorf("with %d of 10 files edited, of %d bytes of packs %d are needed after %+v", c.edited, res.PackBytes, res.LiveBytes, res)
		}
		m.restored(second.Point, m.versions)
	}
}
