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
		if err := CheckHeader(b, TypeDataPack, s); !errors.Is(err, ErrDamaged) || errors.Is(err, ErrNewer) {
			t.Errorf("bit %d: %v, want %v", bit, err, ErrDamaged)
		}
		b[20] ^= 1 // another key's
		want := ErrDamaged
		if at := bit / 8; at == 4 || at == 6 || at == 7 { // version, epoch
			want = ErrNewer
		}
		if err := CheckHeader(b, TypeDataPack, s); bit/8 != 20 && !errors.Is(err, want) {
			t.Errorf("bit %d, and another key: %v, want %v", bit, err, want)
		}
		b[20] ^= 1
		b[bit/8] ^= 1 << (bit % 8)
	}
}
