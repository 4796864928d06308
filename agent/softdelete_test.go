package agent

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/tharsis-backup/tharsis/vault/key"
)

// The admin key raises the period, and only the recovery key lowers it, each time
// for what is deleted already too.
func TestSetSoftDelete(t *testing.T) {
	l := newLifeRig(t, 1)
	ctx := t.Context()
	one := l.commit(1)
	l.commit(1)
	_, err := l.forget(0, ForgetOptions{}, one)
	noErr(t, err)
	recovery, err := l.machines[0].RecoveryKey(ctx, testPassphrase)
	noErr(t, err)
	other, err := key.NewRecoveryKey(nil)
	noErr(t, err)
	is := func(err error) func(error) bool { return func(e error) bool { return errors.Is(e, err) } }
	refused := func(e error) bool { return e != nil }
	for _, step := range []struct {
		machine int
		secret  string // "" where nobody knows one
		days    int
		err     func(error) bool
		want    int
	}{
		{0, "", 13, refused, 14}, {0, "", 181, refused, 14}, {0, recovery.String(), 13, refused, 14}, {0, "", -1, refused, 14},
		{0, "", 14, is(nil), 14}, {0, "", 30, is(nil), 30}, {0, "", 30, is(nil), 30},
		{1, "", 40, is(errAsked), 30}, {1, testPassphrase, 40, is(nil), 40}, {1, recovery.String(), 50, is(nil), 50},
		{0, "", 49, is(errAsked), 50}, {0, testPassphrase, 49, is(ErrNeedsRecovery), 50},
		{0, "a wrong passphrase 1234", 49, is(ErrNeedsRecovery), 50}, {0, "short", 49, is(ErrNeedsRecovery), 50},
		{1, testPassphrase, 49, is(ErrNeedsRecovery), 50}, {0, other.String(), 49, is(key.ErrWrongKey), 50},
		{1, recovery.String(), 49, is(nil), 49}, {0, recovery.String(), 14, is(nil), 14}, {0, "", 180, is(nil), 180},
	} {
		r := *l.rigs[step.machine]
		r.env.Secret = func(context.Context) (string, error) {
			if step.secret == "" {
				return "", errAsked
			}
			return step.secret, nil
		}
		before := l.entries()
		was := l.machines[0].vault.Log.State().SoftDeleteDays()
		s := r.opened()
		got, err := s.SetSoftDelete(ctx, step.days)
		if !step.err(err) || err == nil && got != was {
			t.Errorf("%+v: %d, %v", step, got, err)
		}
		wrote := l.entries() - before
		if err == nil {
			l.machines[step.machine] = s
			l.seen(step.machine)
		}
		if days := l.machines[0].vault.Log.State().SoftDeleteDays(); days != step.want || (wrote == 1) != (days != was) {
			t.Errorf("%+v: %d days, %d entries", step, days, wrote)
		}
		points, err := l.machines[0].Points(ctx, PointFilter{Deleted: true})
		noErr(t, err)
		if want := l.now.Add(time.Duration(step.want) * 24 * time.Hour); !points[0].PurgeFrom.Equal(want) {
			t.Errorf("%+v: to be purged from %v, want %v", step, points[0].PurgeFrom, want)
		}
	}
	// Where nobody can be asked, nothing is lowered.
	r := *l.rigs[0]
	r.env.Secret = nil
	if _, err := r.opened().SetSoftDelete(ctx, 20); !errors.Is(err, ErrNeedsRecovery) {
		t.Error(err)
	}
}
