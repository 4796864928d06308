package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"

	"github.com/tharsis-backup/tharsis/agent"
	"github.com/tharsis-backup/tharsis/agent/home"
	"github.com/tharsis-backup/tharsis/internal/stage"
	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
)

// The exit codes, a contract with scripts; the README has the same table.
const (
	exitOK          = 0
	exitError       = 1
	exitPartial     = 3
	exitNoVault     = 10
	exitBusy        = 11
	exitWrongKey    = 12
	exitInterrupted = 130
)

// errPartial ends a command whose job is done but for some files; what they
// are was said already.
var errPartial = errors.New("done, but for some files")

// hintError is an error with the next step for the user.
type hintError struct {
	err  error
	hint string
}

func (e *hintError) Error() string { return e.err.Error() }
func (e *hintError) Unwrap() error { return e.err }

// withHint adds a hint, where err is one.
func withHint(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &hintError{err, fmt.Sprintf(format, args...)}
}

// outcome is how one kind of error is shown.
type outcome struct {
	is   error
	code int
	hint string
}

// outcomes is searched in order; the first match wins.
var outcomes = []outcome{
	{errPartial, exitPartial, ""},
	{context.Canceled, exitInterrupted, "what was done so far is kept; run the command again to go on"},
	{home.ErrBusy, exitBusy, "wait until the other job has ended; there is no lock to clear"},
	{agent.ErrNoVault, exitNoVault, "check the place, or make a vault there with: agent init --vault PLACE"},
	{agent.ErrNeedsRecovery, exitWrongKey, "give the recovery key with --passphrase-file or " + passphraseEnv + ", or type it on a terminal; a passphrase is not enough"},
	{key.ErrWrongKey, exitWrongKey, "check the passphrase; the recovery key works in its place"},
	{agent.ErrVaultExists, exitError, "choose another place, or use the vault with --vault"},
	{key.ErrNewer, exitError, "update this agent; the vault was left as it is"},
	{agent.ErrNotExpected, exitError, "the vault is older than the receipt, or another one; nothing was written. To use it all the same, leave --expect-head out"},
	{log.ErrRollback, exitError, "the vault is older than what this machine has seen; nothing was written. To see what is missing, and to go on with it: agent vault accept-head"},
	{log.ErrForked, exitError, "it is not the vault as this machine has seen it; nothing was written. To see what is missing, and to go on with it: agent vault accept-head"},
	{vault.ErrNotOwner, exitError, "reading is open to this machine; to make it the owner instead: agent vault take-over"},
	{vault.ErrNotCreateOnly, exitError, "the vault was made for a store that never replaces objects; put it back on such a one, nothing was written"},
	{agent.ErrShared, exitError, "there is nothing to take over"},
	{stage.ErrSpoilt, exitError, "nothing of it was stored; test this machine's memory, then run the command again; it goes on where it stopped"},
	{vault.ErrLogDamaged, exitError, "nothing was changed; put the log folder back from a copy of the vault, or get out what is there by tools/rescue/rescue.py --salvage"},
	{key.ErrDamaged, exitError, "run: agent verify --read-data, to see what is damaged and which files it hurts"},
	{agent.ErrDamaged, exitError, "what is not named above can still be restored"},
	{agent.ErrConfirm, exitError, "if that is right: agent prune --confirm; agent prune --dry-run shows what would go"},
	{agent.ErrNoPoint, exitError, "list the points with: agent points"},
	{agent.ErrHeld, exitError, "end the hold first, with: agent unhold POINT"},
	{agent.ErrNewest, exitError, "nothing was deleted; add --last if it is meant"},
	{agent.ErrNoPath, exitError, "look around with: agent ls POINT"},
	{agent.ErrNoSources, exitError, "name the folders: agent backup-now PATH..."},
	{agent.ErrAllFailed, exitError, "see the messages above; earlier points are as they were"},
	{key.ErrPassphrase, exitError, "use --generate-passphrase, or choose another one"},
	{syscall.ENOSPC, exitError, "free some space and run the command again; it goes on where it stopped"},
	{syscall.EDQUOT, exitError, "free some space, or ask for a larger quota, and run the command again; it goes on where it stopped"},
	{syscall.EIO, exitError, "the disk reports an error: check it, or use another one, before you rely on it"},
	{syscall.EROFS, exitError, "the file system is read-only; choose another place"},
	{syscall.ENOTDIR, exitError, "a file is where a folder is needed; choose another place"},
	{fs.ErrPermission, exitError, "run it as a user who may do this, or choose another place"},
	{fs.ErrNotExist, exitError, "check the name"},
}

// report writes err to stderr as the user sees it and returns the exit code.
func report(w io.Writer, err error) int {
	if err == nil {
		return exitOK
	}
	code, hint := exitError, ""
	for _, o := range outcomes {
		if errors.Is(err, o.is) {
			code, hint = o.code, o.hint
			break
		}
	}
	var ours *outputError
	var h *hintError
	var exposed *home.ExposedError
	if errors.As(err, &h) {
		hint = h.hint
	} else if errors.As(err, &exposed) {
		hint = exposed.Fix
	}
	switch {
	case code == exitPartial:
		return code
	case errors.As(err, &ours) && errors.Is(err, syscall.EPIPE):
		return code // whoever read our output has seen enough
	case code == exitInterrupted:
		err = errors.New("interrupted")
	}
	fmt.Fprintf(w, "agent: %s\n", plain(err.Error()))
	if hint != "" {
		fmt.Fprintf(w, "hint: %s\n", plain(hint))
	}
	return code
}
