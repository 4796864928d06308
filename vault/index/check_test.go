package index

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/stage"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// TestCheck compares runs with what they were made of, and with what differs from
// that in one place.
func TestCheck(t *testing.T) {
	rng := newRand(t)
	dirs := randomPacks(rng, 9, 90, 4)
	id := randomID(rng)
	run := openRun(t, id, writeRun(t, id, dirs), nil)
	slices.Reverse(dirs)
	check(t, Check(bg, run, dirs))
	copied := func() []pack.Directory {
		all := slices.Clone(dirs)
		for i := range all {
			all[i].Records = slices.Clone(all[i].Records)
			for k := range all[i].Records {
				all[i].Records[k].Chunks = slices.Clone(all[i].Records[k].Chunks)
			}
		}
		return all
	}
	for i, change := range []func(d []pack.Directory) []pack.Directory{
		func(d []pack.Directory) []pack.Directory { return d[1:] },
		func(d []pack.Directory) []pack.Directory { d[2].ID[7] ^= 1; return d },
		func(d []pack.Directory) []pack.Directory { d[2].Type ^= 7; return d },
		func(d []pack.Directory) []pack.Directory { d[2].Records[0].Number ^= 1 << 20; return d },
		func(d []pack.Directory) []pack.Directory { d[2].Records[0].Chunks[0].ID[31] ^= 1; return d },
	} {
		if err := Check(bg, run, change(copied())); !errors.Is(err, stage.ErrSpoilt) {
			t.Errorf("change %d: %v", i, err)
		}
	}
}

// TestCheckMerge compares a merged run with its sources, and with others.
func TestCheckMerge(t *testing.T) {
	rng := newRand(t)
	var runs []*Run
	var gone chunk.ID
	for range 3 {
		id := randomID(rng)
		dirs := randomPacks(rng, 5, 30, 4)
		runs = append(runs, openRun(t, id, writeRun(t, id, dirs), nil))
		gone = dirs[0].ID
	}
	keep := func(p chunk.ID) bool { return p != gone }
	id := randomID(rng)
	var b bytes.Buffer
	_, err := Merge(bg, &b, ring, id, runs, keep)
	check(t, err)
	run := openRun(t, id, b.Bytes(), nil)
	check(t, CheckMerge(bg, run, runs, keep))
	for what, err := range map[string]error{
		"one more pack": CheckMerge(bg, run, runs, nil),
		"fewer runs":    CheckMerge(bg, run, runs[1:], keep),
	} {
		if !errors.Is(err, stage.ErrSpoilt) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestCheckFindsFlips spoils what a writer is about to seal, and what it sealed.
func TestCheckFindsFlips(t *testing.T) {
	rng := newRand(t)
	dirs := randomPacks(rng, 5, 60, 4)
	for _, point := range []stage.Point{stage.IndexRows, stage.IndexBox} {
		blocks := 0
		for nth := 0; nth == 0 || nth < blocks; nth++ {
			id := randomID(rng)
			blocks = 0
			restore := stage.SetHook(func(p stage.Point, b []byte) {
				if p != point {
					return
				}
				if blocks++; blocks-1 == nth {
					b[rng.IntN(len(b))] ^= 1 << rng.IntN(8)
				}
			})
			object := writeRun(t, id, dirs)
			restore()
			if err := Check(bg, openRun(t, id, object, nil), dirs); !errors.Is(err, stage.ErrSpoilt) {
				t.Errorf("%s, block %d of %d: %v", point, nth, blocks, err)
			}
		}
	}
}

// TestWriteRefusesSpoilt: a directory that changed since it was read makes no run.
func TestWriteRefusesSpoilt(t *testing.T) {
	dirs := randomPacks(newRand(t), 2, 5, 3)
	dirs[0].Stamp()
	dirs[0].Records[0].Chunks[0].ID[1] ^= 2
	if _, err := Write(io.Discard, ring, randomID(newRand(t)), dirs); !errors.Is(err, stage.ErrSpoilt) {
		t.Error(err)
	}
}
