package log

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/wire"
	"github.com/tharsis-backup/tharsis/vault/key"
)

func allTypes() (all []Type) {
	for t := TypeGenesis; t <= TypeSettings; t++ {
		all = append(all, t)
	}
	return all
}

func TestBodiesRoundTrip(t *testing.T) {
	m := maker{newRNG(t)}
	for _, typ := range allTypes() {
		for range 15 {
			want := m.body(typ)
			b, err := EncodeBody(want)
			if err != nil {
				t.Fatal(err)
			}
			got, err := DecodeBody(typ, b)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("%s:\n%+v\n%+v", typ, got, want)
			}
			for n := range b {
				if _, err := DecodeBody(typ, b[:n]); !errors.Is(err, wire.ErrMalformed) {
					t.Fatalf("%s cut at %d of %d: %v", typ, n, len(b), err)
				}
			}
			if _, err := DecodeBody(typ, append(b, 0)); err == nil {
				t.Fatalf("%s: a trailing byte was taken", typ)
			}
			mutate(t, m, typ, b)
		}
	}
}

// mutate changes bytes: what still decodes must be what its encoder writes.
func mutate(t *testing.T, m maker, typ Type, b []byte) {
	for range 100 {
		c := slices.Clone(b)
		if len(c) == 0 {
			return
		}
		c[m.IntN(len(c))] = byte(m.IntN(256))
		canonical(t, typ, c)
	}
}

func canonical(t *testing.T, typ Type, b []byte) {
	body, err := DecodeBody(typ, b)
	if err != nil {
		return
	}
	if body.Type() != typ {
		t.Fatalf("%s decoded as %s", typ, body.Type())
	}
	again, err := EncodeBody(body)
	if err != nil || !bytes.Equal(again, b) {
		t.Fatalf("%s is not canonical: %x, %x, %v", typ, b, again, err)
	}
}

func TestBodyLimits(t *testing.T) {
	long := strings.Repeat("x", MaxTextBytes+1)
	id := SourceID{}
	source := func(change func(*Source)) Body {
		p := (&site{}).pointOf(0, 1)
		change(&p.Sources[0])
		return &Commit{Point: p}
	}
	point := func(change func(*Point)) Body {
		p := (&site{}).pointOf(0, 1)
		change(&p)
		return &Commit{Point: p}
	}
	manySlots := make([]Slot, MaxSlots+1)
	for i := range manySlots {
		manySlots[i] = Slot{ID: SlotID{byte(i)}, Kind: SlotRecovery}
	}
	for name, b := range map[string]Body{
		"days low":      &Genesis{SoftDeleteDays: 13},
		"days high":     &Genesis{SoftDeleteDays: 181},
		"days negative": &Genesis{SoftDeleteDays: -1},
		"set days low":  &Settings{SoftDeleteDays: 13},
		"set days high": &Settings{SoftDeleteDays: 181},
		"set days less": &Settings{SoftDeleteDays: -1},
		"slots":         &KeyChange{Added: manySlots},
		"slot twice":    &KeyChange{Added: []Slot{{Kind: 1}, {Kind: 2}}},
		"slot kind":     &KeyChange{Added: []Slot{{Kind: 3}}},
		"name long":     &Machine{Name: long},
		"name encoding": &Machine{Name: "\xff"},
		"reason":        &Forget{Reason: long},
		"packs":         &Condemn{Packs: make([]chunk.ID, 32768)},
		"points":        &Purge{Points: make([]PointID, 65536)},
		"no sources":    point(func(p *Point) { p.Sources = nil }),
		"previous":      point(func(p *Point) { p.Previous = Head{Seq: 1} }),
		"previous none": point(func(p *Point) { p.Previous.Hash[0] = 1 }),
		"tags":          point(func(p *Point) { p.Tags = make([]Tag, 65) }),
		"tags order":    point(func(p *Point) { p.Tags = []Tag{{Key: "b"}, {Key: "a"}} }),
		"tags twice":    point(func(p *Point) { p.Tags = []Tag{{Key: "a"}, {Key: "a"}} }),
		"source twice":  point(func(p *Point) { p.Sources = append(p.Sources, p.Sources[0]) }),
		"source ID":     source(func(s *Source) { s.ID = id }),
		"path empty":    source(func(s *Source) { s.Path = "" }),
		"path long":     source(func(s *Source) { s.Path = strings.Repeat("/", MaxPathBytes+1) }),
		"status 0":      source(func(s *Source) { s.Status = 0 }),
		"status 5":      source(func(s *Source) { s.Status = 5 }),
		"failed":        source(func(s *Source) { s.Status = StatusFailed }),
		"no root":       source(func(s *Source) { s.Root = chunk.ID{} }),
		"snapshot":      source(func(s *Source) { s.Snapshot = 5 }),
	} {
		if _, err := EncodeBody(b); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
	// The longest list that fits, and the error of one that does not.
	if _, err := EncodeBody(&Condemn{Packs: make([]chunk.ID, 32767)}); err != nil {
		t.Error(err)
	}
	_, err := EncodeBody(&Condemn{Packs: make([]chunk.ID, 40000)})
	if err == nil || !strings.Contains(err.Error(), "an entry holds 1048576 at most") {
		t.Error(err)
	}
	if _, err := DecodeBody(18, []byte{14}); err == nil {
		t.Error("type 18 was decoded")
	}
}

// sealed gives an entry's object and what opens it.
func sealed(t testing.TB, seq uint64, b Body) (*key.Ring, *Entry, []byte) {
	ring := key.NewRing(key.VaultID{7}, key.Root{9})
	e := &Entry{Seq: seq, Prev: [32]byte{3}, Time: -4, Nonce: [16]byte{5}, Body: b}
	object, err := e.Seal(ring, keyOf(1))
	if err != nil {
		t.Fatal(err)
	}
	return ring, e, object
}

func TestEntryRoundTrip(t *testing.T) {
	m := maker{newRNG(t)}
	for _, typ := range allTypes() {
		ring, e, object := sealed(t, 77, m.body(typ))
		got, err := OpenEntry(ring, 77, object)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, e) {
			t.Fatalf("%+v\n%+v", got, e)
		}
		if _, err := OpenEntry(ring, 78, object); !errors.Is(err, key.ErrDamaged) {
			t.Fatalf("opened as another entry: %v", err)
		}
		other := key.NewRing(key.VaultID{8}, key.Root{9})
		if _, err := OpenEntry(other, 77, object); !errors.Is(err, key.ErrDamaged) {
			t.Fatalf("opened in another vault: %v", err)
		}
	}
}

func TestLargestEntryFits(t *testing.T) {
	ring, _, object := sealed(t, 1, &Condemn{Packs: make([]chunk.ID, 32767)})
	if len(object) > MaxObjectBytes {
		t.Fatalf("%d bytes", len(object))
	}
	if _, err := OpenEntry(ring, 1, object); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenEntry(ring, 1, make([]byte, MaxObjectBytes+1)); !errors.Is(err, key.ErrDamaged) {
		t.Fatal(err)
	}
}

func TestEntryAltered(t *testing.T) {
	ring, _, object := sealed(t, 5, &Unforget{Points: []PointID{{1}}})
	for i := range len(object) * 8 {
		object[i/8] ^= 1 << (i % 8)
		if _, err := OpenEntry(ring, 5, object); !isDamage(err) {
			t.Fatalf("bit %d: %v", i, err)
		}
		object[i/8] ^= 1 << (i % 8)
	}
	for n := range object {
		if _, err := OpenEntry(ring, 5, object[:n]); !errors.Is(err, key.ErrDamaged) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
	if _, err := OpenEntry(ring, 5, append(object, 0)); !errors.Is(err, key.ErrDamaged) {
		t.Fatal("a trailing byte was taken")
	}
}

// An enrolled machine holds the keys that seal, but not those of others that sign.
func TestSignatureCoversAll(t *testing.T) {
	ring, e, _ := sealed(t, 5, &Unforget{Points: []PointID{{1}}})
	plain, err := e.encode(ring.Vault, keyOf(1))
	if err != nil {
		t.Fatal(err)
	}
	reseal := func(p []byte) []byte {
		s := sealer(ring, 5)
		return s.Seal(key.AppendHeader(nil, key.TypeLog, s), p, entryAAD(ring.Vault, 5))
	}
	if _, err := OpenEntry(ring, 5, reseal(plain)); err != nil {
		t.Fatal(err)
	}
	for i := range len(plain) * 8 {
		plain[i/8] ^= 1 << (i % 8)
		if _, err := OpenEntry(ring, 5, reseal(plain)); !errors.Is(err, key.ErrDamaged) {
			t.Fatalf("bit %d of the plaintext: %v", i, err)
		}
		plain[i/8] ^= 1 << (i % 8)
	}
	// A signature of the same fields for another vault does not hold.
	other := ed25519.Sign(keyOf(1), signedMessage(key.VaultID{8}, plain[:len(plain)-64]))
	copy(plain[len(plain)-64:], other)
	if _, err := OpenEntry(ring, 5, reseal(plain)); !errors.Is(err, key.ErrDamaged) {
		t.Fatal(err)
	}
}

func TestNames(t *testing.T) {
	if got := entryName(0xabc) + " " + bundleName(1); got != "log/0000000000000abc bundle/0000000000000001" {
		t.Error(got)
	}
	p := PointID{0xab, 15: 1}
	if q, err := ParsePointID(p.String()); err != nil || q != p {
		t.Error(q, err)
	}
	mid := MachineID{0xab, 15: 1}
	if q, err := ParseMachineID(mid.String()); err != nil || q != mid {
		t.Error(q, err)
	}
	h := Head{Seq: 12, Hash: [32]byte{1, 31: 2}}
	if g, err := ParseHead(h.String()); err != nil || g != h {
		t.Error(g, err)
	}
	for _, bad := range []string{"", "1", "1:", ":1", "x:" + strings.Repeat("00", 32), "1:" + strings.Repeat("00", 33), "18446744073709551615:" + strings.Repeat("00", 32)} {
		if _, err := ParseHead(bad); err == nil {
			t.Errorf("%q was parsed", bad)
		}
	}
	if _, err := ParsePointID("ab"); err == nil {
		t.Error("a short point ID was parsed")
	}
	if s := fmt.Sprint(TypeKeyChange, TypeSettings, Type(0), Type(18)); s != "KEYCHANGE SETTINGS type 0 type 18" {
		t.Error(s)
	}
}
