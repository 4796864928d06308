package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/tharsis-backup/tharsis/vault/key"
)

// passphraseEnv holds the passphrase, or the recovery key, for scripts.
const passphraseEnv = "THARSIS_PASSPHRASE"

// maxSecretFile bounds a passphrase file: a passphrase has at most 1,024 bytes.
const maxSecretFile = 4 << 10

var errNoSecret = errors.New("the vault's passphrase is needed")

// takeSecret reads the secret of the environment and removes it from there, so
// that no child process gets it.
func takeSecret() string {
	s := os.Getenv(passphraseEnv)
	os.Unsetenv(passphraseEnv)
	return s
}

// secret is asked for the passphrase when the home holds no key, and for what
// needs it in any case.
func (a *app) secret(ctx context.Context) (string, error) {
	if a.given != "" {
		return a.given, nil
	}
	if !a.interactive() {
		return "", withHint(errNoSecret, "give it with --passphrase-file or %s, or run this on a terminal", passphraseEnv)
	}
	var err error
	a.given, err = a.ask(ctx, "passphrase or recovery key: ")
	return a.given, err
}

// interactive tells whether somebody can be asked.
func (a *app) interactive() bool { return a.in != nil && term.IsTerminal(int(a.in.Fd())) }

// ask reads a secret from the terminal without showing it. A Ctrl-C gives the
// terminal back as it was.
func (a *app) ask(ctx context.Context, prompt string) (string, error) {
	fd := int(a.in.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", fmt.Errorf("read passphrase: %w", err)
	}
	type answer struct {
		text []byte
		err  error
	}
	done := make(chan answer, 1)
	fmt.Fprint(a.err, prompt)
	go func() {
		b, err := term.ReadPassword(fd)
		done <- answer{b, err}
	}()
	select {
	case <-ctx.Done():
		term.Restore(fd, before)
		fmt.Fprintln(a.err)
		return "", ctx.Err()
	case got := <-done:
		fmt.Fprintln(a.err)
		if got.err != nil {
			return "", fmt.Errorf("read passphrase: %w", got.err)
		}
		return string(got.text), nil
	}
}

// maxAnswer bounds what is read as an answer.
const maxAnswer = 64

// askLine reads an answer from the terminal, in lower case and without spaces
// around it.
func (a *app) askLine(ctx context.Context, prompt string) (string, error) {
	type answer struct {
		text string
		err  error
	}
	done := make(chan answer, 1)
	fmt.Fprint(a.err, prompt)
	go func() {
		text, err := bufio.NewReader(io.LimitReader(a.in, maxAnswer)).ReadString('\n')
		if errors.Is(err, io.EOF) {
			err = nil
		}
		done <- answer{strings.ToLower(strings.TrimSpace(text)), err}
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(a.err)
		return "", ctx.Err()
	case got := <-done:
		if got.err != nil {
			return "", fmt.Errorf("read answer: %w", got.err)
		}
		return got.text, nil
	}
}

// newPassphrase gets the passphrase for a new key slot: a generated one, that
// of a file, offered where it is not empty, or what is asked for.
func (a *app) newPassphrase(ctx context.Context, file string, generate bool, offered string) (string, error) {
	if generate {
		return key.GeneratePassphrase(nil)
	}
	s, err := offered, error(nil)
	if file != "" {
		s, err = fileSecret(file)
	} else if s == "" {
		s, err = a.askTwice(ctx)
	}
	if err != nil {
		return "", err
	}
	if _, err := key.NewPassphrase([]byte(s)); err != nil {
		return "", withHint(err, "use --generate-passphrase, or choose a longer one")
	}
	return s, nil
}

// askTwice reads a new passphrase from the terminal.
func (a *app) askTwice(ctx context.Context) (string, error) {
	if !a.interactive() {
		return "", withHint(errors.New("a new passphrase is needed"), "use --generate-passphrase, give it in a file (see --help), or run this on a terminal")
	}
	first, err := a.ask(ctx, fmt.Sprintf("new passphrase (%d characters or more): ", key.MinPassphraseRunes))
	if err != nil {
		return "", err
	}
	second, err := a.ask(ctx, "the same again: ")
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
		return "", fmt.Errorf("read passphrase: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	if err != nil {
		return "", fmt.Errorf("read passphrase: %w", err)
	}
	if len(b) > maxSecretFile {
		return "", fmt.Errorf("read passphrase: %s is longer than any passphrase", path)
	}
	return string(bytes.TrimRight(b, "\r\n")), nil
}
