package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/term"
)

// passphraseEnv holds the passphrase, or the recovery key, for scripts. It is
// removed from the environment as soon as it was read.
const passphraseEnv = "THARSIS_PASSPHRASE"

// maxSecretFile bounds a passphrase file: a passphrase has at most 1,024 bytes.
const maxSecretFile = 4 << 10

var errNoSecret = errors.New("the vault's passphrase is needed")

// secret is asked for the passphrase when the home holds no key.
func (a *app) secret(context.Context) (string, error) {
	if s, ok := envSecret(); ok {
		return s, nil
	}
	if a.std.in == nil || !term.IsTerminal(int(a.std.in.Fd())) {
		return "", withHint(errNoSecret, "set %s, or run this on a terminal", passphraseEnv)
	}
	return a.ask("passphrase or recovery key: ")
}

func envSecret() (string, bool) {
	s, ok := os.LookupEnv(passphraseEnv)
	os.Unsetenv(passphraseEnv)
	return s, ok && s != ""
}

// ask reads a secret from the terminal without showing it.
func (a *app) ask(prompt string) (string, error) {
	fmt.Fprint(a.std.err, prompt)
	b, err := term.ReadPassword(int(a.std.in.Fd()))
	fmt.Fprintln(a.std.err)
	if err != nil {
		return "", fmt.Errorf("read passphrase: %w", err)
	}
	return string(b), nil
}

// askTwice reads a new passphrase from the terminal.
func (a *app) askTwice() (string, error) {
	if a.std.in == nil || !term.IsTerminal(int(a.std.in.Fd())) {
		return "", withHint(errors.New("a passphrase for the vault is needed"),
			"give --generate-passphrase or --passphrase-file, or set %s", passphraseEnv)
	}
	first, err := a.ask("new passphrase (16 characters or more): ")
	if err != nil {
		return "", err
	}
	second, err := a.ask("the same again: ")
	if err != nil {
		return "", err
	}
	if first != second {
		return "", withHint(errors.New("the two passphrases differ"), "try again")
	}
	return first, nil
}

// fileSecret reads a secret from a file, without its line end.
func fileSecret(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read passphrase file: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	if err != nil {
		return "", fmt.Errorf("read passphrase file: %w", err)
	}
	if len(b) > maxSecretFile {
		return "", fmt.Errorf("read passphrase file %s: longer than any passphrase", path)
	}
	return string(bytes.TrimRight(b, "\r\n")), nil
}
