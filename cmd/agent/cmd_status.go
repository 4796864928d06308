package main

import (
	"bytes"
	"fmt"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"github.com/tharsis-backup/tharsis/agent"
)

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "status",
		Short:   "Show the vault, this machine and its newest point",
		Example: "  agent status",
		Args:    wantArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c.Context(), func(s *agent.Session, _ *reporter) error {
				st, err := s.Status(c.Context())
				if err != nil {
					return err
				}
				return a.showStatus(st)
			})
		},
	}
}

func (a *app) showStatus(st agent.StatusInfo) error {
	if a.json {
		f := fields{
			"vault": st.Vault, "vault_id": st.VaultID, "home": st.Home, "machine": st.Machine, "machine_id": st.MachineID,
			"machines": st.Machines, "points": st.Points, "log_seq": st.Seq, "log_hash": st.Hash,
			"index_runs": st.Runs, "admin_key": st.AdminKey,
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
		{"newest:", newest},
		{"log head:", fmt.Sprintf("%d %s", st.Seq, st.Hash)},
	}
	if err := table(a.out, rows); err != nil || !st.AdminKey {
		return err
	}
	return a.say("note: this machine keeps the vault's admin key; whoever takes the machine over could delete points,\n" +
		"      for good once the time in which they can be brought back is over")
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
	return a.withLocked(c.Context(), func(s *agent.Session, _ *reporter) error {
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
