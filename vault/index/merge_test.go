package index

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

func mergeRuns(t testing.TB, id chunk.ID, runs []*Run, keep func(chunk.ID) bool) (*Run, error) {
	t.Helper()
	var b bytes.Buffer
	size, err := Merge(bg, &b, ring, id, runs, keep)
	if err != nil {
		return nil, err
	}
	if size != int64(b.Len()) {
		t.Fatalf("size %d, %d bytes written", size, b.Len())
	}
	return openRun(t, id, b.Bytes(), nil), nil
}

// TestMergeIsWriteOfTheUnion merges overlapping runs, some made by merges, and
// compares with the run that is written of the directories.
func TestMergeIsWriteOfTheUnion(t *testing.T) {
	rng := newRand(t)
	for round := range 60 {
		dirs := randomPacks(rng, 1+rng.IntN(400), 1+rng.IntN(4), 1+rng.IntN(6))
		var runs []*Run
		inRun := make(map[chunk.ID]bool)
		for range 1 + rng.IntN(6) {
			part := randomPart(rng, dirs)
			for _, d := range part {
				inRun[d.ID] = true
			}
			id := randomID(rng)
			runs = append(runs, openRun(t, id, writeRun(t, id, part), nil))
		}
		if len(runs) > 2 && rng.IntN(2) == 0 {
			r, err := mergeRuns(t, randomID(rng), runs[:2], nil)
			check(t, err)
			runs = append([]*Run{r}, runs[2:]...)
		}
		var keep func(chunk.ID) bool
		if rng.IntN(2) == 0 {
			keep = func(id chunk.ID) bool { return id[0]%3 != 0 }
		}
		var want []pack.Directory
		for _, d := range dirs {
			if inRun[d.ID] && (keep == nil || keep(d.ID)) {
				want = append(want, d)
			}
		}
		got, err := mergeRuns(t, chunk.ID{1}, runs, keep)
		if len(want) == 0 {
			if !errors.Is(err, ErrEmpty) {
				t.Fatalf("round %d: %v", round, err)
			}
			continue
		}
		check(t, err)
		check(t, got.Verify(bg))
		if !bytes.Equal(plaintext(t, got), plaintext(t, openRun(t, chunk.ID{2}, writeRun(t, chunk.ID{2}, want), nil))) {
			t.Fatalf("round %d: the merge of %d runs differs from the union of %d packs", round, len(runs), len(want))
		}
	}
}

func randomPart(rng *rand.Rand, dirs []pack.Directory) []pack.Directory {
	part := []pack.Directory{dirs[rng.IntN(len(dirs))]}
	share := rng.IntN(4)
	for _, d := range dirs {
		if d.ID != part[0].ID && rng.IntN(4) <= share {
			part = append(part, d)
		}
	}
	return part
}

func TestMergeOfNothing(t *testing.T) {
	var b bytes.Buffer
	if _, err := Merge(bg, &b, ring, chunk.ID{1}, nil, nil); !errors.Is(err, ErrEmpty) || b.Len() != 0 {
		t.Error(err)
	}
}

// TestMergeRefusesConflicts has runs that tell different things of one pack.
func TestMergeRefusesConflicts(t *testing.T) {
	rng := newRand(t)
	base := randomPack(rng, 1, 1, nil)
	second := base.Records[0]
	second.Number += 5
	second.Offset += second.Stored
	base.Records = append(base.Records, second)
	base.Length = pack.PaddedLength(uint64(second.Offset+second.Stored) + 100)
	for i, change := range []func(d *pack.Directory){
		func(d *pack.Directory) { d.Type ^= key.TypeDataPack ^ key.TypeManifestPack },
		func(d *pack.Directory) { d.Length *= 2 },
		func(d *pack.Directory) { d.Records = d.Records[:1] },
		func(d *pack.Directory) { d.Records[1].Number++ },
		func(d *pack.Directory) { d.Records[1].Offset++ },
		func(d *pack.Directory) {
			d.Records[1].Chunks = []pack.Chunk{{ID: d.Records[1].Chunks[0].ID, Length: d.Records[1].Plain - 1}, {Length: 1}}
		},
	} {
		other := base
		other.Records = append([]pack.Record{}, base.Records...)
		other.Records[1].Plain, other.Records[1].Stored, other.Records[1].Codec = 2, 40, chunk.CodecZstd
		other.Records[1].Chunks = []pack.Chunk{{ID: chunk.ID{1}, Length: 2}}
		same := other
		same.Records = append([]pack.Record{}, other.Records...)
		change(&other)
		a := openRun(t, chunk.ID{1}, writeRun(t, chunk.ID{1}, []pack.Directory{same, randomPack(rng, 3, 3, nil)}), nil)
		b := openRun(t, chunk.ID{2}, writeRun(t, chunk.ID{2}, []pack.Directory{other}), nil)
		if _, err := mergeRuns(t, chunk.ID{3}, []*Run{a, b}, nil); !errors.Is(err, key.ErrDamaged) {
			t.Errorf("change %d: %v", i, err)
		}
	}
}

func TestMergeWriteError(t *testing.T) {
	rng := newRand(t)
	id := randomID(rng)
	object := writeRun(t, id, randomPacks(rng, 300, 2, 2))
	r := openRun(t, id, object, nil)
	for n := 0; n < len(object); n += 1 + rng.IntN(3000) {
		if _, err := Merge(bg, &limitedWriter{n}, ring, id, []*Run{r}, nil); !errors.Is(err, errLimit) {
			t.Fatalf("after %d bytes: %v", n, err)
		}
	}
}

var errLimit = errors.New("no space")

type limitedWriter struct{ left int }

func (w *limitedWriter) Write(b []byte) (int, error) {
	if w.left -= len(b); w.left < 0 {
		return 0, errLimit
	}
	return len(b), nil
}
