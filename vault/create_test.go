package vault

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/tharsis-backup/tharsis/vault/backend"
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

// replacing is a backend whose Put replaces what is there.
type replacing struct{ *mem.Backend }

func (r replacing) Put(ctx context.Context, name string, body io.ReaderAt, size int64) error {
	if err := r.Delete(ctx, name); err != nil && !errors.Is(err, backend.ErrNotFound) {
		return err
	}
	return r.Backend.Put(ctx, name, body, size)
}

func TestProbeRefusesReplacing(t *testing.T) {
	b := mem.New()
	if _, _, err := Create(t.Context(), replacing{b}, createOptions(t)); !errors.Is(err, ErrNotCreateOnly) {
		t.Errorf("Create on a backend that replaces: %v", err)
	}
	if left := b.Names(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
