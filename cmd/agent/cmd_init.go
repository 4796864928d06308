package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/tharsis-backup/tharsis/agent"
	"github.com/tharsis-backup/tharsis/agent/home"
	"github.com/tharsis-backup/tharsis/internal/durable"
	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/key"
)

// initFlags say where the secrets of a new vault come from and go to.
type initFlags struct {
	generate     bool
	recoveryFile string
	softDelete   int // days
}

func (a *app) initCommand() *cobra.Command {
	var o initFlags
	c := &cobra.Command{
		Use:   "init --vault URL",
		Short: "Make a vault",
		Long: `Make a vault, protected by a passphrase of 16 characters or more, and by a
recovery key that opens it when the passphrase is lost. The passphrase comes
from --passphrase-file, from the environment variable ` + passphraseEnv + `, or is
asked for twice on a terminal; --generate-passphrase makes one and prints it.

The recovery key is printed once, or written to --recovery-key-file. Whoever
loses both the passphrase and the recovery key has lost the data.

The home remembers its first vault: later commands need neither --vault nor the
passphrase.`,
		Example: `  agent init --vault /mnt/disk/vault --generate-passphrase --recovery-key-file ~/recovery.txt
  agent init --vault /mnt/disk/vault --passphrase-file ~/passphrase.txt`,
		Args: wantArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := onlyOne(c, "passphrase-file", "generate-passphrase"); err != nil {
				return err
			}
			if err := checkDays(o.softDelete); err != nil {
				return err
			}
			if err := absoluteAll(&o.recoveryFile); err != nil {
				return err
			}
			return a.init(c.Context(), o)
		},
	}
	f := c.Flags()
	f.BoolVar(&o.generate, "generate-passphrase", false, "generate a passphrase and print it once")
	f.StringVar(&o.recoveryFile, "recovery-key-file", "", "write the recovery key to this new `file` instead of printing it")
	f.IntVar(&o.softDelete, "soft-delete", vault.DefaultSoftDeleteDays, "for how many `DAYS`, 14 to 180, deleted points can be brought back")
	return c
}

func (a *app) init(ctx context.Context, o initFlags) error {
	if a.vault == "" {
		return withHint(errors.New("where to make the vault was not said"), "give --vault, for example: agent init --vault /mnt/disk/vault")
	}
	return a.locked(func(h *home.Home) error { return a.initIn(ctx, h, o) })
}

func (a *app) initIn(ctx context.Context, h *home.Home, o initFlags) error {
	env := a.environment(nil)
	// The place is checked before anybody has to think of a passphrase.
	if err := agent.CheckInit(ctx, env, a.vault); err != nil {
		return err
	}
	passphrase, err := a.newPassphrase(ctx, "", o.generate, a.given)
	if err != nil {
		return err
	}
	recovery, err := key.NewRecoveryKey(env.Rand)
	if err != nil {
		return err
	}
	// Written first: a vault must never be there without its recovery key.
	if o.recoveryFile != "" {
		if err := writeNew(o.recoveryFile, recovery.String()); err != nil {
			return err
		}
	}
	res, err := agent.Init(ctx, env, h, agent.InitOptions{
		Vault: a.vault, Passphrase: passphrase, Recovery: recovery, KDF: seams.kdf, SoftDeleteDays: o.softDelete,
	})
	if err != nil {
		if o.recoveryFile != "" {
			os.Remove(o.recoveryFile)
		}
		return err
	}
	return a.showInit(res, passphrase, recovery, o)
}

func (a *app) showInit(res agent.InitResult, passphrase string, recovery key.RecoveryKey, o initFlags) error {
	if a.json {
		f := fields{"vault": res.URL, "vault_id": res.VaultID}
		if res.Owned {
			f["mode"] = vaultMode(true)
		}
		if o.generate {
			f["passphrase"] = passphrase
		}
		if o.recoveryFile == "" {
			f["recovery_key"] = recovery.String()
		} else {
			f["recovery_key_file"] = o.recoveryFile
		}
		return a.summary(f)
	}
	a.say("made the vault %s", quote(res.URL))
	if o.generate {
		fmt.Fprintf(a.out, "passphrase:   %s\n", passphrase)
	}
	if o.recoveryFile == "" {
		fmt.Fprintf(a.out, "recovery key: %s\n", recovery)
	} else {
		a.say("recovery key: in %s", quote(o.recoveryFile))
	}
	if res.Owned {
		a.say("this place replaces objects that exist, so this machine alone may write to the vault; others may read it")
	}
	return a.say("keep both somewhere else than this machine: without one of them nobody can open the vault")
}

// writeNew writes a secret to a new 0600 file.
func writeNew(path, text string) error {
	if _, err := os.Lstat(path); err == nil {
		return withHint(fmt.Errorf("write recovery key: %s is there already", path), "name a new file")
	}
	if err := durable.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		return fmt.Errorf("write recovery key: %w", err)
	}
	return nil
}
