package log

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/tharsis-backup/tharsis/vault/key"
)

func FuzzBody(f *testing.F) {
	m := maker{rand.New(rand.NewPCG(1, 2))}
	for _, t := range allTypes() {
		b, err := EncodeBody(m.body(t))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(t), b)
	}
	f.Fuzz(func(t *testing.T, typ byte, b []byte) { canonical(t, Type(typ), b) })
}

func FuzzPlaintext(f *testing.F) {
	m := maker{rand.New(rand.NewPCG(1, 2))}
	vault := key.VaultID{7}
	for _, t := range allTypes() {
		e := &Entry{Seq: 3, Body: m.body(t)}
		b, err := e.encode(vault, keyOf(1))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decodeEntry(b)
		if err != nil {
			return
		}
		signatureHolds(vault, e.Writer, b)
		body, err := EncodeBody(e.Body)
		if err != nil {
			t.Fatal(err)
		}
		if got := e.appendFields(nil, body); !bytes.Equal(got, b[:len(b)-signatureBytes]) {
			t.Fatalf("%x\n%x", got, b)
		}
		newState().apply(e, Head{Seq: e.Seq})
	})
}

// The objects are sealed with random nonces, so they differ between the
// processes of one fuzzing; what opens must be what was signed.
func FuzzObject(f *testing.F) {
	ring, want, object := sealed(f, 5, &Unforget{Points: []PointID{{1}}})
	f.Add(object)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := OpenEntry(ring, 5, b)
		if err == nil && !reflect.DeepEqual(e, want) || err != nil && (e != nil || !isDamage(err)) {
			t.Fatal(e, err)
		}
	})
}

func FuzzBundle(f *testing.F) {
	b := key.AppendShortHeader(nil, key.TypeBundle)
	f.Add(b)
	for i := range BundleEntries {
		b = append(b, 1, 0, 0, 0, byte(i))
	}
	f.Add(b)
	f.Add(append(b, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		at, n := key.ShortHeaderBytes, 0
		err := scanBundle(bytes.NewReader(b), func(i uint64, o []byte) error {
			if int(i) != n || !bytes.Equal(o, b[at+4:at+4+len(o)]) {
				t.Fatal(i, n)
			}
			at, n = at+4+len(o), n+1
			return nil
		})
		if (err == nil) != (n == BundleEntries && at == len(b)) || err != nil && !isDamage(err) {
			t.Fatal(err)
		}
	})
}

func FuzzCache(f *testing.F) {
	ring, want, object := sealed(f, 0, &Unforget{})
	r := newRecorder(ring, nil)
	whole := r.record(nil, 0, object)
	f.Add(whole)
	f.Add(append(bytes.Clone(whole), whole...))
	f.Add(whole[:len(whole)-1])
	f.Fuzz(func(t *testing.T, b []byte) {
		records := 0
		good, err := r.scan(bytes.NewReader(b), func(seq uint64, o []byte) error {
			if e, err := OpenEntry(ring, seq, o); err != nil || !reflect.DeepEqual(e, want) {
				t.Fatal("a forged record was believed")
			}
			records++
			return nil
		})
		if good != int64(records*len(whole)) || err == nil && good != int64(len(b)) {
			t.Fatal(good, records, err)
		}
	})
}
