package main

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tharsis-backup/tharsis/agent"
)

func (a *app) pointsCommand() *cobra.Command {
	var filter agent.PointFilter
	c := &cobra.Command{
		Use:   "points",
		Short: "List the points that can be restored",
		Long: `List the points of all machines in the vault, oldest first. NEW is what the
vault grew by for a point; each can be restored by itself.

With --deleted it lists those that were deleted with agent forget instead: agent
undelete brings them back until they are purged, which the time in PURGED FROM is
the earliest for.`,
		Example: `  agent points
  agent points --deleted
  agent points --machine laptop --source /home/ann`,
		Args: wantArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := absoluteAll(&filter.Source); err != nil {
				return err
			}
			return a.with(c.Context(), func(s *agent.Session, _ *reporter) error {
				points, err := s.Points(c.Context(), filter)
				if err != nil {
					return err
				}
				if filter.Deleted && !a.json {
					return a.showDeleted(points)
				}
				return a.showPoints(points)
			})
		},
	}
	c.Flags().StringVar(&filter.Machine, "machine", "", "only points of this machine: its `name`, or a start of its ID")
	c.Flags().StringVar(&filter.Source, "source", "", "only points that hold the source `PATH`")
	c.Flags().BoolVar(&filter.Deleted, "deleted", false, "list the points that were deleted and can be brought back")
	return c
}

func (a *app) showPoints(points []agent.PointInfo) error {
	if a.json {
		for _, p := range points {
			if err := a.out.line("point", pointFields(p)); err != nil {
				return err
			}
		}
		return a.summary(fields{"points": len(points)})
	}
	if len(points) == 0 {
		return a.say("no points")
	}
	rows := [][]string{{"POINT", "TIME", "MACHINE", "FILES", "SIZE", "NEW", "STATUS", "SOURCES"}}
	for _, p := range points {
		rows = append(rows, []string{
			shortPoint(p.ID.String()), clock(p.Time), quote(p.Machine), thousands(p.Files), size(p.Bytes), size(p.NewBytes),
			statusWord(p), sourceWords(p.Sources) + tagWords(p.Tags),
		})
	}
	return table(a.out, rows)
}

// showDeleted lists points that can be brought back.
func (a *app) showDeleted(points []agent.PointInfo) error {
	if len(points) == 0 {
		return a.say("no deleted points")
	}
	rows := [][]string{{"POINT", "TIME", "MACHINE", "SIZE", "DELETED", "PURGED FROM", "SOURCES", "REASON"}}
	for _, p := range points {
		rows = append(rows, []string{
			shortPoint(p.ID.String()), clock(p.Time), quote(p.Machine), size(p.Bytes), clock(p.DeletedAt), purgeWord(p),
			sourceWords(p.Sources) + tagWords(p.Tags), quote(p.ForgetReason),
		})
	}
	return table(a.out, rows)
}

// purgeWord tells from when on a deleted point can be purged.
func purgeWord(p agent.PointInfo) string {
	switch {
	case p.Held:
		return "held"
	case p.PurgeFrom.IsZero():
		return "not noted yet"
	}
	return clock(p.PurgeFrom)
}

func statusWord(p agent.PointInfo) string {
	word := string(p.Status)
	if p.Suspect {
		word += ", suspect"
	}
	if p.Held {
		word += ", held"
	}
	return word
}

func sourceWords(sources []agent.SourceInfo) string {
	words := make([]string, len(sources))
	for i, s := range sources {
		words[i] = quote(s.Path)
		if s.Status == "failed" {
			words[i] += " (failed)"
		}
	}
	return strings.Join(words, ", ")
}

func tagWords(tags map[string]string) string {
	s := ""
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		s += "  [" + quote(k+"="+tags[k]) + "]"
	}
	return s
}

func pointFields(p agent.PointInfo) fields {
	sources := make([]fields, len(p.Sources))
	for i, s := range p.Sources {
		sources[i] = fields{"path": jsonText(s.Path), "status": s.Status, "files": s.Files, "bytes": s.Bytes}
	}
	f := fields{
		"point": p.ID.String(), "time": p.Time.Format(time.RFC3339Nano), "ended": p.Ended.Format(time.RFC3339Nano),
		"machine": p.Machine, "machine_id": p.MachineID.String(), "sources": sources, "files": p.Files, "bytes": p.Bytes,
		"bytes_stored": p.NewBytes, "status": p.Status, "suspect": p.Suspect, "tags": p.Tags,
		"held": p.Held, "deleted": p.Deleted,
	}
	if p.Held {
		f["hold_reason"] = p.HoldReason
	}
	if p.Deleted {
		f["deleted_at"], f["forget_reason"] = p.DeletedAt.Format(time.RFC3339Nano), p.ForgetReason
	}
	if !p.PurgeFrom.IsZero() {
		f["purge_from"] = p.PurgeFrom.Format(time.RFC3339Nano)
	}
	return f
}
