package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/backend/mem"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
)

// olderVault is a vault with a past: what its objects were, or might have been, under
// the same names, signed and sealed by its own machine.
type olderVault struct {
	t     *testing.T
	w     *faultWorld
	b     *mem.Backend
	whole map[string][]byte
	// past are other contents of objects: those of forks of the vault, and what is no
	// longer there.
	past map[string][][]byte
	dead []string // slots that were taken out of use
}

func newOlderVault(t *testing.T) *olderVault {
	ctx := t.Context()
	r := newFaultRig(t)
	v := &olderVault{t: t, w: r.world("box"), past: map[string][][]byte{}}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	step := func(w *faultWorld, state int) {
		r.edit(state)
		_, err := w.backup(ctx, r.src)
		check(err)
	}
	remember := func(w *faultWorld) {
		for name, data := range faultFiles(t, w.vault) {
			v.past[name] = append(v.past[name], data)
		}
	}
	check(v.w.init(ctx))
	for i := range 3 {
		fork := r.world(fmt.Sprint("fork-", i))
		faultImage(t, v.w, fork)
		step(fork, (i+1)%3) // signed by the same machine, for the same places of the log
		check(fork.changePassphrase(ctx, faultPass, faultNewPass))
		step(fork, i)
		step(fork, (i+2)%3)
		remember(fork)
		step(v.w, i)
		remember(v.w)
	}
	check(v.w.changePassphrase(ctx, faultPass, faultNewPass))
	step(v.w, 0)
	check(os.RemoveAll(filepath.Join(v.w.home, "cache")))
	v.whole = faultFiles(t, v.w.vault)
	for name, pasts := range v.past {
		now, is := v.whole[name]
		if strings.HasPrefix(name, "keys/") && !is {
			v.dead = append(v.dead, name)
		}
		v.past[name] = slices.DeleteFunc(pasts, func(b []byte) bool { return bytes.Equal(b, now) })
	}
	v.past["config"] = otherConfigs(t, v.whole["config"])
	v.b = mem.New()
	v.b.Restore(v.whole)
	v.w.wrap = func(backend.Backend) backend.Backend { return held{v.b} }
	return v
}

// otherConfigs are configs of the same vault that cut in another way, or have an owner.
func otherConfigs(t *testing.T, raw []byte) (others [][]byte) {
	c, err := key.ParseConfig(raw)
	if err != nil {
		t.Fatal(err)
	}
	cut, owned := c, c
	cut.Cut.Min, cut.Cut.Max = cut.Cut.Min*2, cut.Cut.Max*2
	owned.Mode, owned.Owner = key.ModeOwner, [16]byte{1}
	for _, c := range []key.Config{cut, owned} {
		raw, err := key.AppendConfig(nil, c)
		if err != nil {
			t.Fatal(err)
		}
		others = append(others, raw)
	}
	return others
}

// fresh is a machine that knows nothing of the vault but a passphrase.
func (v *olderVault) fresh(ctx context.Context, pass string) error {
	w := &faultWorld{home: v.w.home + "-fresh", vault: v.w.vault, wrap: v.w.wrap, host: "fresh", secret: pass}
	defer os.RemoveAll(w.home)
	_, err := w.verify(ctx)
	return err
}

// TestFaultOlderObjects puts an object as it was, or as it was in a fork of the vault,
// in the place of what it is.
func TestFaultOlderObjects(t *testing.T) {
	ctx := t.Context()
	v := newOlderVault(t)
	cases := 0
	last := log.EntryName(uint64(count(v.whole, "log/") - 1))
	for _, name := range slices.Sorted(maps.Keys(v.past)) {
		for i, past := range v.past[name] {
			if _, is := v.whole[name]; !is {
				continue
			}
			cases++
			v.b.Set(name, past)
			what := fmt.Sprintf("%s, version %d", name, i)
			if _, err := v.w.verify(ctx); err == nil {
				t.Errorf("%s: a check finds nothing", what)
			}
			// A machine that never saw the vault cannot know its last entry.
			if err := v.fresh(ctx, faultNewPass); err == nil && name != last {
				t.Errorf("%s: a new machine finds nothing", what)
			}
			if err := os.RemoveAll(filepath.Join(v.w.home, "cache")); err != nil { // it has read what was there before
				t.Fatal(err)
			}
			if _, err := v.w.backup(ctx, filepath.Join(filepath.Dir(filepath.Dir(v.w.home)), "src")); err == nil {
				t.Errorf("%s: a backup goes on", what)
			}
			v.b.Restore(v.whole)
		}
	}
	t.Logf("%d cases", cases)
	if cases < 8 || count(v.whole, "log/") < 7 {
		t.Errorf("only %d cases, %d entries", cases, count(v.whole, "log/"))
	}
}

// TestFaultOlderLog takes the end of the log away, entry by entry, and puts each fork's
// end in its place: a machine that saw the log's end stops.
func TestFaultOlderLog(t *testing.T) {
	ctx := t.Context()
	v := newOlderVault(t)
	entries := count(v.whole, "log/")
	for keep := range entries {
		for seq := keep; seq < entries; seq++ {
			v.b.Remove(log.EntryName(uint64(seq)))
		}
		if _, err := v.w.verify(ctx); keep > 0 && !errors.Is(err, log.ErrRollback) || keep == 0 && err == nil {
			t.Errorf("%d of %d entries: %v", keep, entries, err)
		}
		v.b.Restore(v.whole)
	}
}

// TestFaultOlderSlots puts slots back that were taken out of use, and in the place of
// those that count: the old passphrase opens nothing any more.
func TestFaultOlderSlots(t *testing.T) {
	ctx := t.Context()
	v := newOlderVault(t)
	if len(v.dead) == 0 {
		t.Fatal("no slot was taken out of use")
	}
	for _, name := range v.dead {
		for _, past := range v.past[name] {
			v.b.Set(name, past)
			for _, pass := range []string{faultPass, "a passphrase that never was one"} {
				if err := v.fresh(ctx, pass); !errors.Is(err, key.ErrWrongKey) {
					t.Errorf("%s is back: %q: %v", name, pass, err)
				}
			}
			if err := v.fresh(ctx, faultNewPass); err != nil {
				t.Errorf("%s is back: %v", name, err)
			}
			v.b.Restore(v.whole)
			for other := range v.whole {
				if !strings.HasPrefix(other, "keys/") {
					continue
				}
				v.b.Set(other, past)
				if _, err := v.w.verify(ctx); !errors.Is(err, ErrDamaged) {
					t.Errorf("%s has the content of %s: %v", other, name, err)
				}
				if err := v.fresh(ctx, faultPass); err == nil {
					t.Errorf("%s has the content of %s: the old passphrase opens it", other, name)
				}
				v.b.Restore(v.whole)
			}
		}
	}
}

func count(objects map[string][]byte, prefix string) (n int) {
	for name := range objects {
		if strings.HasPrefix(name, prefix) {
			n++
		}
	}
	return n
}
