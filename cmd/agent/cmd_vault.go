package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tharsis-backup/tharsis/agent"
	"github.com/tharsis-backup/tharsis/agent/home"
)

func (a *app) vaultCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "vault",
		Short: "Decide about the vault as a whole",
		Long: `Decide about the vault as a whole: take one that is not as this machine has
seen it, become the one machine that may write to it, or change for how long a
deleted point can be brought back.`,
		Example: `  agent vault accept-head
  agent vault take-over
  agent vault soft-delete 30`,
	}
	c.AddCommand(a.acceptHeadCommand(), a.takeOverCommand(), a.softDeleteCommand())
	return family(c, missingCommand)
}

func (a *app) acceptHeadCommand() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use:   "accept-head",
		Short: "Go on with a vault that is older than what this machine has seen, or another one",
		Long: `Go on with a vault that is not as this machine has seen it: an older copy was
put in its place, or a copy that went another way, or another vault. Until this
is said on purpose, every command refuses such a vault, and changes nothing.

It says what this machine has seen and what the vault has, and which points are
missing, and asks. Then this machine takes the vault as it is. Its cache is
fetched anew, and its next backup stores again what the vault has lost.

Another vault is taken only with a passphrase or the recovery key that opens it.
The keys of the vault before stay in the home: if that one comes back to its
place, this command takes it again.`,
		Example: `  agent vault accept-head
  agent vault accept-head --yes`,
		Args: wantArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.locked(func(h *home.Home) error { return a.acceptHead(c.Context(), h, yes) })
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

// locked runs fn with the home that the flags name, taken for one writing job.
func (a *app) locked(fn func(*home.Home) error) error {
	h, err := a.openHome()
	if err != nil {
		return err
	}
	if err := h.Lock(); err != nil {
		return err
	}
	defer h.Unlock()
	return fn(h)
}

func (a *app) acceptHead(ctx context.Context, h *home.Home, yes bool) error {
	if err := a.wantVault(h); err != nil {
		return err
	}
	r := a.reporter()
	defer r.done()
	c, err := agent.AcceptHead(ctx, a.environment(r), h, a.vault, func(c agent.HeadChange) error {
		if err := a.showHeadChange(c); err != nil {
			return err
		}
		return a.confirm(ctx, yes, "take the vault as it is?")
	})
	if err != nil {
		return err
	}
	if a.json {
		return a.summary(fields{
			"accepted": c.Kind != "", "change": c.Kind, "vault_id": c.VaultID, "known_vault_id": c.KnownID,
			"known": headFields(c.Known), "found": headFields(c.Found),
			"lost_known": c.Seen, "lost_points": len(c.Lost), "lost_points_own": c.LostOwn,
		})
	}
	if c.Kind == "" {
		return a.say("nothing to accept: the vault continues what this machine has seen")
	}
	return a.say("accepted: this machine goes on from entry %d of the vault's log", c.Found.Seq)
}

// headTexts say how a vault differs from what this machine has seen.
var headTexts = map[agent.ChangeKind]string{
	agent.ChangeOlder:  "the vault is older than what this machine has seen",
	agent.ChangeForked: "the vault went another way than what this machine has seen",
	agent.ChangeOther:  "it is another vault than the one that this machine uses",
}

// showHeadChange says what would be lost. It is shown with --quiet too: somebody is
// to decide by it.
func (a *app) showHeadChange(c agent.HeadChange) error {
	if a.json {
		for _, p := range c.Lost {
			if err := a.out.line("lost", pointFields(p)); err != nil {
				return err
			}
		}
		return nil
	}
	rows := [][]string{{"seen before:", fmt.Sprint("entry ", c.Known)}, {"the vault has:", fmt.Sprint("entry ", c.Found)}}
	if c.Kind == agent.ChangeOther {
		rows = append(rows, []string{"vault ID before:", c.KnownID}, []string{"vault ID now:", c.VaultID})
	}
	fmt.Fprintf(a.out, "%s\n", headTexts[c.Kind])
	if err := table(a.out, rows); err != nil {
		return err
	}
	switch {
	case !c.Seen:
		fmt.Fprintln(a.out, "which points are missing is not known: this machine has no copy of the log any more")
	case len(c.Lost) == 0:
		fmt.Fprintln(a.out, "no point is missing")
	default:
		fmt.Fprintf(a.out, "missing: %s, %s of them of this machine\n", count(int64(len(c.Lost)), "point"), thousands(int64(c.LostOwn)))
		if err := a.showPoints(c.Lost); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintln(a.out, "deletions, holds and changes of keys that came later are not in the vault either:\n"+
		"a passphrase that was changed since then may open it again")
	return err
}

func (a *app) takeOverCommand() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use:   "take-over",
		Short: "Make this machine the one that may write to the vault",
		Long: `Make this machine the owner of a vault in which one machine alone may write: one
on a store that replaces objects that exist, where two writers could destroy each
other's work. It needs a passphrase or the recovery key, or the admin key that
the home may keep.

The owner before must not write to the vault any more. It notices at its next
job, and is refused; a job that it has under way at this moment could still
write, so make sure that there is none.`,
		Example: `  agent vault take-over
  agent vault take-over --yes`,
		Args: wantArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.locked(func(h *home.Home) error { return a.takeOver(c.Context(), h, yes) })
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

func (a *app) takeOver(ctx context.Context, h *home.Home, yes bool) error {
	return a.withHome(ctx, h, func(s *agent.Session, _ *reporter) error {
		before := agent.Owner{Self: true}
		err := s.TakeOver(ctx, func(o agent.Owner) error {
			before = o
			if !a.json {
				fmt.Fprintf(a.out, "the owner is %s; it must not write to the vault any more\n", quote(o.String()))
			}
			return a.confirm(ctx, yes, "make this machine the owner?")
		})
		if err != nil {
			return err
		}
		if a.json {
			now, _ := s.Owner()
			f := fields{"owner": now.ID.String(), "changed": !before.Self}
			if !before.Self {
				f["owner_before"] = before.ID.String()
			}
			return a.summary(f)
		}
		if before.Self {
			return a.say("this machine is the owner already")
		}
		return a.say("this machine is the owner now")
	})
}

// errDeclined ends a command that somebody did not want after all.
var errDeclined = errors.New("not confirmed; nothing was changed")

// confirm asks on the terminal, unless yes was said before.
func (a *app) confirm(ctx context.Context, yes bool, question string) error {
	if yes {
		return nil
	}
	if err := a.out.Flush(); err != nil {
		return err
	}
	if !a.interactive() {
		return withHint(errDeclined, "read what is said above; then run it again with --yes, or on a terminal")
	}
	answer, err := a.askLine(ctx, question+" [y/N] ")
	if err != nil {
		return err
	}
	if answer != "y" && answer != "yes" {
		return errDeclined
	}
	return nil
}
