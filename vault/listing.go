package vault

import (
	"context"
	"fmt"
	"iter"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// ListedPack is a pack's object as the backend lists it.
type ListedPack struct {
	ID   chunk.ID
	Size int64 // bytes
}

// ListedPacks yields the packs that the backend lists, in any order; other objects
// are passed by. After an error it stops. A list may be behind: that a pack is not
// in it proves nothing (see HasPack), and neither does what is in it.
func (v *Vault) ListedPacks(ctx context.Context) iter.Seq2[ListedPack, error] {
	return func(yield func(ListedPack, error) bool) {
		for info, err := range v.Backend.List(ctx, pack.Prefix) {
			if err != nil {
				yield(ListedPack{}, fmt.Errorf("list packs: %w", err))
				return
			}
			id, ok := pack.IDOf(info.Name)
			if ok && !yield(ListedPack{id, info.Size}, nil) {
				return
			}
		}
	}
}
