package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/tharsis-backup/tharsis/agent"
)

func (a *app) keyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "key",
		Short: "Manage the vault's passphrases and its recovery key",
		Long: `Manage what opens the vault: passphrases and a recovery key, each in a key slot.
All but list need a passphrase or the recovery key that opens the vault now, from
--passphrase-file, from ` + passphraseEnv + ` or asked for on a terminal: the key
that this machine keeps is not enough.`,
		Example: `  agent key list
  agent key show-recovery`,
	}
	c.AddCommand(a.keyShowCommand(), a.keyChangeCommand(), a.keyAddCommand(), a.keyListCommand(), a.keyRemoveCommand())
	return family(c, missingCommand)
}

func (a *app) keyShowCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "show-recovery",
		Short: "Show the recovery key, for the passphrase",
		Example: `  agent key show-recovery
  agent key show-recovery --passphrase-file ~/passphrase.txt`,
		Args: wantArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withSecret(c.Context(), func(s *agent.Session, secret string) error {
				k, err := s.RecoveryKey(c.Context(), secret)
				if err != nil {
					return err
				}
				if a.json {
					return a.summary(fields{"recovery_key": k.String()})
				}
				_, err = fmt.Fprintln(a.out, k)
				return err
			})
		},
	}
	return c
}

// withSecret opens the vault and asks for a passphrase or recovery key that
// must open it now, whether or not the home holds its key.
func (a *app) withSecret(ctx context.Context, fn func(s *agent.Session, secret string) error) error {
	return a.with(ctx, func(s *agent.Session, _ *reporter) error {
		secret, err := a.secret(ctx)
		if err != nil {
			return err
		}
		return fn(s, secret)
	})
}

// keyFlags say which passphrase is to be new.
type keyFlags struct {
	next     string // a file
	generate bool
}

func (k *keyFlags) register(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&k.next, "new-passphrase-file", "", "read the new passphrase from this `file`")
	f.BoolVar(&k.generate, "generate-passphrase", false, "generate the new passphrase and print it once")
}

func (a *app) keyChangeCommand() *cobra.Command {
	var k keyFlags
	c := &cobra.Command{
		Use:   "change-passphrase",
		Short: "Replace the passphrase; the recovery key may stand in for a lost one",
		Long: `Replace the passphrase that is given. Where the recovery key is given instead,
since the passphrase is lost, the new one replaces all passphrases. The new one
comes from --new-passphrase-file, --generate-passphrase or the terminal.

Nothing is encrypted again: whoever has both the old passphrase and an old copy
of the vault can still open that copy.`,
		Example: `  agent key change-passphrase
  agent key change-passphrase --passphrase-file old.txt --new-passphrase-file new.txt`,
		Args: wantArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.changeKeys(c, k, "the passphrase was changed", func(s *agent.Session, o agent.KeyChange) error {
				return s.ChangePassphrase(c.Context(), o)
			})
		},
	}
	k.register(c)
	return c
}

func (a *app) keyAddCommand() *cobra.Command {
	var k keyFlags
	var label string
	c := &cobra.Command{
		Use:     "add",
		Short:   "Add a second passphrase",
		Example: "  agent key add --generate-passphrase --label 'second admin'",
		Args:    wantArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.changeKeys(c, k, "the passphrase was added", func(s *agent.Session, o agent.KeyChange) error {
				o.Label = label
				return s.AddPassphrase(c.Context(), o)
			})
		},
	}
	k.register(c)
	c.Flags().StringVar(&label, "label", "", "a `word` to know it by in agent key list")
	return c
}

// changeKeys is what adding and replacing a passphrase have in common.
func (a *app) changeKeys(c *cobra.Command, k keyFlags, done string, change func(*agent.Session, agent.KeyChange) error) error {
	if err := onlyOne(c, "new-passphrase-file", "generate-passphrase"); err != nil {
		return err
	}
	return a.withSecret(c.Context(), func(s *agent.Session, secret string) error {
		fresh, err := a.newPassphrase(c.Context(), k.next, k.generate, "")
		if err != nil {
			return err
		}
		if err := change(s, agent.KeyChange{Current: secret, New: fresh, KDF: seams.kdf}); err != nil {
			return err
		}
		if a.json {
			f := fields{}
			if k.generate {
				f["passphrase"] = fresh
			}
			return a.summary(f)
		}
		if k.generate {
			fmt.Fprintf(a.out, "passphrase: %s\n", fresh)
		}
		return a.say("%s", done)
	})
}

func (a *app) keyListCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List what opens the vault",
		Example: "  agent key list",
		Args:    wantArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.with(c.Context(), func(s *agent.Session, _ *reporter) error {
				return a.showKeys(s.Keys())
			})
		},
	}
}

func (a *app) showKeys(keys []agent.KeyInfo) error {
	if a.json {
		for _, k := range keys {
			if err := a.out.line("key", fields{
				"id": k.ID, "kind": k.Kind, "label": jsonText(k.Label), "created": k.Created.Format(time.RFC3339),
			}); err != nil {
				return err
			}
		}
		return a.summary(fields{"keys": len(keys)})
	}
	rows := [][]string{{"ID", "KIND", "CREATED", "LABEL"}}
	for _, k := range keys {
		rows = append(rows, []string{k.ID, k.Kind, clock(k.Created), quote(k.Label)})
	}
	return table(a.out, rows)
}

func (a *app) keyRemoveCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "remove ID",
		Short: "Take a passphrase or a recovery key out of use",
		Long: `Take a passphrase or a recovery key out of use, by its ID in agent key list (or
the first 4 or more digits of it). It needs the passphrase or recovery key of
another one, so that nobody can lock himself out.`,
		Example: "  agent key remove 5be2c04a",
		Args:    wantArgs("ID"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withSecret(c.Context(), func(s *agent.Session, secret string) error {
				err := s.RemoveKey(c.Context(), secret, args[0])
				if errors.Is(err, agent.ErrLastKey) {
					return withHint(err, "give the passphrase of another one, or the recovery key")
				}
				if err != nil {
					return err
				}
				if a.json {
					return a.summary(fields{})
				}
				return a.say("the key was removed")
			})
		},
	}
	return c
}
