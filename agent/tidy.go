package agent

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/disk"
	"github.com/tharsis-backup/tharsis/vault/index"
	"github.com/tharsis-backup/tharsis/vault/log"
)

// maxRuns is how many index runs a vault may have before some are merged: each
// costs every look-up of a new machine a read.
const maxRuns = 8

// errSuperseded ends a merge that another machine was faster with.
var errSuperseded = errors.New("merged already")

// tidy does what keeps a vault and its cache small, after a commit. Nothing of
// it is needed for the point, so its errors are only logged.
func (s *Session) tidy(ctx context.Context) {
	if err := s.mergeRuns(ctx); err != nil && !errors.Is(err, errSuperseded) {
		s.log.Warn("merge index runs", "err", err)
	}
	if s.head.Head != s.vault.Log.Head() {
		if err := s.saveHead(); err != nil {
			s.log.Warn("save head", "err", err)
		}
	}
	live := map[string]bool{}
	for _, id := range s.vault.Log.State().Runs() {
		live[index.Name(id)] = true
	}
	packs, err := s.packsToKeep(ctx)
	if err != nil {
		s.log.Warn("tidy cache", "err", err)
	}
	if err := s.objects.Retain(func(name string) bool {
		if strings.HasPrefix(name, "index/") {
			return live[name]
		}
		return packs == nil || packs[name]
	}); err != nil {
		s.log.Warn("tidy cache", "err", err)
	}
	s.tidyFilters(live)
}

// maxKeptPacks is how many manifest packs the cache keeps before it is looked
// at which of them the next job needs: each job adds one or more.
const maxKeptPacks = 64

// packsToKeep names the manifest packs that the newest manifests of this
// machine's sources lie in, or is nil where there are few enough to keep all.
func (s *Session) packsToKeep(ctx context.Context) (map[string]bool, error) {
	if n, err := s.objects.Count("packs/"); n <= maxKeptPacks || err != nil {
		return nil, err
	}
	x, err := s.vault.OpenIndex(ctx, s.indexOptions(true))
	if err != nil {
		return nil, err
	}
	packs := map[string]bool{}
	_, err = s.keepManifests(ctx, x, func(name string, _ int64) error {
		packs[name] = true
		return nil
	})
	if err != nil {
		return nil, err
	}
	return packs, nil
}

// tidyFilters removes the filters of runs that are no longer live.
func (s *Session) tidyFilters(live map[string]bool) {
	filters, err := os.ReadDir(s.cache.FilterDir())
	if err != nil {
		s.log.Warn("tidy cache", "err", err)
	}
	for _, f := range filters {
		if !live["index/"+f.Name()] {
			disk.Remove(filepath.Join(s.cache.FilterDir(), f.Name()))
		}
	}
}

// mergeRuns merges the smallest index runs into one where there are too many.
func (s *Session) mergeRuns(ctx context.Context) error {
	if len(s.vault.Log.State().Runs()) <= maxRuns {
		return nil
	}
	x, err := s.vault.OpenIndex(ctx, s.indexOptions(true))
	if err != nil {
		return err
	}
	return s.mergeInto(ctx, chooseRuns(x.Runs()), s.machine.Key)
}

// mergeInto makes one run of several, or none where all their packs are gone.
func (s *Session) mergeInto(ctx context.Context, runs []*index.Run, signer ed25519.PrivateKey) error {
	var adds []chunk.ID
	id, err := s.vault.StoreMerged(ctx, runs, s.cache.SpoolDir(), s.keepCopy)
	if err == nil {
		adds = []chunk.ID{id}
	} else if !errors.Is(err, index.ErrEmpty) {
		return err
	}
	old := make([]chunk.ID, len(runs))
	for i, r := range runs {
		old[i] = r.ID()
	}
	_, err = s.vault.Log.Append(ctx, signer, func(st *log.State) (log.Body, error) {
		// A run that took over a week to be named may be condemned as a killed job's.
		if slices.ContainsFunc(adds, st.RunGone) {
			return nil, errSuperseded
		}
		for _, o := range old {
			if !st.RunLive(o) {
				return nil, errSuperseded
			}
		}
		// Long after it was stored a prune takes the merged run for a dead job's. The
		// entry would add nothing then, and the old ones would go all the same.
		if slices.ContainsFunc(adds, st.RunGone) {
			return nil, errSuperseded
		}
		return &log.Index{Adds: adds, Supersedes: old}, nil
	})
	if err != nil {
		return fmt.Errorf("supersede index runs: %w", err)
	}
	return nil
}

// chooseRuns picks the runs to merge: the smallest ones, as long as the next is
// not larger than all before it together, and so many that maxRuns/2 are left at
// most. So each row is merged a number of times that grows with the logarithm of
// the vault.
func chooseRuns(runs []*index.Run) []*index.Run {
	runs = slices.Clone(runs)
	slices.SortFunc(runs, func(a, b *index.Run) int { return cmp.Compare(a.Counts().Chunks, b.Counts().Chunks) })
	n, sum := 0, uint64(0)
	for n < len(runs) {
		size := uint64(runs[n].Counts().Chunks)
		if n >= 2 && size > sum && len(runs)-n+1 <= maxRuns/2 {
			break
		}
		sum += size
		n++
	}
	return runs[:n]
}
