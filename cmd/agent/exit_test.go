package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/tharsis-backup/tharsis/agent"
	"github.com/tharsis-backup/tharsis/agent/home"
	"github.com/tharsis-backup/tharsis/vault/key"
)

func TestReport(t *testing.T) {
	for _, test := range []struct {
		err  error
		code int
		text string
	}{
		{nil, exitOK, ""},
		{errPartial, exitPartial, ""},
		{fmt.Errorf("store: %w", context.Canceled), exitInterrupted, "agent: interrupted\nhint: what was done so far is kept; run the command again to go on\n"},
		{home.ErrBusy, exitBusy, "agent: another backup is running on this home\nhint: wait until the other job has ended; there is no lock to clear\n"},
		{fmt.Errorf("/x: %w", agent.ErrNoVault), exitNoVault, "agent: /x: no vault there\nhint: check the place, or make a vault there with: agent init --vault PLACE\n"},
		{withHint(errors.New("so"), "do %s", "that"), exitError, "agent: so\nhint: do that\n"},
		{withHint(fmt.Errorf("%w: odd", key.ErrWrongKey), "try"), exitWrongKey, "agent: wrong passphrase or recovery key: odd\nhint: try\n"},
		{errors.Join(errors.New("a"), errors.New("b")), exitError, "agent: a; b\n"},
		{errors.New("/\x1b[2Jx: gone"), exitError, "agent: /\\x1b[2Jx: gone\n"},
		{&outputError{syscall.EPIPE}, exitError, ""},
	} {
		var b bytes.Buffer
		if code := report(&b, test.err); code != test.code || b.String() != test.text {
			t.Errorf("%v: code %d, text %q; want %d, %q", test.err, code, b.String(), test.code, test.text)
		}
	}
}

// TestOutcomes: every kind of error is shown with a next step, in one line.
func TestOutcomes(t *testing.T) {
	for _, o := range outcomes {
		if o.is != errPartial && (o.hint == "" || strings.Contains(o.hint, "\n")) {
			t.Errorf("%v has the hint %q", o.is, o.hint)
		}
	}
}
