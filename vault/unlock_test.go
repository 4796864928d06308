package vault

import (
	"context"
	"encoding/binary"
	"errors"
	"runtime"
	"testing"

	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/backend/mem"
	"github.com/tharsis-backup/tharsis/vault/key"
)

// TestGreedySlots puts slots beside those of a vault, and then in their place, that ask
// for more memory, passes or threads than the format allows: they are passed over,
// and nothing is taken for them.
func TestGreedySlots(t *testing.T) {
	ctx := t.Context()
	b := mem.New()
	o := createOptions(t)
	if _, _, err := Create(ctx, b, o); err != nil {
		t.Fatal(err)
	}
	c, _, err := ReadConfig(ctx, b)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for info, err := range b.List(ctx, slotPrefix) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, info.Name)
	}
	const timeAt, memoryAt, lanesAt = 39, 43, 47
	for i, name := range names {
		raw, err := backend.ReadAll(ctx, b, name, maxSmallObject)
		if err != nil {
			t.Fatal(err)
		}
		if raw[6] != byte(key.KindPassphrase) {
			continue
		}
		for k, change := range []func(b []byte){
			func(b []byte) { binary.LittleEndian.PutUint32(b[memoryAt:], 1<<32-1) },
			func(b []byte) { binary.LittleEndian.PutUint32(b[memoryAt:], 2<<20+1) },
			func(b []byte) { binary.LittleEndian.PutUint32(b[timeAt:], 1<<32-1) },
			func(b []byte) { b[lanesAt] = 255 },
		} {
			greedy := append([]byte(nil), raw...)
			change(greedy)
			id := key.SlotID{byte(i), byte(k)}
			copy(greedy[7:], id[:])
			if err := backend.PutBytes(ctx, b, SlotName(id), greedy); err != nil {
				t.Fatal(err)
			}
		}
	}
	accept := func(key.Secrets, Slot) error { return nil }
	if took := allocated(func() { _, _, err = Unlock(ctx, b, c, o.Passphrase, accept) }); err != nil || took > 2<<20 {
		t.Errorf("beside the right ones: %v, %d bytes taken", err, took)
	}
	for _, name := range names {
		if err := b.Delete(context.Background(), name); err != nil {
			t.Fatal(err)
		}
	}
	if took := allocated(func() { _, _, err = Unlock(ctx, b, c, o.Passphrase, accept) }); !errors.Is(err, key.ErrWrongKey) || took > 2<<20 {
		t.Errorf("in their place: %v, %d bytes taken", err, took)
	}
}

// allocated is how many bytes f takes in all.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}
