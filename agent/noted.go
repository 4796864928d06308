package agent

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"github.com/tharsis-backup/tharsis/vault/log"
)

// entryForgets is how many FORGETs one NOTED names: they fill most of a body of
// log.MaxBodyBytes.
const entryForgets = 120_000

// maxEntryForgets is entryForgets, but tests need fewer.
var maxEntryForgets = entryForgets

// noteForgets appends that an admin has seen all FORGETs there are, which starts
// the soft-delete period of what they deleted. So a machine that lost its keys to
// somebody cannot have points purged before an admin had the chance to see it. A
// clock behind the log's starts none, unless the caller is sure of it.
func (s *Session) noteForgets(ctx context.Context, admin ed25519.PrivateKey, sure bool) error {
	if last := time.Unix(0, s.vault.Log.State().Time()); !sure && s.now().Before(last.Add(-maxSkew)) {
		// A period that began in the past would end early.
		s.note(Note{Info, "", "this machine's clock is behind the vault's log: the periods of newly deleted points do not begin yet"})
		return nil
	}
	for {
		_, err := s.vault.Log.Append(ctx, admin, func(st *log.State) (log.Body, error) {
			seqs := st.Unnoted()
			if len(seqs) == 0 {
				return nil, errNothingToDo
			}
			return &log.Noted{Forgets: seqs[:min(len(seqs), maxEntryForgets)]}, nil
		})
		if errors.Is(err, errNothingToDo) {
			return s.saveHead()
		}
		if err != nil {
			return fmt.Errorf("note what was deleted: %w", err)
		}
	}
}
