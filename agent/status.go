package agent

import (
	"context"
	"fmt"
	"slices"
)

// StatusInfo says how things stand.
type StatusInfo struct {
	Vault, VaultID     string
	Home               string
	Machine, MachineID string
	Machines           int // that have joined the vault
	Points             int // of all machines, the deleted ones not among them
	Deleted            int // points that can be brought back
	Held               int // of both, those that are kept from being deleted and purged
	SoftDeleteDays     int // for how long a deleted point can be brought back
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
	deleted, err := s.Points(ctx, PointFilter{Deleted: true})
	if err != nil {
		return StatusInfo{}, err
	}
	st := s.vault.Log.State()
	head := s.vault.Log.Head()
	out := StatusInfo{
		Vault: s.place.String(), VaultID: fmt.Sprintf("%x", s.vault.Config.Vault), Home: s.home.Dir,
		Machine: s.host, MachineID: s.machine.ID.String(), Machines: len(st.Machines()), Points: len(points),
		Deleted: len(deleted), SoftDeleteDays: st.SoftDeleteDays(),
		Seq: head.Seq, Hash: fmt.Sprintf("%x", head.Hash), Runs: len(st.Runs()), AdminKey: s.kept && s.keys.Admin != nil,
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
