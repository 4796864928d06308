package vault

import (
	"bytes"
	"errors"
	"testing"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/backend/fault"
	"github.com/tharsis-backup/tharsis/vault/backend/mem"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// A pack is there only with its length, neither cut nor prolonged, and an error is no
// answer.
func TestHasPack(t *testing.T) {
	b := mem.New()
	dir := pack.Directory{ID: chunk.ID{7}, Length: 100}
	v := &Vault{Backend: b}
	for _, length := range []int{0, 1, 50, 99, 100, 101, 102, 300} {
		b.Set(pack.Name(dir.ID), bytes.Repeat([]byte{1}, length))
		if there, err := v.HasPack(t.Context(), dir); err != nil || there != (length == 100) {
			t.Errorf("%d bytes: %v, %v", length, there, err)
		}
	}
	for n := range int64(2) {
		v := &Vault{Backend: fault.New(b, fault.At(0, false, fault.ShortRead(n, fault.ErrInjected)))}
		if there, err := v.HasPack(t.Context(), dir); there || !errors.Is(err, fault.ErrInjected) {
			t.Errorf("an error after %d bytes: %v, %v", n, there, err)
		}
	}
	b.Remove(pack.Name(dir.ID))
	if there, err := v.HasPack(t.Context(), dir); err != nil || there {
		t.Errorf("missing: %v, %v", there, err)
	}
}

// The list of packs has no other objects, and ends with the backend's error.
func TestListedPacks(t *testing.T) {
	b := mem.New()
	want := map[chunk.ID]int64{}
	for i := range 20 {
		id := chunk.ID{byte(i * 9), byte(i)}
		want[id] = int64(i)
		b.Set(pack.Name(id), make([]byte, i))
	}
	for _, other := range []string{"packs/00/short", "packs/x", "index/" + chunk.ID{1}.String(), "config"} {
		b.Set(other, nil)
	}
	for p, err := range (&Vault{Backend: b}).ListedPacks(t.Context()) {
		if size, ok := want[p.ID]; err != nil || !ok || size != p.Size {
			t.Fatalf("%+v, %v", p, err)
		}
		delete(want, p.ID)
	}
	if len(want) > 0 {
		t.Errorf("%d packs are not listed", len(want))
	}
	var broken backend.Backend = fault.New(b, fault.At(0, false, fault.Fail(nil)))
	n, ended := 0, error(nil)
	for _, err := range (&Vault{Backend: broken}).ListedPacks(t.Context()) {
		n, ended = n+1, err
	}
	if n != 1 || !errors.Is(ended, fault.ErrInjected) {
		t.Errorf("%d, %v", n, ended)
	}
}
