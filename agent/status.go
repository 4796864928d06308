package agent

import (
	"context"
	"slices"
	"time"

	"github.com/tharsis-backup/tharsis/vault/log"
)

// StatusInfo says how things stand.
type StatusInfo struct {
	Vault, VaultID     string
	Home               string
	Machine, MachineID string
	Machines           int      // that have joined the vault
	Points             int      // of all machines, the deleted ones not among them
	Deleted            int      // points that can be brought back
	Held               int      // of both, those that are kept from being deleted and purged
	SoftDeleteDays     int      // for how long a deleted point can be brought back
	Head               log.Head // of the log
	Runs               int      // index runs
	AdminKey           bool     // this machine keeps the key that purges points
	Newest             *PointInfo
	// Owner is the one machine that may write to the vault; nil: any may.
	Owner *Owner
	At    time.Time // when it was looked at
}

// Status describes the vault, this machine and its newest point.
func (s *Session) Status(ctx context.Context) (StatusInfo, error) {
	points, err := s.Points(ctx, PointFilter{})
	if err != nil {
		return StatusInfo{}, err
	}
	deleted, err := s.Points(ctx, PointFilter{Deleted: true})
	if err != nil {
		return StatusInfo{}, err
	}
	st := s.vault.Log.State()
	out := StatusInfo{
		Vault: s.place.String(), VaultID: s.vaultID(), Home: s.home.Dir,
		Machine: s.host, MachineID: s.machine.ID.String(), Machines: len(st.Machines()), Points: len(points),
		Deleted: len(deleted), SoftDeleteDays: st.SoftDeleteDays(),
		Head: s.vault.Log.Head(), Runs: len(st.Runs()), AdminKey: s.kept && s.keys.Admin != nil,
		At: s.now(),
	}
	if o, owned := s.Owner(); owned {
		out.Owner = &o
	}
	for _, p := range slices.Concat(points, deleted) {
		if p.Held {
			out.Held++
		}
	}
	for _, p := range slices.Backward(points) {
		if p.MachineID == s.machine.ID {
			out.Newest = &p
			break
		}
	}
	return out, nil
}
