package agent

import (
	"context"
	"fmt"
	"slices"

	"github.com/tharsis-backup/tharsis/vault/index"
	"github.com/tharsis-backup/tharsis/vault/manifest"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// StatusInfo says how things stand.
type StatusInfo struct {
	Vault, VaultID     string
	Home               string
	Machine, MachineID string
	Machines           int // that have joined the vault
	Points             int // of all machines
	Seq                uint64
	Hash               string // of the log's head
	Runs               int    // index runs
	AdminKey           bool   // this machine keeps the key that purges points
	Newest             *PointInfo
}

// Status describes the vault, this machine and its newest point.
func (s *Session) Status(ctx context.Context) (StatusInfo, error) {
	points, err := s.Points(ctx, PointFilter{})
	if err != nil {
		return StatusInfo{}, err
	}
	st := s.vault.Log.State()
	head := s.vault.Log.Head()
	out := StatusInfo{
		Vault: s.place.String(), VaultID: fmt.Sprintf("%x", s.vault.Config.Vault), Home: s.home.Dir,
		Machine: s.host, MachineID: s.machine.ID.String(), Machines: len(st.Machines()), Points: len(points),
		Seq: head.Seq, Hash: fmt.Sprintf("%x", head.Hash), Runs: len(st.Runs()), AdminKey: s.kept && s.keys.Admin != nil,
	}
	for _, p := range slices.Backward(points) {
		if p.MachineID == s.machine.ID {
			out.Newest = &p
			break
		}
	}
	return out, nil
}

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
	n, err := fresh.keepManifests(ctx, func(name string, size int64) error { return fresh.objects.Keep(ctx, name, size) })
	return bytes + n, err
}

// keepManifests calls keep for each pack that holds pages of the newest
// manifests of this machine's sources.
func (s *Session) keepManifests(ctx context.Context, keep func(name string, size int64) error) (bytes int64, err error) {
	x, err := s.vault.OpenIndex(ctx, s.indexOptions(true))
	if err != nil {
		return 0, err
	}
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
