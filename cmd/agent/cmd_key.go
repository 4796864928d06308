package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/tharsis-backup/tharsis/agent"
)

func (a *app) keyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "key",
		Short:   "Manage the vault's passphrases and its recovery key",
		Example: "  agent key list",
	}
	c.AddCommand(a.keyShowCommand(), a.keyChangeCommand(), a.keyAddCommand(), a.keyListCommand(), a.keyRemoveCommand())
	return c
}

func (a *app) keyShowCommand() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:     "show-recovery",
		Short:   "Show the recovery key; asks for the passphrase",
		Example: "  agent key show-recovery",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			secret, err := a.currentSecret(c, file)
			if err != nil {
				return err
			}
			return a.with(c.Context(), func(s *agent.Session, _ *reporter) error {
				k, err := s.RecoveryKey(c.Context(), secret)
				if err != nil {
					return err
				}
				if a.json {
					return (&lines{w: a.std.out}).write("summary", map[string]any{"recovery_key": k.String()})
				}
				_, err = fmt.Fprintln(a.std.out, k)
				return err
			})
		},
	}
	c.Flags().StringVar(&file, "passphrase-file", "", "read the passphrase from this file")
	return c
}

// currentSecret is a passphrase or recovery key that must open the vault now,
// whether or not the home holds its key.
func (a *app) currentSecret(c *cobra.Command, file string) (string, error) {
	if file != "" {
		return fileSecret(file)
	}
	return a.secret(c.Context())
}

func (a *app) keyChangeCommand() *cobra.Command {
	var current, next string
	var generate bool
	c := &cobra.Command{
		Use:   "change-passphrase",
		Short: "Replace the passphrase; the recovery key may stand in for a lost one",
		Long: `Replace the passphrase. The one that opens the vault now, or the recovery key,
comes from --passphrase-file, ` + passphraseEnv + ` or the terminal; the new one from
--new-passphrase-file, --generate-passphrase or the terminal. Nothing is encrypted
again: whoever has both the old passphrase and an old copy of the vault can still
open that copy.`,
		Example: "  agent key change-passphrase --generate-passphrase",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.changeKeys(c, current, next, generate, (*agent.Session).ChangePassphrase)
		},
	}
	newSecretFlags(c, &current, &next, &generate)
	return c
}

func (a *app) keyAddCommand() *cobra.Command {
	var current, next, label string
	var generate bool
	c := &cobra.Command{
		Use:     "add",
		Short:   "Add a second passphrase",
		Example: "  agent key add --generate-passphrase --label 'second admin'",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.changeKeys(c, current, next, generate, func(s *agent.Session, ctx context.Context, o agent.KeyChange) error {
				o.Label = label
				return s.AddPassphrase(ctx, o)
			})
		},
	}
	newSecretFlags(c, &current, &next, &generate)
	c.Flags().StringVar(&label, "label", "", "a word to know it by in agent key list")
	return c
}

func newSecretFlags(c *cobra.Command, current, next *string, generate *bool) {
	f := c.Flags()
	f.StringVar(current, "passphrase-file", "", "read the passphrase that opens the vault now from this file")
	f.StringVar(next, "new-passphrase-file", "", "read the new passphrase from this file")
	f.BoolVar(generate, "generate-passphrase", false, "generate the new passphrase and print it once")
	c.MarkFlagsMutuallyExclusive("new-passphrase-file", "generate-passphrase")
}

func (a *app) changeKeys(c *cobra.Command, current, next string, generate bool, change func(*agent.Session, context.Context, agent.KeyChange) error) error {
	secret, err := a.currentSecret(c, current)
	if err != nil {
		return err
	}
	fresh, err := a.newPassphrase(next, generate)
	if err != nil {
		return err
	}
	return a.with(c.Context(), func(s *agent.Session, _ *reporter) error {
		if err := change(s, c.Context(), agent.KeyChange{Current: secret, New: fresh}); err != nil {
			return err
		}
		switch {
		case a.json:
			f := map[string]any{}
			if generate {
				f["passphrase"] = fresh
			}
			return (&lines{w: a.std.out}).write("summary", f)
		case generate:
			_, err = fmt.Fprintf(a.std.out, "passphrase: %s\n", fresh)
		case !a.quiet:
			_, err = fmt.Fprintln(a.std.out, "done")
		}
		return err
	})
}

func (a *app) keyListCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the key slots",
		Example: "  agent key list",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c.Context(), func(s *agent.Session, _ *reporter) error {
				return a.showKeys(s.Keys())
			})
		},
	}
}

func (a *app) showKeys(keys []agent.KeyInfo) error {
	if a.json {
		l := &lines{w: a.std.out}
		for _, k := range keys {
			if err := l.write("key", map[string]any{"id": k.ID, "kind": k.Kind, "label": k.Label, "created": k.Created.Format(time.RFC3339)}); err != nil {
				return err
			}
		}
		return l.write("summary", map[string]any{"keys": len(keys)})
	}
	rows := [][]string{{"ID", "KIND", "CREATED", "LABEL"}}
	for _, k := range keys {
		rows = append(rows, []string{k.ID, k.Kind, clock(k.Created), quote(k.Label)})
	}
	table(a.std.out, rows)
	return nil
}

func (a *app) keyRemoveCommand() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:     "remove ID",
		Short:   "Remove a passphrase or a recovery key by its ID; never the last one",
		Example: "  agent key remove 5be2c04a",
		Args:    exactArgs("ID"),
		RunE: func(c *cobra.Command, args []string) error {
			secret, err := a.currentSecret(c, file)
			if err != nil {
				return err
			}
			return a.with(c.Context(), func(s *agent.Session, _ *reporter) error {
				return s.RemoveKey(c.Context(), secret, args[0])
			})
		},
	}
	c.Flags().StringVar(&file, "passphrase-file", "", "read a passphrase that opens the vault from this file")
	return c
}
