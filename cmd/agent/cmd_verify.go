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
read and checked. It reads the vault itself, not the cache, and changes nothing.

What is damaged is named, with the files of the points that it hurts; then it
exits with 1.`,
		Example: `  agent verify
  agent verify --read-data
  agent verify --read-data --point latest`,
		Args: wantArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c.Context(), func(s *agent.Session, r *reporter) error {
				res, err := s.Verify(c.Context(), o)
				r.done()
				if err != nil && !errors.Is(err, agent.ErrDamaged) {
					return err
				}
				if serr := a.showVerify(res, o); serr != nil {
					return serr
				}
				return err
			})
		},
	}
	c.Flags().BoolVar(&o.ReadData, "read-data", false, "read and check every byte of the vault")
	c.Flags().StringVar(&o.Point, "point", "", "check only what this `point` needs")
	return c
}

func (a *app) showVerify(res agent.VerifyResult, o agent.VerifyOptions) error {
	for _, d := range res.Damage {
		if err := a.showDamage(d); err != nil {
			return err
		}
	}
	if a.json {
		return a.summary(fields{
			"objects": res.Objects, "bytes_read": res.Bytes, "points": res.Points, "damaged": res.Damaged,
			"files_hurt": res.Hurt, "unnamed": res.Unnamed, "read_data": o.ReadData, "duration_s": res.Duration.Seconds(),
		})
	}
	if n := res.Damaged + res.Hurt - int64(len(res.Damage)); n > 0 {
		fmt.Fprintf(a.out, "and %s more that are not listed\n", thousands(n))
	}
	if res.Unnamed > 0 {
		a.say("%s left by interrupted jobs, which do no harm", count(res.Unnamed, "object"))
	}
	read := ""
	if o.ReadData {
		read = ", read " + size(res.Bytes)
	}
	verdict := "all whole"
	if res.Damaged > 0 || res.Hurt > 0 {
		verdict = count(res.Damaged, "object") + " damaged or missing, " + count(res.Hurt, "file") + " hurt"
	}
	return a.say("checked %s of %s%s, in %s: %s", count(res.Objects, "object"), count(res.Points, "point"), read, seconds(res.Duration), verdict)
}

// showDamage is shown with --quiet too: it is what a check is for.
func (a *app) showDamage(d agent.Damage) error {
	var err error
	switch {
	case a.json:
		err = a.out.line("damage", fields{"object": d.Object, "point": d.Point, "path": jsonText(d.Path), "text": d.Text})
	case d.Object != "":
		_, err = fmt.Fprintf(a.out, "damaged: %s: %s\n", quote(d.Object), plain(d.Text))
	default:
		_, err = fmt.Fprintf(a.out, "hurt: point %s: %s: %s\n", shortPoint(d.Point), quote(d.Path), plain(d.Text))
	}
	return err
}
