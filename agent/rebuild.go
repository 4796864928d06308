package agent

import (
	"context"

	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/index"
	"github.com/tharsis-backup/tharsis/vault/manifest"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// RebuildCache throws the cache away and fetches what this machine's next
// backup needs: the log, the index, and its sources' newest manifests. It
// returns how many bytes were fetched. The home must be locked.
func (s *Session) RebuildCache(ctx context.Context) (int64, error) {
	if err := s.cache.Wipe(); err != nil {
		return 0, err
	}
	fresh, err := Open(ctx, s.env, s.home, s.place.String())
	if err != nil {
		return 0, err
	}
	defer fresh.Close()
	s.cache, s.objects = fresh.cache, fresh.objects
	x, err := fresh.vault.OpenIndex(ctx, fresh.indexOptions(true))
	if err != nil {
		return 0, err
	}
	var bytes int64
	for _, r := range x.Runs() {
		bytes += r.Size()
	}
	n, err := fresh.keepManifests(ctx, x, func(name string, size int64) error { return fresh.objects.Keep(ctx, name, size) })
	return bytes + n, err
}

// keepManifests calls keep for each pack that holds pages of the newest
// manifests of this machine's sources, as x finds them.
func (s *Session) keepManifests(ctx context.Context, x *vault.Index, keep func(name string, size int64) error) (bytes int64, err error) {
	seen := map[[32]byte]bool{}
	pages := s.pages(x)
	var locs []index.Location
	for _, path := range s.lastSources() {
		base, ok := s.vault.Log.State().BaseFor(sourceID(s.machine.ID, path))
		if !ok {
			continue
		}
		err := manifest.Pages(ctx, pages, base.Source.Root, nil, func(ref manifest.Ref) error {
			if !ref.Page {
				return nil
			}
			if locs, err = x.Find(ctx, ref.ID, locs[:0]); err != nil || len(locs) == 0 || seen[locs[0].Pack] {
				return err
			}
			seen[locs[0].Pack] = true
			bytes += int64(locs[0].PackLength)
			return keep(pack.Name(locs[0].Pack), int64(locs[0].PackLength))
		})
		if err != nil {
			return bytes, err
		}
	}
	return bytes, nil
}
