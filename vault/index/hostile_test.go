package index

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// rows is a run that was not checked by anything.
type rows struct {
	packs   []PackRow
	records []RecordRow
	chunks  []ChunkRow
}

// seal makes an object of any rows, as someone with the keys could.
func (rs *rows) seal(id chunk.ID) []byte {
	var b bytes.Buffer
	rw := newRunWriter(&b, ring, id)
	for i := range rs.packs {
		rw.pack(&rs.packs[i])
	}
	for i := range rs.records {
		rw.record(&rs.records[i])
	}
	for i := range rs.chunks {
		rw.chunk(&rs.chunks[i])
	}
	if _, err := rw.finish(); err != nil {
		return nil
	}
	return b.Bytes()
}

// someRows fills n packs with two records each, of two chunks each.
func someRows(n int) *rows {
	rs := &rows{}
	id := func(i int) (id chunk.ID) {
		binary.BigEndian.PutUint32(id[4:], uint32(i+1))
		return id
	}
	for i := range n {
		rs.packs = append(rs.packs, PackRow{id(i), key.TypeDataPack, pack.PaddedLength(1000)})
		for j := range 2 {
			rs.records = append(rs.records, RecordRow{uint32(i), uint32(j), uint32(40 + 228*j), 228, 200, chunk.CodecPlain})
			for k := range 2 {
				row := len(rs.chunks)
				rs.chunks = append(rs.chunks, ChunkRow{id(row), uint32(row / 2), uint32(100 * k), 100})
			}
		}
	}
	return rs
}

func TestHostileRows(t *testing.T) {
	id := chunk.ID{7}
	if err := readAll(id, someRows(300).seal(id)); err != nil {
		t.Fatal(err)
	}
	// Rows 255 and 256 lie in two blocks, 10 and 11 in one.
	for _, i := range []int{10, 255, 256} {
		for name, change := range map[string]func(rs *rows){
			"pack type":            func(rs *rows) { rs.packs[i].Type = key.TypeIndex },
			"pack length":          func(rs *rows) { rs.packs[i].Length++ },
			"pack long":            func(rs *rows) { rs.packs[i].Length = 512 << 20 },
			"pack short":           func(rs *rows) { rs.packs[i].Length = 480 },
			"packs swapped":        func(rs *rows) { rs.packs[i], rs.packs[i+1] = rs.packs[i+1], rs.packs[i] },
			"pack twice":           func(rs *rows) { rs.packs[i] = rs.packs[i+1] },
			"records swapped":      func(rs *rows) { rs.records[i], rs.records[i+1] = rs.records[i+1], rs.records[i] },
			"record twice":         func(rs *rows) { rs.records[i] = rs.records[i+1] },
			"record's pack":        func(rs *rows) { rs.records[i].Pack = 300 },
			"record's codec":       func(rs *rows) { rs.records[i].Codec = 3 },
			"record's plain":       func(rs *rows) { rs.records[i].Plain = 0 },
			"record long":          func(rs *rows) { rs.records[i].Plain, rs.records[i].Codec = chunk.MaxChunk+1, chunk.CodecZstd },
			"record's stored":      func(rs *rows) { rs.records[i].Stored = 28 },
			"record's offset":      func(rs *rows) { rs.records[i].Offset = 39 },
			"record outside":       func(rs *rows) { rs.records[i|1].Offset = 1000 },
			"record overflow":      func(rs *rows) { rs.records[i|1].Offset = 1<<32 - 10 },
			"records overlap":      func(rs *rows) { rs.records[i|1].Offset = 200 },
			"pack without record":  func(rs *rows) { rs.records = append(rs.records[:i&^1:i&^1], rs.records[i&^1+2:]...) },
			"last without record":  func(rs *rows) { rs.records = rs.records[:len(rs.records)-2] },
			"first without record": func(rs *rows) { rs.records, rs.chunks = rs.records[2:], rs.chunks[:len(rs.chunks)-4] },
			"record behind packs":  func(rs *rows) { rs.records = append(rs.records, RecordRow{300, 1, 40, 228, 200, chunk.CodecPlain}) },
			"chunks swapped":       func(rs *rows) { rs.chunks[i], rs.chunks[i+1] = rs.chunks[i+1], rs.chunks[i] },
			"chunk twice":          func(rs *rows) { rs.chunks[i] = rs.chunks[i+1] },
			"chunk's record":       func(rs *rows) { rs.chunks[i].Record = 600 },
			"chunk's offset":       func(rs *rows) { rs.chunks[i].Offset = 101 },
			"chunk overflow":       func(rs *rows) { rs.chunks[i].Offset, rs.chunks[i].Length = 1<<32-50, 100 },
			"chunk's length":       func(rs *rows) { rs.chunks[i].Length = 0 },
			"chunk long":           func(rs *rows) { rs.chunks[i].Length = 201 },
			"fewer records":        func(rs *rows) { rs.records = rs.records[:200] },
			"no records":           func(rs *rows) { rs.records = nil },
		} {
			rs := someRows(300)
			change(rs)
			object := rs.seal(id)
			if err := readAll(id, object); !errors.Is(err, key.ErrDamaged) {
				t.Errorf("%s at row %d: %v", name, i, err)
			}
			// The other readers may see less, but must not fall over.
			if r, err := openBytes(id, object, NewBlockCache(0)); err == nil {
				useAll(t, r, id)
			}
		}
	}
}

// useAll gives a hostile run to everything that reads runs.
func useAll(t *testing.T, r *Run, id chunk.ID) {
	check := func(err error) {
		if err != nil && !errors.Is(err, key.ErrDamaged) && !errors.Is(err, ErrEmpty) {
			t.Fatal(err)
		}
	}
	n := 0
	for row, err := range r.Chunks(bg) {
		check(err)
		if n++; n%5 != 0 {
			continue
		}
		places, err := r.Lookup(bg, row.ID, nil)
		check(err)
		for _, l := range places {
			if uint64(l.Offset)+uint64(l.Length) > uint64(l.Plain) || uint64(l.RecordOffset)+uint64(l.Stored) > l.PackLength ||
				l.Plain > chunk.MaxChunk || l.PackLength > pack.MaxLength {
				t.Fatalf("a location outside: %+v", l)
			}
		}
	}
	_, err := mergeRuns(t, chunk.ID{8}, []*Run{r}, func(id chunk.ID) bool { return id[7]%2 == 0 })
	check(err)
	_, err = BuildFilter(bg, r)
	check(err)
}

func TestHostileFooters(t *testing.T) {
	rs := someRows(300)
	id := chunk.ID{7}
	r := openRun(t, id, rs.seal(id), nil)
	body := rs.seal(id)[:r.layout.chunks.end()]
	for name, change := range map[string]func(c *Counts, fences []uint64) []uint64{
		"none":          func(_ *Counts, f []uint64) []uint64 { return f },
		"packs":         func(c *Counts, f []uint64) []uint64 { c.Packs = 0; return f },
		"fewer packs":   func(c *Counts, f []uint64) []uint64 { c.Packs--; return f },
		"more packs":    func(c *Counts, f []uint64) []uint64 { c.Packs = c.Records + 1; return f },
		"more records":  func(c *Counts, f []uint64) []uint64 { c.Records = c.Chunks + 1; return f },
		"chunks":        func(c *Counts, f []uint64) []uint64 { c.Chunks--; return f },
		"many chunks":   func(c *Counts, f []uint64) []uint64 { c.Chunks = MaxChunks + 1; return f },
		"all":           func(c *Counts, f []uint64) []uint64 { *c = Counts{1<<32 - 1, 1<<32 - 1, 1<<32 - 1}; return f },
		"fewer fences":  func(_ *Counts, f []uint64) []uint64 { return f[1:] },
		"more fences":   func(_ *Counts, f []uint64) []uint64 { return append(f, 1<<63) },
		"unsorted":      func(_ *Counts, f []uint64) []uint64 { f[0], f[1] = f[1], f[0]; return f },
		"another fence": func(_ *Counts, f []uint64) []uint64 { f[1]--; return f },
	} {
		c, fences := r.counts, append([]uint64{}, r.fences...)
		fences = change(&c, fences)
		plain := appendFooter(nil, c, fences)
		size := int64(len(body)+len(plain)) + chunk.BoxOverhead + trailerBytes
		box := r.sealer.Seal(nil, plain, r.binder.footer(size))
		object := binary.LittleEndian.AppendUint32(append(bytes.Clone(body), box...), uint32(len(box)))
		_, err := openBytes(id, object, nil)
		if name == "another fence" && err == nil { // it takes the blocks to see it
			err = readAll(id, object)
		}
		if (name == "none") != (err == nil) || err != nil && !errors.Is(err, key.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzRun gives the reader any object.
func FuzzRun(f *testing.F) {
	id := chunk.ID{7}
	object := someRows(2).seal(id)
	f.Add(object)
	f.Add(object[:100])
	f.Fuzz(func(t *testing.T, object []byte) {
		if err := readAll(id, object); err != nil && !isDetected(err) {
			t.Fatal(err)
		}
	})
}

// FuzzRows gives the reader any rows behind valid seals. What Verify takes must
// merge into itself.
func FuzzRows(f *testing.F) {
	flat := func(rs *rows) (p, r, c []byte) {
		for i := range rs.packs {
			p = appendPackRow(p, &rs.packs[i])
		}
		for i := range rs.records {
			r = appendRecordRow(r, &rs.records[i])
		}
		for i := range rs.chunks {
			c = appendChunkRow(c, &rs.chunks[i])
		}
		return p, r, c
	}
	for n := 1; n < 4; n++ {
		p, r, c := flat(someRows(n))
		f.Add(p, r, c)
	}
	id := chunk.ID{7}
	f.Fuzz(func(t *testing.T, p, r, c []byte) {
		var rs rows
		for ; len(p) >= packRowBytes; p = p[packRowBytes:] {
			rs.packs = append(rs.packs, parsePackRow(p))
		}
		for ; len(r) >= recordRowBytes; r = r[recordRowBytes:] {
			rs.records = append(rs.records, parseRecordRow(r))
		}
		for ; len(c) >= chunkRowBytes; c = c[chunkRowBytes:] {
			rs.chunks = append(rs.chunks, parseChunkRow(c))
		}
		if len(rs.packs) == 0 {
			return
		}
		run, err := openBytes(id, rs.seal(id), NewBlockCache(0))
		if err == nil {
			useAll(t, run, id)
			err = run.Verify(bg)
		}
		if err != nil {
			if !errors.Is(err, key.ErrDamaged) {
				t.Fatal(err)
			}
			return
		}
		merged, err := mergeRuns(t, id, []*Run{run, run}, nil)
		if err != nil || !bytes.Equal(plaintext(t, merged), plaintext(t, run)) {
			t.Fatalf("a merge with itself is another run: %v", err)
		}
	})
}
