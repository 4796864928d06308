package main

import (
	"bytes"
	"fmt"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"github.com/tharsis-backup/tharsis/agent"
	"github.com/tharsis-backup/tharsis/vault/log"
)

func (a *app) statusCommand() *cobra.Command {
	var receipt bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Show the vault, this machine and its newest point",
		Long: `Show the vault, this machine and its newest point.

With --receipt it shows what to print, or to mail somewhere else: which entry is
the newest of the vault's log. A machine that has never seen the vault knows by it
whether it is shown an older state, with --expect-head.`,
		Example: `  agent status
  agent status --receipt
  agent restore --vault /mnt/disk/vault --point latest --target back --expect-head thh1-...`,
		Args: wantArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c.Context(), func(s *agent.Session, _ *reporter) error {
				st, err := s.Status(c.Context())
				if err != nil {
					return err
				}
				if receipt {
					return a.showReceipt(st)
				}
				return a.showStatus(st)
			})
		},
	}
	c.Flags().BoolVar(&receipt, "receipt", false, "show a receipt of the log's head, to keep somewhere else")
	return c
}

// headFields is a log's head in JSON.
func headFields(h log.Head) fields {
	return fields{"seq": h.Seq, "hash": fmt.Sprintf("%x", h.Hash)}
}

// vaultMode says who may write to a vault.
func vaultMode(owned bool) string {
	if owned {
		return "owner"
	}
	return "shared"
}

func (a *app) showStatus(st agent.StatusInfo) error {
	if a.json {
		f := fields{
			"vault": st.Vault, "vault_id": st.VaultID, "home": st.Home, "machine": st.Machine, "machine_id": st.MachineID,
			"machines": st.Machines, "points": st.Points, "deleted": st.Deleted, "held": st.Held, "soft_delete_days": st.SoftDeleteDays,
			"log_seq": st.Head.Seq, "log_hash": fmt.Sprintf("%x", st.Head.Hash),
			"index_runs": st.Runs, "admin_key": st.AdminKey, "mode": vaultMode(st.Owner != nil), "receipt": st.Head.Receipt(),
		}
		if o := st.Owner; o != nil {
			f["owner"], f["owner_name"], f["owner_self"] = o.ID.String(), jsonText(o.Name), o.Self
		}
		if st.Newest != nil {
			f["newest"] = pointFields(*st.Newest)
		}
		return a.summary(f)
	}
	newest := "none of this machine yet"
	if n := st.Newest; n != nil {
		newest = fmt.Sprintf("%s, %s ago, %s", shortPoint(n.ID.String()), time.Since(n.Time).Round(time.Second), statusWord(*n))
	}
	rows := [][]string{
		{"vault:", quote(st.Vault)}, {"vault ID:", st.VaultID}, {"home:", quote(st.Home)},
		{"machine:", quote(st.Machine) + " (" + st.MachineID + ")"},
		{"points:", thousands(int64(st.Points)) + " of " + count(int64(st.Machines), "machine")},
		{"deleted:", fmt.Sprintf("%s, to be brought back for %d days", count(int64(st.Deleted), "point"), st.SoftDeleteDays)},
		{"held:", count(int64(st.Held), "point")},
		{"newest:", newest},
		{"log head:", fmt.Sprintf("%d %x", st.Head.Seq, st.Head.Hash)},
		{"mode:", writersText(st.Owner)},
	}
	if err := table(a.out, rows); err != nil || !st.AdminKey {
		return err
	}
	return a.say("note: this machine keeps the vault's admin key; whoever takes the machine over could delete points,\n" +
		"      for good once the time in which they can be brought back is over")
}

func writersText(o *agent.Owner) string {
	switch {
	case o == nil:
		return "shared: any machine may write"
	case o.Self:
		return "owner: only this machine may write"
	}
	return "owner: only " + quote(o.String()) + " may write"
}

// showReceipt shows what a person keeps: all that it takes to tell this state of
// this vault from an older one.
func (a *app) showReceipt(st agent.StatusInfo) error {
	if a.json {
		return a.summary(fields{
			"vault": st.Vault, "vault_id": st.VaultID, "machine": st.Machine, "machine_id": st.MachineID,
			"time": st.At.Format(time.RFC3339), "head": headFields(st.Head), "receipt": st.Head.Receipt(),
		})
	}
	if err := table(a.out, [][]string{
		{"vault:", quote(st.Vault)}, {"vault ID:", st.VaultID},
		{"machine:", quote(st.Machine) + " (" + st.MachineID + ")"},
		{"time:", st.At.Format(time.RFC3339)},
		{"log head:", fmt.Sprintf("%d %x", st.Head.Seq, st.Head.Hash)},
	}); err != nil {
		return err
	}
	// On a line of its own it fits into 80 characters.
	_, err := fmt.Fprintf(a.out, "receipt:\n%s\n", st.Head.Receipt())
	return err
}

func (a *app) cacheCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "cache",
		Short: "Manage this machine's derived data",
		Long: `Manage the cache: data that this machine derives from the vault to be fast.
Losing it costs time, never data.`,
		Example: "  agent cache rebuild",
	}
	c.AddCommand(&cobra.Command{
		Use:     "rebuild",
		Short:   "Throw the cache away and fetch it anew; nothing is lost by it",
		Example: "  agent cache rebuild",
		Args:    wantArgs(),
		RunE:    func(c *cobra.Command, _ []string) error { return a.rebuildCache(c) },
	})
	return family(c, missingCommand)
}

func (a *app) rebuildCache(c *cobra.Command) error {
	return a.withLock(c.Context(), func(s *agent.Session, _ *reporter) error {
		n, err := s.RebuildCache(c.Context())
		if err != nil {
			return err
		}
		if a.json {
			return a.summary(fields{"bytes": n})
		}
		return a.say("rebuilt the cache, read %s of the vault", size(n))
	})
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Show the agent's version",
		Example: "  agent version",
		Args:    wantArgs(),
		RunE: func(*cobra.Command, []string) error {
			if a.json {
				return a.summary(fields{
					"version": agent.Version, "format": agent.FormatVersion, "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH,
				})
			}
			_, err := fmt.Fprintln(a.out, versionLine())
			return err
		},
	}
}

func versionLine() string {
	return fmt.Sprintf("agent %s (vault format %d, %s %s/%s)", agent.Version, agent.FormatVersion, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

func (a *app) completionCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Write the completion script of a shell: bash, zsh, fish or powershell",
		Example: `  agent completion bash > /etc/bash_completion.d/agent
  agent completion fish > ~/.config/fish/completions/agent.fish`,
		Args:      wantArgs("SHELL"),
		ValidArgs: []string{"bash", "zsh", "fish", "powershell"},
		RunE: func(_ *cobra.Command, args []string) error {
			var script bytes.Buffer
			var err error
			switch args[0] {
			case "bash":
				err = root.GenBashCompletionV2(&script, true)
			case "zsh":
				err = root.GenZshCompletion(&script)
			case "fish":
				err = root.GenFishCompletion(&script, true)
			case "powershell":
				err = root.GenPowerShellCompletionWithDesc(&script)
			default:
				err = withHint(fmt.Errorf("unknown shell %q", args[0]), "use bash, zsh, fish or powershell")
			}
			if err != nil {
				return err
			}
			if a.json {
				return a.summary(fields{"shell": args[0], "script": script.String()})
			}
			_, err = script.WriteTo(a.out)
			return err
		},
	}
}
