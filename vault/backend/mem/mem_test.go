package mem_test

import (
	"testing"

	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/backend/backendtest"
	"github.com/tharsis-backup/tharsis/vault/backend/mem"
)

func TestConformance(t *testing.T) {
	backendtest.Run(t, func(*testing.T) backend.Backend { return mem.New() })
}

func TestTamper(t *testing.T) {
	b := mem.New()
	if err := backend.PutBytes(t.Context(), b, "a", []byte("abc")); err != nil {
		t.Fatal(err)
	}
	state, clone := b.Snapshot(), b.Clone()
	open, err := b.Get(t.Context(), "a", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	b.Corrupt("a", 1, 0x01)
	b.Set("b", []byte("new"))
	p := make([]byte, 3)
	if _, err := open.Read(p); err != nil || string(p) != "abc" {
		t.Errorf("an open reader sees %q, %v", p, err)
	}
	want := func(b *mem.Backend, name, content string) {
		t.Helper()
		if data, _ := b.Data(name); string(data) != content {
			t.Errorf("%s is %q, want %q", name, data, content)
		}
	}
	want(b, "a", "acc")
	want(b, "b", "new")
	want(clone, "a", "abc")
	if names := b.Names(); len(names) != 2 || names[0] != "a" || names[1] != "b" {
		t.Errorf("names: %q", names)
	}
	b.Restore(state)
	want(b, "a", "abc")
	if b.Remove("b") || !b.Remove("a") || len(b.Names()) != 0 {
		t.Error("not restored, or not removed")
	}
	if len(state) != 1 || len(clone.Names()) != 1 {
		t.Error("a snapshot or clone changed with its origin")
	}
}
