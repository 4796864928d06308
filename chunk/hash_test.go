package chunk

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"testing"
)

func TestHasherIsHMAC(t *testing.T) {
	r := newRand(t)
	h := NewHasher(Key{7})
	for n := range 200 {
		b := randomBytes(r, n)
		key := Key{7}
		mac := hmac.New(sha256.New, key[:])
		mac.Write(b)
		if got := h.Sum(b); got != ID(mac.Sum(nil)) {
			t.Fatalf("%d bytes: %s", n, got)
		}
	}
	// RFC 4231 has no 32-byte key; this value was computed with openssl.
	const want = "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad"
	if got := NewHasher(Key{}).Sum(nil).String(); got != want {
		t.Errorf("empty: %s, want %s", got, want)
	}
}

func TestHasherDoesNotAllocate(t *testing.T) {
	h, b := NewHasher(Key{7}), make([]byte, 1000)
	h.Sum(b) // the first call saves the state of the key
	if n := testing.AllocsPerRun(100, func() { h.Sum(b) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestParseID(t *testing.T) {
	want := NewHasher(Key{7}).Sum([]byte("x"))
	if got, err := ParseID(want.String()); err != nil || got != want {
		t.Fatalf("%s, %v", got, err)
	}
	for _, s := range []string{"", "00", hex.EncodeToString(make([]byte, 33)), "zz" + want.String()[2:]} {
		if _, err := ParseID(s); err == nil {
			t.Errorf("%q is accepted", s)
		}
	}
}
