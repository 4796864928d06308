package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tharsis-backup/tharsis/agent"
)

func (a *app) verifyCommand() *cobra.Command {
	var o agent.VerifyOptions
	c := &cobra.Command{
		Use:   "verify",
		Short: "Check that the vault is whole",
		Long: `Check that every object that the vault's log names is there, and that every
file of every point can be found. With --read-data every byte of the vault is
read and checked. It reads the vault itself, not the cache.`,
		Example: `  agent verify
  agent verify --read-data`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c.Context(), func(s *agent.Session, r *reporter) error {
				res, err := s.Verify(c.Context(), o)
				r.done()
				if err != nil && !errors.Is(err, agent.ErrDamaged) {
					return err
				}
				return errors.Join(a.showVerify(res, o), err)
			})
		},
	}
	c.Flags().BoolVar(&o.ReadData, "read-data", false, "read and check every byte of the vault")
	c.Flags().StringVar(&o.Point, "point", "", "check only what this point needs")
	return c
}

func (a *app) showVerify(res agent.VerifyResult, o agent.VerifyOptions) error {
	if a.json {
		l := &lines{w: a.std.out}
		for _, d := range res.Damage {
			if err := l.write("damage", map[string]any{
				"object": d.Object, "point": d.Point, "path": jsonPath(d.Path), "text": d.Text,
			}); err != nil {
				return err
			}
		}
		return l.write("summary", map[string]any{
			"objects": res.Objects, "bytes_read": res.Bytes, "points": res.Points, "damaged": res.Damaged,
			"files_hurt": res.Hurt, "unnamed": res.Unnamed, "read_data": o.ReadData, "duration_s": res.Duration.Seconds(),
		})
	}
	for _, d := range res.Damage {
		if d.Object != "" {
			fmt.Fprintf(a.std.out, "damaged: %s: %s\n", d.Object, d.Text)
		} else {
			fmt.Fprintf(a.std.out, "hurt: point %s: %s: %s\n", d.Point[:12], quote(d.Path), d.Text)
		}
	}
	if a.quiet {
		return nil
	}
	fmt.Fprintf(a.std.out, "checked %s of %s", count(res.Objects, "object"), count(res.Points, "point"))
	if o.ReadData {
		fmt.Fprintf(a.std.out, ", read %s", size(res.Bytes))
	}
	fmt.Fprintf(a.std.out, ", in %s: ", seconds(res.Duration))
	if res.Damaged == 0 && res.Hurt == 0 {
		fmt.Fprintln(a.std.out, "all whole")
	} else {
		fmt.Fprintf(a.std.out, "%s damaged or missing, %s hurt\n", count(res.Damaged, "object"), count(res.Hurt, "file"))
	}
	if res.Unnamed > 0 {
		fmt.Fprintf(a.std.out, "%s left by interrupted jobs\n", count(res.Unnamed, "object"))
	}
	return nil
}
