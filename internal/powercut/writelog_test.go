//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// logOf writes a log as the emulator does.
func logOf(log []write) []byte {
	le := binary.LittleEndian
	out := make([]byte, sector)
	le.PutUint64(out[0:], logMagic)
	le.PutUint64(out[8:], logVersion)
	le.PutUint32(out[24:], sector)
	for _, w := range log {
		h := make([]byte, sector)
		le.PutUint64(h[0:], uint64(w.off/sector))
		le.PutUint64(h[8:], uint64(len(w.data)/sector))
		if w.flush {
			h[16] |= logFlush
		}
		if w.durable {
			h[16] |= logFUA
		}
		out = append(append(out, h...), w.data...)
	}
	return out
}

// filled is sectors of one byte.
func filled(b byte, sectors int) []byte { return bytes.Repeat([]byte{b}, sectors*sector) }

// disk is a disk in memory.
type disk []byte

func (d disk) WriteAt(p []byte, off int64) (int, error) { return copy(d[off:], p), nil }

func TestReadLog(t *testing.T) {
	want := []write{
		{off: 0, data: filled(1, 2)}, {flush: true, data: []byte{}},
		{off: 3 * sector, data: filled(2, 1), durable: true}, {off: sector, data: filled(3, 3)},
	}
	raw := logOf(want)
	same := func(a, b write) bool {
		return a.off == b.off && bytes.Equal(a.data, b.data) && a.flush == b.flush && a.durable == b.durable
	}
	for cut := range len(raw) + 1 { // the emulator is killed
		got, err := readLog(bytes.NewReader(raw[:cut]), 8*sector)
		if err != nil {
			t.Fatalf("%d bytes: %v", cut, err)
		}
		whole := 0
		for whole < len(want) && cut >= len(logOf(want[:whole+1])) {
			whole++
		}
		if !slices.EqualFunc(got, want[:whole], same) {
			t.Fatalf("%d bytes: %d entries, want %d", cut, len(got), whole)
		}
	}
	got, err := readLog(bytes.NewReader(append(slices.Clone(raw), make([]byte, 5*sector)...)), 8*sector)
	if err != nil || len(got) != len(want) {
		t.Errorf("with zeros behind it: %d entries, %v", len(got), err)
	}
	clear(raw[:sector])
	if got, err := readLog(bytes.NewReader(raw), 8*sector); err != nil || len(got) != len(want) {
		t.Errorf("before the first flush: %d entries, %v", len(got), err)
	}
	raw = logOf(want)
	for what, spoil := range map[string]func([]byte){
		"magic": func(b []byte) { b[0]++ }, "version": func(b []byte) { b[8]++ }, "sector size": func(b []byte) { b[24]++ },
		"flags": func(b []byte) { b[sector+16] = logDiscard }, "place": func(b []byte) { b[sector] = 7 },
	} {
		b := slices.Clone(raw)
		spoil(b)
		if _, err := readLog(bytes.NewReader(b), 8*sector); err == nil {
			t.Errorf("a wrong %s is taken", what)
		}
	}
}

// TestReplay: what was flushed is there; of the rest, over the seeds, anything.
// Writes are torn between blocks of 4 KiB, not within them.
func TestReplay(t *testing.T) {
	const block = tearAt / sector
	log := []write{
		{off: 0, data: filled(1, 2*block)}, {off: 2 * tearAt, data: filled(2, block)}, {flush: true},
		{off: tearAt, data: filled(3, 3*block)}, {off: 4 * tearAt, data: filled(4, block)}, {off: 5 * tearAt, data: filled(5, block), durable: true},
		{off: 6*tearAt + sector, data: filled(6, block)},
	}
	seen := map[string]bool{}
	for seed := range uint64(2000) {
		d := make(disk, 8*tearAt)
		if err := replay(d, log, rand.New(rand.NewPCG(seed, 0))); err != nil {
			t.Fatal(err)
		}
		var s []byte
		for i := 0; i < len(d); i += sector {
			if !bytes.Equal(d[i:i+sector], filled(d[i], 1)) {
				t.Fatalf("seed %d: sector %d is torn", seed, i/sector)
			}
			if i%tearAt == sector {
				s = append(s, '0'+d[i])
			}
			if i%tearAt > sector && d[i] != d[i-sector] {
				t.Fatalf("seed %d: block %d is torn", seed, i/tearAt)
			}
		}
		if s[0] != '1' || s[5] != '5' || s[1] != '1' && s[1] != '3' || s[2] != '2' && s[2] != '3' {
			t.Fatalf("seed %d: %s lost what was durable", seed, s)
		}
		if d[7*tearAt] == 6 && s[6] != '6' {
			t.Fatalf("seed %d: the end of a write without its beginning", seed)
		}
		seen[string(s[:6])] = true
		seen[fmt.Sprint("over the end: ", s[6]-'0', d[7*tearAt])] = true
	}
	for _, want := range []string{
		"112005", "112045", "133305", "133345", "132005", // none, one, one, both, a part
		"over the end: 0 0", "over the end: 6 0", "over the end: 6 6",
	} {
		if !seen[want] {
			t.Errorf("%s was never left", want)
		}
	}
}

// TestEventsInLog: an event counts once its block is written.
func TestEventsInLog(t *testing.T) {
	block := func(e event) []byte { return append(e.encode(), make([]byte, sector)...)[:sector] }
	log := []write{
		{off: 0, data: filled('x', 1)}, {off: 9 * sector, data: block(event{What: backedUp, State: 3, Point: "ab"})},
		{off: 0, data: block(event{What: forgot})}, {off: 9 * sector, data: block(event{What: aboutToEdit, State: 4})},
	}
	for n, want := range []int{0, 0, 1, 1, 2} {
		if got := eventsOf(log[:n], 9*sector); len(got) != want {
			t.Errorf("after %d writes: %v", n, got)
		}
	}
	if e := eventsOf(log, 9*sector)[0]; e != (event{What: backedUp, State: 3, Point: "ab"}) {
		t.Errorf("read back: %v", e)
	}
	if e, ok := decodeEvent([]byte("[ 1.2] noise " + string(event{What: ready}.encode()))); !ok || e.What != ready {
		t.Errorf("a line with noise: %v", e)
	}
	r, near := rand.New(rand.NewPCG(1, 1)), 0
	for range 100 {
		if at := placeIn(log, 9*sector, r); at < 1 || at > len(log) {
			t.Fatalf("cut at %d", at)
		} else if at >= 2 {
			near++
		}
	}
	if near < 80 {
		t.Errorf("only %d of 100 cuts are at or behind an event", near)
	}
}
