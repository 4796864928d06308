package key

import (
	"errors"
	"testing"
)

func TestHeader(t *testing.T) {
	s := NewRing(VaultID{1}, Root{2}).Sealer(TypeDataPack, []byte("id"))
	b := AppendHeader(nil, TypeDataPack, s)
	if len(b) != HeaderBytes {
		t.Fatalf("%d bytes", len(b))
	}
	if err := CheckHeader(append(b, "more"...), TypeDataPack, s); err != nil {
		t.Fatal(err)
	}
	for n := range b {
		if err := CheckHeader(b[:n], TypeDataPack, s); !errors.Is(err, ErrDamaged) {
			t.Errorf("cut to %d: %v", n, err)
		}
	}
	for bit := range len(b) * 8 {
		b[bit/8] ^= 1 << (bit % 8)
		want := ErrDamaged
		if at := bit / 8; at == 4 || at == 6 || at == 7 { // version, epoch
			want = ErrNewer
		}
		if err := CheckHeader(b, TypeDataPack, s); !errors.Is(err, want) {
			t.Errorf("bit %d: %v, want %v", bit, err, want)
		}
		b[bit/8] ^= 1 << (bit % 8)
	}
}
