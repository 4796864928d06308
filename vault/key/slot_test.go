package key

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/tharsis-backup/tharsis/internal/stage"
)

// testKDF are the smallest parameters, so that tests are fast.
var testKDF = KDFParams{Time: 1, MemoryKiB: 8, Lanes: 1}

var sampleSecrets = Secrets{Root: Root{1}, AdminSeed: [32]byte{2}, Recovery: RecoveryKey{3}}

func passphrase(t testing.TB, s string) Credential {
	t.Helper()
	c, err := NewPassphrase([]byte(s))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func seal(t testing.TB, with Credential) Slot {
	t.Helper()
	s, err := SealSlot(SlotOptions{Vault: VaultID{7}, KDF: testKDF}, with, sampleSecrets)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSlotRoundTrip(t *testing.T) {
	right, wrong := passphrase(t, "a long passphrase"), passphrase(t, "another passphrase")
	recovery, other := sampleSecrets.Recovery.Credential(), RecoveryKey{4}.Credential()
	for _, with := range []Credential{right, recovery} {
		made := seal(t, with)
		b := made.Append(nil)
		s, err := ParseSlot(b)
		if err != nil || s != made || len(b) != SlotBytes {
			t.Fatalf("%s: parsed slot differs: %v", with, err)
		}
		for _, try := range []Credential{right, wrong, recovery, other, {}} {
			got, err := s.Open(try)
			switch {
			case try == with && (err != nil || got != sampleSecrets):
				t.Errorf("%s: %v", with, err)
			case try != with && (!errors.Is(err, ErrWrongKey) || got != Secrets{}):
				t.Errorf("%s opened with %s: %v", with, try, err)
			}
		}
	}
}

// TestSlotFlips: with one bit changed, a slot is refused by the parser or does not
// open. Flips that raise Argon2's costs are only parsed: they would take long.
func TestSlotFlips(t *testing.T) {
	for _, with := range []Credential{passphrase(t, "a long passphrase"), sampleSecrets.Recovery.Credential()} {
		made := seal(t, with)
		b := made.Append(nil)
		for bit := range len(b) * 8 {
			flipped := bytes.Clone(b)
			flipped[bit/8] ^= 1 << (bit % 8)
			s, err := ParseSlot(flipped)
			if err != nil {
				if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewer) {
					t.Fatal(err)
				}
				continue
			}
			if s.KDF.MemoryKiB > 1<<10 {
				continue
			}
			if got, err := s.Open(with); err == nil || got != (Secrets{}) {
				t.Errorf("%s: opens with bit %d of byte %d flipped", with, bit%8, bit/8)
			} else if inBox := bit/8 >= slotHeaderBytes; inBox != errors.Is(err, ErrDamaged) {
				t.Errorf("%s: byte %d: %v", with, bit/8, err)
			}
		}
	}
}

func TestParseSlotRejects(t *testing.T) {
	made := seal(t, passphrase(t, "a long passphrase"))
	b := made.Append(nil)
	for n := range b {
		if _, err := ParseSlot(b[:n]); !errors.Is(err, ErrDamaged) {
			t.Errorf("cut to %d: %v", n, err)
		}
	}
	if _, err := ParseSlot(append(bytes.Clone(b), 0)); !errors.Is(err, ErrDamaged) {
		t.Errorf("a trailing byte: %v", err)
	}
	for _, kdf := range []struct{ t, m, p uint32 }{
		{0, 8, 1}, {17, 8, 1}, {1, 7, 1}, {1, 15, 2}, {1, 2<<20 + 1, 1}, {1, 1 << 31, 1}, {1, 8, 0}, {1, 1000, 17},
		{1<<32 - 1, 1<<32 - 1, 255},
	} {
		c := bytes.Clone(b)
		binary.LittleEndian.PutUint32(c[39:], kdf.t)
		binary.LittleEndian.PutUint32(c[43:], kdf.m)
		c[47] = byte(kdf.p)
		if _, err := ParseSlot(c); !errors.Is(err, ErrDamaged) {
			t.Errorf("t=%d m=%d p=%d: %v", kdf.t, kdf.m, kdf.p, err)
		}
	}
}

func TestSealSlotRejects(t *testing.T) {
	right := passphrase(t, "a long passphrase")
	for name, test := range map[string]struct {
		options SlotOptions
		with    Credential
		secrets Secrets
	}{
		"costs":            {SlotOptions{KDF: KDFParams{Time: 1, MemoryKiB: 1, Lanes: 1}}, right, sampleSecrets},
		"random":           {SlotOptions{KDF: testKDF, Random: iotest.ErrReader(io.ErrClosedPipe)}, right, sampleSecrets},
		"short random":     {SlotOptions{KDF: testKDF, Random: strings.NewReader("16 bytes, no more")}, right, sampleSecrets},
		"no credential":    {SlotOptions{KDF: testKDF}, Credential{}, sampleSecrets},
		"no root key":      {SlotOptions{KDF: testKDF}, right, Secrets{}},
		"zero recovery":    {SlotOptions{}, RecoveryKey{}.Credential(), sampleSecrets},
		"too costly lanes": {SlotOptions{KDF: KDFParams{Time: 1, MemoryKiB: 1 << 20, Lanes: 200}}, right, sampleSecrets},
	} {
		if s, err := SealSlot(test.options, test.with, test.secrets); err == nil || s != (Slot{}) {
			t.Errorf("%s: sealed", name)
		}
	}
}

// TestSlotAADFields alters the header of a slot, every bit of it, under the right key:
// what it seals opens behind no other. (TestSlotFlips derives the key anew, from the
// altered header, so that most of its cases end before.)
func TestSlotAADFields(t *testing.T) {
	for _, with := range []Credential{passphrase(t, "a long passphrase"), sampleSecrets.Recovery.Credential()} {
		s := seal(t, with)
		sealer := s.sealer(with)
		header := s.appendHeader(nil)
		if len(header) != slotHeaderBytes {
			t.Fatalf("header of %d bytes", len(header))
		}
		if _, err := sealer.Open(nil, s.box[:], header); err != nil {
			t.Fatal(err)
		}
		for bit := range 8 * len(header) {
			header[bit/8] ^= 1 << (bit % 8)
			if _, err := sealer.Open(nil, s.box[:], header); err == nil {
				t.Errorf("%s: bit %d of byte %d", with, bit%8, bit/8)
			}
			header[bit/8] ^= 1 << (bit % 8)
		}
	}
}

// TestGreedySlot: a slot that asks for more than the format allows is refused before
// anything is taken for it; what a slot within the bounds says takes nothing before
// it is opened.
func TestGreedySlot(t *testing.T) {
	made := seal(t, passphrase(t, "a long passphrase"))
	b := made.Append(nil)
	const timeAt, memoryAt, lanesAt = 39, 43, 47
	for _, c := range []struct {
		time, memory uint32
		lanes        byte
		ok           bool
	}{
		{1, maxMemoryKiB, 1, true}, {maxTime, maxMemoryKiB, maxLanes, true},
		{1, maxMemoryKiB + 1, 1, false}, {1, 1 << 31, 1, false}, {1, 1<<32 - 1, 1, false},
		{maxTime + 1, 8, 1, false}, {1<<32 - 1, 8, 1, false}, {1, 1 << 20, maxLanes + 1, false}, {1, 1 << 20, 255, false},
	} {
		binary.LittleEndian.PutUint32(b[timeAt:], c.time)
		binary.LittleEndian.PutUint32(b[memoryAt:], c.memory)
		b[lanesAt] = c.lanes
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := ParseSlot(b)
		runtime.ReadMemStats(&after)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrDamaged) {
			t.Errorf("%+v: %v", c, err)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > 64<<10 {
			t.Errorf("%+v: %d bytes are taken", c, took)
		}
	}
}

// TestSpoiltSlot flips every bit of what a new slot seals: it is not given out.
func TestSpoiltSlot(t *testing.T) {
	with := sampleSecrets.Recovery.Credential()
	for bit := range 8 * slotBoxBytes {
		restore := stage.SetHook(func(_ stage.Point, b []byte) { b[bit/8] ^= 1 << (bit % 8) })
		_, err := SealSlot(SlotOptions{Vault: VaultID{7}}, with, sampleSecrets)
		restore()
		if !errors.Is(err, stage.ErrSpoilt) {
			t.Fatalf("bit %d: %v", bit, err)
		}
	}
}

func TestSlotsDiffer(t *testing.T) {
	with := passphrase(t, "a long passphrase")
	a, b := seal(t, with), seal(t, with)
	if a.ID == b.ID || a.salt == b.salt || a.commitment == b.commitment || a.box == b.box {
		t.Error("two slots share an ID, a salt, a commitment or a box")
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	with := passphrase(t, "a long passphrase")
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		for _, v := range []any{with, &with, sampleSecrets, &sampleSecrets} {
			s := fmt.Sprintf(format, v)
			if strings.Contains(s, "long") || strings.Contains(s, "0x1") || strings.Contains(s, "[1 0") {
				t.Errorf("%s of %T prints %s", format, v, s)
			}
		}
	}
}

func TestDefaultKDF(t *testing.T) {
	p := DefaultKDF()
	if p.check() != nil || p.Time != 3 || p.Lanes != 4 || (p.MemoryKiB != 256<<10 && p.MemoryKiB != 64<<10) {
		t.Errorf("%+v", p)
	}
}

func FuzzParseSlot(f *testing.F) {
	for _, with := range []Credential{passphrase(f, "a long passphrase"), sampleSecrets.Recovery.Credential()} {
		s := seal(f, with)
		f.Add(s.Append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseSlot(b)
		if err != nil {
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewer) {
				t.Fatal(err)
			}
			return
		}
		if again := s.Append(nil); !bytes.Equal(again, b) {
			t.Fatalf("%x is written as %x", b, again)
		}
	})
}
