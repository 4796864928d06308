package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/tharsis-backup/tharsis/agent"
	"github.com/tharsis-backup/tharsis/internal/durable"
	"github.com/tharsis-backup/tharsis/vault/key"
)

func (a *app) initCommand() *cobra.Command {
	var passphraseFile, recoveryFile string
	var generate bool
	c := &cobra.Command{
		Use:   "init --vault URL",
		Short: "Make a vault",
		Long: `Make a vault, protected by a passphrase of 16 characters or more, and by a
recovery key that opens it when the passphrase is lost. The passphrase comes
from --passphrase-file, the environment variable ` + passphraseEnv + `, or is asked
for twice on a terminal; --generate-passphrase makes one and prints it.

Whoever loses both the passphrase and the recovery key has lost the data.`,
		Example: `  agent init --vault /mnt/disk/vault --generate-passphrase --recovery-key-file ~/recovery.txt`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.init(c.Context(), passphraseFile, recoveryFile, generate)
		},
	}
	f := c.Flags()
	f.StringVar(&passphraseFile, "passphrase-file", "", "read the passphrase from this file")
	f.BoolVar(&generate, "generate-passphrase", false, "generate a passphrase and print it once")
	f.StringVar(&recoveryFile, "recovery-key-file", "", "write the recovery key to this new file instead of printing it")
	c.MarkFlagsMutuallyExclusive("passphrase-file", "generate-passphrase")
	return c
}

func (a *app) init(ctx context.Context, passphraseFile, recoveryFile string, generate bool) error {
	if a.vault == "" {
		return withHint(errors.New("where to make the vault was not said"), "give --vault, for example: agent init --vault /mnt/disk/vault")
	}
	h, err := a.openHome()
	if err != nil {
		return err
	}
	if err := h.Lock(); err != nil {
		return err
	}
	defer h.Unlock()
	env, err := a.environment(nil)
	if err != nil {
		return err
	}
	// The place is checked before anybody has to think of a passphrase.
	if err := agent.CheckInit(ctx, env, a.vault); err != nil {
		return err
	}
	passphrase, err := a.newPassphrase(passphraseFile, generate)
	if err != nil {
		return err
	}
	recovery, err := key.NewRecoveryKey(env.Rand)
	if err != nil {
		return err
	}
	// Written first: a vault must never be there without its recovery key.
	if recoveryFile != "" {
		if err := writeNew(recoveryFile, recovery.String()); err != nil {
			return err
		}
	}
	res, err := agent.Init(ctx, env, h, agent.InitOptions{Vault: a.vault, Passphrase: passphrase, Recovery: recovery})
	if err != nil {
		if recoveryFile != "" {
			os.Remove(recoveryFile)
		}
		return err
	}
	return a.showInit(res, passphrase, recovery, recoveryFile, generate)
}

func (a *app) newPassphrase(file string, generate bool) (string, error) {
	var s string
	var err error
	switch {
	case generate:
		return key.GeneratePassphrase(nil)
	case file != "":
		s, err = fileSecret(file)
	default:
		var ok bool
		if s, ok = envSecret(); !ok {
			s, err = a.askTwice()
		}
	}
	if err != nil {
		return "", err
	}
	if _, err := key.NormalizePassphrase([]byte(s)); err != nil {
		return "", withHint(err, "use --generate-passphrase, or choose a longer one")
	}
	return s, nil
}

func (a *app) showInit(res agent.InitResult, passphrase string, recovery key.RecoveryKey, recoveryFile string, generate bool) error {
	if a.json {
		f := map[string]any{"vault": res.URL, "vault_id": res.VaultID}
		if generate {
			f["passphrase"] = passphrase
		}
		if recoveryFile == "" {
			f["recovery_key"] = recovery.String()
		} else {
			f["recovery_key_file"] = recoveryFile
		}
		return (&lines{w: a.std.out}).write("summary", f)
	}
	out := a.std.out
	if !a.quiet {
		fmt.Fprintf(out, "made the vault %s\n", res.URL)
	}
	if generate {
		fmt.Fprintf(out, "passphrase:   %s\n", passphrase)
	}
	if recoveryFile == "" {
		fmt.Fprintf(out, "recovery key: %s\n", recovery)
	} else if !a.quiet {
		fmt.Fprintf(out, "recovery key: in %s\n", recoveryFile)
	}
	if !a.quiet {
		fmt.Fprintln(out, "keep both somewhere else than this machine: without one of them nobody can open the vault")
	}
	return nil
}

// writeNew writes a secret to a new 0600 file.
func writeNew(path, text string) error {
	if _, err := os.Lstat(path); err == nil {
		return withHint(fmt.Errorf("write %s: it is there already", path), "name a new file")
	}
	if err := durable.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		return fmt.Errorf("write recovery key: %w", err)
	}
	return nil
}
