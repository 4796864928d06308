package main

import (
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/tharsis-backup/tharsis/agent"
)

func (a *app) lsCommand() *cobra.Command {
	var recursive bool
	c := &cobra.Command{
		Use:   "ls POINT [PATH]",
		Short: "List what a point holds",
		Example: `  agent ls latest
  agent ls 3f2a /home/ann/documents`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			path := ""
			if len(args) == 2 {
				abs, err := absolute(args[1:])
				if err != nil {
					return err
				}
				path = abs[0]
			}
			return a.with(c.Context(), func(s *agent.Session, _ *reporter) error {
				return s.List(c.Context(), args[0], path, recursive, a.showEntry)
			})
		},
	}
	c.Flags().BoolVarP(&recursive, "recursive", "R", false, "list everything below")
	return c
}

func (a *app) findCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "find PATTERN",
		Short: "Find a file in all points",
		Long: `Find files in all points of the vault, with the versions of each. A pattern
without a slash matches names, one with a slash whole paths; *, ?, [...] and **
are as in .gitignore.`,
		Example: `  agent find 'report*.odt'
  agent find '/home/ann/**/taxes.pdf'`,
		Args: exactArgs("PATTERN"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.with(c.Context(), func(s *agent.Session, _ *reporter) error {
				return s.Find(c.Context(), args[0], a.showFound)
			})
		},
	}
}

func (a *app) diffCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "diff POINT POINT",
		Short: "Show what changed between two points",
		Long: `Show what changed between two points: + added, - gone, M content changed,
U only metadata changed.`,
		Example: `  agent diff 3f2a latest`,
		Args:    exactArgs("POINT", "POINT"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.with(c.Context(), func(s *agent.Session, _ *reporter) error {
				return s.Diff(c.Context(), args[0], args[1], a.showChange)
			})
		},
	}
}

func (a *app) catCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "cat POINT PATH",
		Short:   "Write one file of a point to standard output",
		Example: `  agent cat latest /etc/fstab`,
		Args:    exactArgs("POINT", "PATH"),
		RunE: func(c *cobra.Command, args []string) error {
			path, err := absolute(args[1:])
			if err != nil {
				return err
			}
			return a.with(c.Context(), func(s *agent.Session, _ *reporter) error {
				return s.Cat(c.Context(), args[0], path[0], a.std.out)
			})
		},
	}
}

func (a *app) showChange(ch agent.Change) error {
	if a.json {
		return (&lines{w: a.std.out}).write("change", map[string]any{"kind": ch.Kind, "path": jsonPath(ch.Path)})
	}
	_, err := fmt.Fprintf(a.std.out, "%s %s\n", ch.Kind, quote(ch.Path))
	return err
}

func (a *app) showEntry(e agent.Entry) error {
	if a.json {
		return (&lines{w: a.std.out}).write("entry", entryFields(e))
	}
	_, err := fmt.Fprintln(a.std.out, entryLine(e))
	return err
}

func (a *app) showFound(f agent.FoundVersion) error {
	if a.json {
		m := entryFields(f.Entry)
		m["points"] = f.Points
		return (&lines{w: a.std.out}).write("version", m)
	}
	span := f.Points[0][:12]
	if n := len(f.Points); n > 1 {
		span = fmt.Sprintf("%s and %d more, newest %s", span, n-1, f.Points[n-1][:12])
	}
	_, err := fmt.Fprintf(a.std.out, "%s  in %s\n", entryLine(f.Entry), span)
	return err
}

func entryFields(e agent.Entry) map[string]any {
	m := map[string]any{
		"path": jsonPath(e.Path), "kind": e.Kind, "mode": fmt.Sprintf("%04o", e.Mode), "uid": e.UID, "gid": e.GID,
		"size": e.Size, "mtime": e.MTime.Format(time.RFC3339Nano),
	}
	for k, v := range map[string]string{"user": e.User, "group": e.Group, "target": e.Target} {
		if v != "" {
			m[k] = v
		}
	}
	if e.Stale {
		m["stale"] = true
	}
	if e.Unstable {
		m["unstable"] = true
	}
	return m
}

var kindLetters = map[string]string{"dir": "d", "file": "-", "symlink": "l", "block": "b", "char": "c", "fifo": "p"}

func entryLine(e agent.Entry) string {
	s := fmt.Sprintf("%s%s %8s %8s %12d %s %s", kindLetters[e.Kind], fs.FileMode(e.Mode & 0o777).String()[1:],
		orNumber(e.User, e.UID), orNumber(e.Group, e.GID), e.Size, clock(e.MTime), quote(e.Path))
	if e.Kind == "symlink" {
		s += " -> " + quote(e.Target)
	}
	if e.Stale {
		s += "  (stale: could not be read, as in an earlier point)"
	}
	if e.Unstable {
		s += "  (unstable: it changed while it was read)"
	}
	return s
}

func orNumber(name string, n uint32) string {
	if name != "" {
		return quote(name)
	}
	return strconv.FormatUint(uint64(n), 10)
}
