package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
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
		Long: `List a folder of a point, or without PATH its sources. POINT is as for restore:
"latest", a time, or the first 4 or more digits of a point's ID.`,
		Example: `  agent ls latest
  agent ls 3f2a /home/ann/documents
  agent ls -R 2026-11-23 ~/documents`,
		Args: wantArgs("POINT", "[PATH]"),
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
				n := 0
				err := s.List(c.Context(), args[0], path, recursive, func(e agent.Entry) error {
					n++
					return a.showEntry(e)
				})
				return a.listed(err, "entries", n)
			})
		},
	}
	c.Flags().BoolVarP(&recursive, "recursive", "R", false, "list everything below")
	return c
}

// listed ends a listing: with --json by a summary that counts its lines.
func (a *app) listed(err error, what string, n int) error {
	if err != nil || !a.json {
		return err
	}
	return a.summary(fields{what: n})
}

func (a *app) findCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "find PATTERN",
		Short: "Find the versions of a file in all points",
		Long: `Find files in all points of the vault, with the versions of each. A pattern
without a slash matches names, one with a slash whole paths; *, ?, [...] and **
are as in .gitignore.`,
		Example: `  agent find 'report*.odt'
  agent find '/home/ann/**/taxes.pdf'`,
		Args: wantArgs("PATTERN"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.with(c.Context(), func(s *agent.Session, _ *reporter) error {
				n := 0
				err := s.Find(c.Context(), args[0], func(f agent.FoundVersion) error {
					n++
					return a.showFound(f)
				})
				if err == nil && n == 0 && !a.json && !a.quiet {
					fmt.Fprintf(a.err, "note: no point holds anything that matches %s\n", quote(args[0]))
				}
				return a.listed(err, "versions", n)
			})
		},
	}
}

func (a *app) diffCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "diff POINT POINT",
		Short: "Show what changed between two points",
		Long: `Show what changed from the first point to the second: + added, - gone,
M content changed, U only metadata changed.`,
		Example: `  agent diff 3f2a latest
  agent diff 2026-11-01 2026-11-23`,
		Args: wantArgs("POINT", "the second POINT"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.with(c.Context(), func(s *agent.Session, _ *reporter) error {
				n := 0
				err := s.Diff(c.Context(), args[0], args[1], func(ch agent.Change) error {
					n++
					return a.showChange(ch)
				})
				return a.listed(err, "changes", n)
			})
		},
	}
}

func (a *app) catCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "cat POINT PATH",
		Short: "Write one file of a point to standard output",
		Long: `Write the content of one file of a point to standard output. With --json it
comes as lines of base64.`,
		Example: `  agent cat latest /etc/fstab
  agent cat 2026-11-23 ~/notes.txt | diff - ~/notes.txt`,
		Args: wantArgs("POINT", "PATH"),
		RunE: func(c *cobra.Command, args []string) error {
			path, err := absolute(args[1:])
			if err != nil {
				return err
			}
			return a.with(c.Context(), func(s *agent.Session, _ *reporter) error {
				if !a.json {
					return s.Cat(c.Context(), args[0], path[0], a.out)
				}
				w := &dataLines{out: a.out}
				if err := s.Cat(c.Context(), args[0], path[0], w); err != nil {
					return err
				}
				return a.summary(fields{"path": jsonText(path[0]), "bytes": w.bytes})
			})
		},
	}
}

// dataLines writes content as JSON lines.
type dataLines struct {
	out   *output
	bytes int64
}

// dataLineBytes is how much content one line holds, so that a reader's line
// buffer of 64 KiB takes it.
const dataLineBytes = 45 << 10

var _ io.Writer = (*dataLines)(nil)

func (d *dataLines) Write(b []byte) (int, error) {
	for rest := b; len(rest) > 0; {
		n := min(len(rest), dataLineBytes)
		if err := d.out.line("data", fields{"base64": base64.StdEncoding.EncodeToString(rest[:n])}); err != nil {
			return len(b) - len(rest), err
		}
		rest = rest[n:]
	}
	d.bytes += int64(len(b))
	return len(b), nil
}

func (a *app) showChange(ch agent.Change) error {
	if a.json {
		return a.out.line("change", fields{"kind": ch.Kind, "path": jsonText(ch.Path)})
	}
	_, err := fmt.Fprintf(a.out, "%s %s\n", ch.Kind, quote(ch.Path))
	return err
}

func (a *app) showEntry(e agent.Entry) error {
	if a.json {
		return a.out.line("entry", entryFields(e))
	}
	_, err := fmt.Fprintln(a.out, entryLine(e))
	return err
}

func (a *app) showFound(f agent.FoundVersion) error {
	if len(f.Points) == 0 {
		return errors.New("a version without a point")
	}
	if a.json {
		m := entryFields(f.Entry)
		m["points"] = f.Points
		return a.out.line("version", m)
	}
	span := shortPoint(f.Points[0])
	if n := len(f.Points); n > 1 {
		span += " to " + shortPoint(f.Points[n-1]) + ", " + count(int64(n), "point")
	}
	_, err := fmt.Fprintf(a.out, "%s  in %s\n", entryLine(f.Entry), span)
	return err
}

// shortPointDigits of a point's ID tell it from any other.
const shortPointDigits = 12

func shortPoint(id string) string { return id[:min(len(id), shortPointDigits)] }

func entryFields(e agent.Entry) fields {
	m := fields{
		"path": jsonText(e.Path), "kind": e.Kind, "mode": fmt.Sprintf("%04o", e.Mode), "uid": e.UID, "gid": e.GID,
		"size": e.Size, "mtime": e.MTime.Format(time.RFC3339Nano),
	}
	for k, v := range map[string]string{"user": e.User, "group": e.Group, "target": e.Target} {
		if v != "" {
			m[k] = jsonText(v)
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

func entryLine(e agent.Entry) string {
	s := fmt.Sprintf("%s %8s %8s %12d %s %s", modeText(e.Kind, e.Mode),
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

var kindLetters = map[string]string{"dir": "d", "file": "-", "symlink": "l", "block": "b", "char": "c", "fifo": "p"}

// modeText is a kind and a mode as ls shows them.
func modeText(kind string, mode uint32) string {
	b := []byte("rwxrwxrwx")
	for i := range b {
		if mode&(0o400>>i) == 0 {
			b[i] = '-'
		}
	}
	for _, special := range []struct {
		bit  uint32
		at   int
		with byte // where x is set too; else upper case
	}{{0o4000, 2, 's'}, {0o2000, 5, 's'}, {0o1000, 8, 't'}} {
		if mode&special.bit == 0 {
			continue
		}
		if b[special.at] == 'x' {
			b[special.at] = special.with
		} else {
			b[special.at] = special.with - 'a' + 'A'
		}
	}
	return kindLetters[kind] + string(b)
}

func orNumber(name string, n uint32) string {
	if name != "" {
		return quote(name)
	}
	return strconv.FormatUint(uint64(n), 10)
}
