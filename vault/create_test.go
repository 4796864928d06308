package vault

import (
	"crypto/ed25519"
	"errors"
	"strings"
	"testing"

	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/backend/fault"
	"github.com/tharsis-backup/tharsis/vault/backend/mem"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
)

// createOptions are cheap to derive keys with.
func createOptions(t *testing.T) CreateOptions {
	t.Helper()
	pass, err := key.NewPassphrase([]byte("a passphrase for tests 17"))
	if err != nil {
		t.Fatal(err)
	}
	recovery, err := key.NewRecoveryKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return CreateOptions{Passphrase: pass, Recovery: recovery, KDF: key.KDFParams{Time: 1, MemoryKiB: 64, Lanes: 1}}
}

func TestCreateOnce(t *testing.T) {
	b := mem.New()
	o := createOptions(t)
	id, sec, err := Create(t.Context(), b, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range b.Names() {
		if strings.HasPrefix(name, "probe/") {
			t.Errorf("left behind: %s", name)
		}
	}
	if _, _, err := Create(t.Context(), b, createOptions(t)); !errors.Is(err, ErrExists) {
		t.Errorf("a second Create: %v", err)
	}
	v, err := Open(t.Context(), b, sec.Root, nil, Options{})
	if err != nil || v.Config.Vault != id {
		t.Fatalf("open: %v", err)
	}
}

// The soft-delete period is the one asked for, and 14 days where none is; one that
// no vault can have is refused before anything is stored.
func TestCreateSoftDelete(t *testing.T) {
	for asked, want := range map[int]int{0: 14, 14: 14, 180: 180, 13: 0, 181: 0, -1: 0} {
		b, o := mem.New(), createOptions(t)
		o.SoftDeleteDays = asked
		_, sec, err := Create(t.Context(), b, o)
		if want == 0 {
			if err == nil || len(b.Names()) > 0 {
				t.Errorf("%d days: %v, stored %v", asked, err, b.Names())
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		v, err := Open(t.Context(), b, sec.Root, nil, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got := v.Log.State().SoftDeleteDays(); got != want {
			t.Errorf("asked for %d days, got %d", asked, got)
		}
	}
}

// TestCreateGoesOn takes the log away, as if the first Create had been killed
// before it: the next one must make a vault of what is left.
func TestCreateGoesOn(t *testing.T) {
	b := mem.New()
	if _, _, err := Create(t.Context(), b, createOptions(t)); err != nil {
		t.Fatal(err)
	}
	b.Remove(log.EntryName(0))
	if _, _, err := ReadConfig(t.Context(), b); !errors.Is(err, ErrNone) {
		t.Fatalf("half a vault: %v", err)
	}
	_, sec, err := Create(t.Context(), b, createOptions(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), b, sec.Root, nil, Options{}); err != nil {
		t.Fatal(err)
	}
}

// Without an owner a backend whose Put replaces is refused, and left as it was.
func TestProbeRefusesReplacing(t *testing.T) {
	b := mem.New()
	if _, _, err := Create(t.Context(), fault.Replacing(b), createOptions(t)); !errors.Is(err, ErrNotCreateOnly) {
		t.Errorf("Create on a backend that replaces: %v", err)
	}
	if left := b.Names(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestCreateOwnerMode(t *testing.T) {
	for _, replaces := range []bool{false, true} {
		m := mem.New()
		var b backend.Backend = m
		if replaces {
			b = fault.Replacing(m)
		}
		o := createOptions(t)
		o.Owner = log.MachineID{7}
		_, sec, err := Create(t.Context(), b, o)
		if err != nil {
			t.Fatal(err)
		}
		v, err := Open(t.Context(), b, sec.Root, nil, Options{})
		if err != nil {
			t.Fatal(err)
		}
		want := key.Config{Vault: v.Config.Vault, Cut: v.Config.Cut}
		if replaces {
			want.Mode, want.Owner = key.ModeOwner, o.Owner
		}
		if v.Config != want {
			t.Errorf("replaces %v: %+v", replaces, v.Config)
		}
		_, err = v.Log.Append(t.Context(), ed25519.NewKeyFromSeed(sec.AdminSeed[:]), func(*log.State) (log.Body, error) {
			return &log.Machine{ID: o.Owner, Name: "m", OS: "linux"}, nil
		})
		if replaces && !errors.Is(err, ErrNotOwner) || !replaces && err != nil {
			t.Errorf("replaces %v: a write of somebody: %v", replaces, err)
		}
		if _, _, err := Create(t.Context(), b, o); !errors.Is(err, ErrExists) {
			t.Errorf("replaces %v: a second Create: %v", replaces, err)
		}
	}
}

// Two that make a vault at the same time where Put replaces: the one that ends last
// reports only what is there.
func TestCreateOwnerModeAtOnce(t *testing.T) {
	probe := mem.New()
	o := createOptions(t)
	o.Owner = log.MachineID{1}
	count := fault.New(fault.Replacing(probe), nil)
	if _, _, err := Create(t.Context(), count, o); err != nil {
		t.Fatal(err)
	}
	lost := 0
	for n := range count.Count() {
		for _, after := range []bool{false, true} {
			m := mem.New()
			var rivalErr error
			var rivalSec key.Secrets
			b := fault.New(fault.Replacing(m), func(op fault.Op) fault.Action {
				if op.N == n && op.After == after {
					rival := createOptions(t)
					rival.Owner = log.MachineID{2}
					_, rivalSec, rivalErr = Create(t.Context(), fault.Replacing(m), rival)
				}
				return fault.Action{}
			})
			_, sec, err := Create(t.Context(), b, o)
			if err == nil && !opens(t, m, sec.Root) {
				t.Errorf("operation %d, after %v: ours was reported, and does not open", n, after)
			}
			if rivalErr == nil && !opens(t, m, rivalSec.Root) {
				lost++
			}
		}
	}
	// The rival is lost if it is made between a look and the Put that follows it: of
	// the config, or of the first entry.
	if lost > 4 {
		t.Errorf("a vault that was made at the same time is lost in %d cases", lost)
	}
}

func opens(t *testing.T, b backend.Backend, root key.Root) bool {
	_, err := Open(t.Context(), b, root, nil, Options{})
	return err == nil
}
