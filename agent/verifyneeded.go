package agent

import (
	"context"
	"fmt"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/index"
	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// keepNeeded forgets the packs that the point does not need. What of its list of
// files cannot be read is reported later.
func (c *verify) keepNeeded(ctx context.Context) error {
	needed := map[chunk.ID]*packState{}
	var locs []index.Location
	seen := map[chunk.ID]bool{}
	w := manifest.Walker{
		Reader: c.v.NewPages(c.index),
		Seen: func(page chunk.ID) bool {
			was := seen[page]
			seen[page] = true
			return was
		},
		Visit: func(ref manifest.Ref) (err error) {
			if locs, err = c.index.Find(ctx, ref.ID, locs[:0]); err != nil && !isFinding(err) {
				return err
			}
			for i := range locs {
				if p, ok := c.packs[locs[i].Pack]; ok {
					needed[locs[i].Pack] = p
				}
			}
			return nil
		},
		Damaged: func(_ []byte, _ chunk.ID, err error) error {
			if isFinding(err) {
				return nil
			}
			return err
		},
	}
	for _, m := range c.manifests() {
		if err := w.Walk(ctx, m.src.Root); err != nil {
			return fmt.Errorf("find what the point needs: %w", err)
		}
	}
	c.packs = needed
	return nil
}
