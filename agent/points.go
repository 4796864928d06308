package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tharsis-backup/tharsis/vault/log"
)

// minPointPrefix is how much of a point's ID must be given.
const minPointPrefix = 4

// Points lists the points that were not deleted, or those that were and can be
// brought back, oldest first.
func (s *Session) Points(_ context.Context, f PointFilter) ([]PointInfo, error) {
	var out []PointInfo
	st := s.vault.Log.State()
	for _, p := range st.Points() {
		if (p.Forgotten != 0) == f.Deleted && matchesMachine(p.Point, f.Machine) && matchesSource(p.Point, f.Source) {
			out = append(out, describe(st, p))
		}
	}
	return out, nil
}

func matchesMachine(p *log.Point, machine string) bool {
	return machine == "" || strings.EqualFold(p.Host, machine) ||
		len(machine) >= minPointPrefix && strings.HasPrefix(p.Machine.String(), strings.ToLower(machine))
}

func matchesSource(p *log.Point, path string) bool {
	return path == "" || slices.ContainsFunc(p.Sources, func(s log.Source) bool {
		return s.Path == path && s.Status != log.StatusFailed
	})
}

// describe makes a point fit for showing.
func describe(st *log.State, p log.PointInfo) PointInfo {
	out := PointInfo{
		ID: p.Point.ID, Time: time.Unix(0, p.Point.Started), Ended: time.Unix(0, p.Point.Ended),
		Machine: p.Point.Host, MachineID: p.Point.Machine, NewBytes: int64(p.Point.Stats.BytesStored),
		Status: Completed, Suspect: p.Point.Suspect, Tags: map[string]string{},
		Deleted: p.Forgotten != 0, ForgetReason: p.ForgetReason, Held: p.Held, HoldReason: p.HoldReason,
	}
	if out.Deleted {
		out.DeletedAt = time.Unix(0, p.ForgottenAt)
		out.PurgeFrom, _ = st.PurgeableFrom(p.Point.ID)
	}
	if p.Point.Warnings {
		out.Status = CompletedWithWarnings
	}
	for _, t := range p.Point.Tags {
		out.Tags[t.Key] = t.Value
	}
	for _, src := range p.Point.Sources {
		out.Files += int64(src.Files)
		out.Bytes += int64(src.Bytes)
		out.Sources = append(out.Sources, SourceInfo{
			Path: src.Path, Status: statusWords[src.Status], Files: int64(src.Files), Bytes: int64(src.Bytes),
		})
	}
	return out
}

var statusWords = map[log.Status]string{
	log.StatusComplete: "complete", log.StatusWarnings: "with warnings", log.StatusSuspect: "suspect", log.StatusFailed: "failed",
}

// resolve finds the point that a user means: "latest", a time, or the start of
// an ID, tried in this order. Only by its ID is it one that was deleted.
func (s *Session) resolve(spec, machine, source string) (log.PointInfo, error) {
	if spec == "latest" {
		return s.newest(machine, source, time.Time{})
	}
	if t, ok := parseTime(spec); ok {
		return s.newest(machine, source, t)
	}
	if !isPointPrefix(spec) {
		return log.PointInfo{}, fmt.Errorf("%w: %q is not \"latest\", a time, or %d or more digits of a point's ID", ErrNoPoint, spec, minPointPrefix)
	}
	return byPrefix(s.vault.Log.State(), spec)
}

// isPointPrefix tells whether a name can be the start of a point's ID.
func isPointPrefix(name string) bool {
	return len(name) >= minPointPrefix && strings.Trim(strings.ToLower(name), "0123456789abcdef") == ""
}

// byPrefix finds the point, soft-deleted or not, whose ID begins so.
func byPrefix(st *log.State, prefix string) (log.PointInfo, error) {
	p, err := st.PointByPrefix(prefix)
	if err != nil {
		return p, fmt.Errorf("%w%s", ErrNoPoint, strings.TrimPrefix(err.Error(), log.ErrNoPoint.Error()))
	}
	return p, nil
}

// parseTime reads a time; a day or a minute means its end.
func parseTime(s string) (time.Time, bool) {
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, true
	}
	if t, err := time.ParseInLocation("2006-01-02", s, time.Local); err == nil {
		return t.AddDate(0, 0, 1).Add(-1), true
	}
	if t, err := time.ParseInLocation("2006-01-02 15:04", s, time.Local); err == nil {
		return t.Add(time.Minute - 1), true
	}
	return time.Time{}, false
}

// newest finds the newest point of a machine that began at or before a time (or
// at any, for zero). Without a machine it is this one, or where that has no
// points the vault's only one.
func (s *Session) newest(machine, source string, at time.Time) (log.PointInfo, error) {
	points := s.vault.Log.State().Points()
	points = slices.DeleteFunc(points, func(p log.PointInfo) bool { return p.Forgotten != 0 })
	mine := func(p log.PointInfo) bool { return matchesMachine(p.Point, machine) }
	if machine == "" {
		id, err := s.ownOrOnly(points)
		if err != nil {
			return log.PointInfo{}, err
		}
		mine = func(p log.PointInfo) bool { return p.Point.Machine == id }
	}
	for _, p := range slices.Backward(points) {
		if mine(p) && matchesSource(p.Point, source) && (at.IsZero() || !time.Unix(0, p.Point.Started).After(at)) {
			return p, nil
		}
	}
	switch {
	case !at.IsZero():
		return log.PointInfo{}, fmt.Errorf("%w: none at or before %s", ErrNoPoint, at.Local().Format(time.DateTime))
	case source != "":
		return log.PointInfo{}, fmt.Errorf("%w: none has the source %s", ErrNoPoint, source)
	case machine != "":
		return log.PointInfo{}, fmt.Errorf("%w: none of a machine %q", ErrNoPoint, machine)
	}
	return log.PointInfo{}, fmt.Errorf("%w: the vault has none", ErrNoPoint)
}

// ownOrOnly is this machine if it has points, else the only one that has.
func (s *Session) ownOrOnly(points []log.PointInfo) (log.MachineID, error) {
	hosts := map[log.MachineID]string{}
	for _, p := range points {
		if p.Point.Machine == s.machine.ID {
			return s.machine.ID, nil
		}
		hosts[p.Point.Machine] = p.Point.Host
	}
	if len(hosts) > 1 {
		var names []string
		for id, host := range hosts {
			names = append(names, fmt.Sprintf("%s (%s)", host, id.String()[:8]))
		}
		slices.Sort(names)
		return log.MachineID{}, fmt.Errorf("%w: this machine has none, and others have: %s; choose one with --machine", ErrNoPoint, strings.Join(names, ", "))
	}
	for id := range hosts {
		return id, nil
	}
	return log.MachineID{}, nil
}
