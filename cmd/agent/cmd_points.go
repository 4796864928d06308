package main

import (
	"fmt"
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
		Example: `  agent points
  agent points --machine laptop --source /home/ann`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if filter.Source != "" {
				abs, err := absolute([]string{filter.Source})
				if err != nil {
					return err
				}
				filter.Source = abs[0]
			}
			return a.with(c.Context(), func(s *agent.Session, _ *reporter) error {
				points, err := s.Points(c.Context(), filter)
				if err != nil {
					return err
				}
				return a.showPoints(points)
			})
		},
	}
	c.Flags().StringVar(&filter.Machine, "machine", "", "only points of this machine: its name, or a start of its ID")
	c.Flags().StringVar(&filter.Source, "source", "", "only points that hold this source")
	return c
}

func (a *app) showPoints(points []agent.PointInfo) error {
	if a.json {
		l := &lines{w: a.std.out}
		for _, p := range points {
			if err := l.write("point", pointFields(p)); err != nil {
				return err
			}
		}
		return l.write("summary", map[string]any{"points": len(points)})
	}
	if len(points) == 0 {
		if !a.quiet {
			fmt.Fprintln(a.std.out, "no points yet")
		}
		return nil
	}
	rows := [][]string{{"POINT", "TIME", "MACHINE", "FILES", "SIZE", "NEW", "STATUS", "SOURCES"}}
	for _, p := range points {
		rows = append(rows, []string{
			p.ID.String()[:12], clock(p.Time), p.Machine, thousands(p.Files), size(p.Bytes), size(p.NewBytes),
			statusWord(p), sourceWords(p.Sources),
		})
	}
	table(a.std.out, rows)
	return nil
}

func statusWord(p agent.PointInfo) string {
	if p.Suspect {
		return string(p.Status) + ", suspect"
	}
	return string(p.Status)
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

func pointFields(p agent.PointInfo) map[string]any {
	sources := make([]map[string]any, len(p.Sources))
	for i, s := range p.Sources {
		sources[i] = map[string]any{"path": jsonPath(s.Path), "status": s.Status, "files": s.Files, "bytes": s.Bytes}
	}
	return map[string]any{
		"point": p.ID.String(), "time": p.Time.Format(time.RFC3339Nano), "ended": p.Ended.Format(time.RFC3339Nano),
		"machine": p.Machine, "machine_id": p.MachineID.String(), "sources": sources, "files": p.Files, "bytes": p.Bytes,
		"bytes_stored": p.NewBytes, "status": p.Status, "suspect": p.Suspect, "tags": p.Tags,
	}
}
