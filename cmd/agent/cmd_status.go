package main

import (
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
		Args:    cobra.NoArgs,
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
		f := map[string]any{
			"vault": st.Vault, "vault_id": st.VaultID, "home": st.Home, "machine": st.Machine, "machine_id": st.MachineID,
			"machines": st.Machines, "points": st.Points, "log_seq": st.Seq, "log_hash": st.Hash,
			"index_runs": st.Runs, "admin_key": st.AdminKey,
		}
		if st.Newest != nil {
			f["newest"] = pointFields(*st.Newest)
		}
		return (&lines{w: a.std.out}).write("summary", f)
	}
	rows := [][]string{
		{"vault:", st.Vault}, {"vault ID:", st.VaultID}, {"home:", st.Home},
		{"machine:", st.Machine + " (" + st.MachineID + ")"},
		{"points:", fmt.Sprintf("%d of %s", st.Points, count(int64(st.Machines), "machine"))},
		{"log head:", fmt.Sprintf("%d %s", st.Seq, st.Hash)},
	}
	if n := st.Newest; n != nil {
		rows = append(rows, []string{"newest:", fmt.Sprintf("%s, %s ago, %s", n.ID.String()[:12], time.Since(n.Time).Round(time.Second), statusWord(*n))})
	}
	if st.AdminKey {
		rows = append(rows, []string{"note:", "this machine keeps the admin key: whoever takes it over could delete points after the soft-delete period"})
	}
	table(a.std.out, rows)
	return nil
}

func (a *app) cacheCommand() *cobra.Command {
	c := &cobra.Command{Use: "cache", Short: "Manage this machine's derived data", Example: "  agent cache rebuild"}
	c.AddCommand(&cobra.Command{
		Use:     "rebuild",
		Short:   "Throw the cache away and fetch it anew; nothing is lost by it",
		Example: "  agent cache rebuild",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.rebuildCache(c)
		},
	})
	return c
}

func (a *app) rebuildCache(c *cobra.Command) error {
	h, err := a.openHome()
	if err != nil {
		return err
	}
	if err := h.Lock(); err != nil {
		return err
	}
	defer h.Unlock()
	return a.with(c.Context(), func(s *agent.Session, _ *reporter) error {
		n, err := s.RebuildCache(c.Context())
		if err != nil {
			return err
		}
		if a.json {
			return (&lines{w: a.std.out}).write("summary", map[string]any{"bytes": n})
		}
		if !a.quiet {
			fmt.Fprintf(a.std.out, "rebuilt the cache: %s\n", size(n))
		}
		return nil
	})
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Show the agent's version",
		Example: "  agent version",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if a.json {
				return (&lines{w: a.std.out}).write("summary", map[string]any{
					"version": agent.Version, "format": agent.FormatVersion, "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH,
				})
			}
			_, err := fmt.Fprintf(a.std.out, "agent %s (vault format %d, %s %s/%s)\n", agent.Version, agent.FormatVersion, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

func (a *app) completionCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:       "completion SHELL",
		Short:     "Write the completion script of a shell: bash, zsh, fish or powershell",
		Example:   `  agent completion bash > /etc/bash_completion.d/agent`,
		Args:      exactArgs("SHELL"),
		ValidArgs: []string{"bash", "zsh", "fish", "powershell"},
		RunE: func(_ *cobra.Command, args []string) error {
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.std.out, true)
			case "zsh":
				return root.GenZshCompletion(a.std.out)
			case "fish":
				return root.GenFishCompletion(a.std.out, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(a.std.out)
			}
			return withHint(fmt.Errorf("unknown shell %q", args[0]), "use bash, zsh, fish or powershell")
		},
	}
}
