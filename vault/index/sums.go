package index

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"sort"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// Sum stands for all rows that a run has of one pack, or that a directory makes.
// Equal rows have equal sums, whatever else their runs hold; others have other
// sums, but for a chance of 2^-128.
type Sum [2]uint64

func (s *Sum) add(o Sum) { s[0], s[1] = s[0]+o[0], s[1]+o[1] }

// Summer makes sums, under a random key of its own: nobody can choose rows whose
// sums are equal. It is immutable and safe for concurrent use.
type Summer struct{ key [16]byte }

// NewSummer draws a Summer's key from random, or from crypto/rand where that is nil.
func NewSummer(random io.Reader) (*Summer, error) {
	if random == nil {
		random = rand.Reader
	}
	s := &Summer{}
	if _, err := io.ReadFull(random, s.key[:]); err != nil {
		return nil, fmt.Errorf("draw a key: %w", err)
	}
	return s, nil
}

// sum is that of a row of a table. A record is named by its place in its pack, which
// a directory and all runs agree on.
func (s *Summer) sum(table uint8, record uint32, row []byte) Sum {
	var b [16 + 1 + 4 + chunkRowBytes]byte
	n := copy(b[:], s.key[:])
	b[n] = table
	binary.LittleEndian.PutUint32(b[n+1:], record)
	n += 5
	h := sha256.Sum256(b[:n+copy(b[n:], row)])
	return Sum{binary.LittleEndian.Uint64(h[:]), binary.LittleEndian.Uint64(h[8:])}
}

func (s *Summer) pack(r *PackRow) Sum {
	var b [packRowBytes]byte
	return s.sum(tablePacks, 0, appendPackRow(b[:0], r))
}

func (s *Summer) record(n uint32, r *RecordRow) Sum {
	var b [recordRowBytes]byte
	row := *r
	row.Pack = 0
	return s.sum(tableRecords, n, appendRecordRow(b[:0], &row))
}

func (s *Summer) chunk(n uint32, r *ChunkRow) Sum {
	var b [chunkRowBytes]byte
	row := *r
	row.Record = 0
	return s.sum(tableChunks, n, appendChunkRow(b[:0], &row))
}

// Directory is the sum of the rows that Write makes of a directory.
func (s *Summer) Directory(d *pack.Directory) Sum {
	sum := s.pack(&PackRow{d.ID, d.Type, d.Length})
	var rows []ChunkRow
	for i := range d.Records {
		n := uint32(i)
		sum.add(s.record(n, recordRow(0, &d.Records[i])))
		rows = appendChunks(rows[:0], &d.Records[i], 0)
		for k := range rows {
			sum.add(s.chunk(n, &rows[k]))
		}
	}
	return sum
}

// packSums gathers the sums of a run's packs while the run is verified. It holds
// 20 bytes a pack.
type packSums struct {
	*Summer
	first []uint32 // number of each pack's first record
	sums  []Sum
}

func (s *packSums) addPack(r *PackRow, first uint32) {
	if s != nil {
		s.first, s.sums = append(s.first, first), append(s.sums, s.pack(r))
	}
}

func (s *packSums) addRecord(number uint32, r *RecordRow) {
	if s != nil {
		s.sums[r.Pack].add(s.record(number-s.first[r.Pack], r))
	}
}

func (s *packSums) addChunk(r *ChunkRow) {
	if s != nil {
		p := sort.Search(len(s.first), func(i int) bool { return s.first[i] > r.Record }) - 1
		s.sums[p].add(s.chunk(r.Record-s.first[p], r))
	}
}

// Sums verifies the run as Verify does, and then calls fn for each of its packs, by
// ID, with the sum of the rows that the run has of it: compared with that of the
// pack's directory, it tells whether the run is right about the pack.
func (r *Run) Sums(ctx context.Context, s *Summer, fn func(*PackRow, Sum) error) error {
	sums := &packSums{Summer: s}
	if err := r.verify(ctx, sums); err != nil {
		return err
	}
	i := 0
	for row, err := range r.Packs(ctx) {
		if err != nil {
			return err
		}
		if err := fn(&row, sums.sums[i]); err != nil {
			return err
		}
		i++
	}
	return nil
}

// Says tells whether a directory has the chunk id at a location.
func (l *Location) Says(d *pack.Directory, id chunk.ID) bool {
	if l.Pack != d.ID || l.Type != d.Type || l.PackLength != d.Length {
		return false
	}
	for i := range d.Records {
		r := &d.Records[i]
		if r.Number != l.Number {
			continue
		}
		var offset uint32
		for _, c := range r.Chunks {
			if c.ID == id && offset == l.Offset && c.Length == l.Length {
				return r.Offset == l.RecordOffset && r.Stored == l.Stored && r.Plain == l.Plain && r.Codec == l.Codec
			}
			offset += c.Length
		}
	}
	return false
}
