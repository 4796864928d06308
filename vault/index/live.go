package index

import (
	"bytes"
	"context"
	"sort"

	"github.com/tharsis-backup/tharsis/chunk"
)

// Live remembers which chunks and pages of several runs are needed: a bit for each
// row of their chunk tables, so 12.5 MB for the 10^8 chunks of a large vault. It is
// for one goroutine.
type Live struct {
	members []Member
	bits    map[chunk.ID][]uint64 // by run
}

// NewLive makes one in which nothing is needed. Filters only make Mark faster: what
// they deny is looked up without them before it counts as not there.
func NewLive(members ...Member) *Live {
	l := &Live{bits: make(map[chunk.ID][]uint64, len(members))}
	l.Replace(members...)
	return l
}

// Replace goes over to other runs. What was needed is remembered for those that
// stay; of new ones nothing is needed yet. dropped tells that a run is gone, and
// what it knew with it: then all has to be marked again.
func (l *Live) Replace(members ...Member) (dropped bool) {
	old := l.bits
	l.members, l.bits = members, make(map[chunk.ID][]uint64, len(members))
	for _, m := range members {
		id := m.Run.id
		if l.bits[id] = old[id]; l.bits[id] == nil {
			l.bits[id] = make([]uint64, (m.Run.counts.Chunks+63)/64)
		}
		delete(old, id)
	}
	return len(old) > 0
}

// Mark says that a chunk or page is needed. It tells whether a run has it, and
// whether that was said before.
func (l *Live) Mark(ctx context.Context, id chunk.ID) (found, before bool, err error) {
	for _, filtered := range []bool{true, false} {
		for i := range l.members {
			m := &l.members[i]
			if denied := m.Filter != nil && !m.Filter.MayHave(id); denied == filtered {
				continue
			}
			row, ok, err := m.Run.row(ctx, id)
			if err != nil {
				return false, false, err
			}
			if ok {
				return true, l.set(m.Run, row), nil
			}
		}
	}
	return false, false, nil
}

// set sets a row's bit and tells whether it was set.
func (l *Live) set(r *Run, row uint32) bool {
	word, bit := &l.bits[r.id][row/64], uint64(1)<<(row%64)
	was := *word&bit != 0
	*word |= bit
	return was
}

// Needed tells whether a chunk or page was marked.
func (l *Live) Needed(ctx context.Context, id chunk.ID) (bool, error) {
	for i := range l.members {
		r := l.members[i].Run
		row, ok, err := r.row(ctx, id)
		if err != nil {
			return false, err
		}
		if ok && l.bits[r.id][row/64]&(1<<(row%64)) != 0 {
			return true, nil
		}
	}
	return false, nil
}

// row is the first row of a chunk.
func (r *Run) row(ctx context.Context, id chunk.ID) (uint32, bool, error) {
	p := prefix(id[:])
	next := sort.Search(len(r.fences), func(i int) bool { return r.fences[i] >= p })
	for n := max(next-1, 0); n < len(r.fences) && r.fences[n] <= p; n++ {
		b, err := r.block(ctx, &r.layout.chunks, uint32(n))
		if err != nil {
			return 0, false, err
		}
		if i := searchBlock(b, id); i < len(b) {
			found := bytes.Equal(b[i:i+32], id[:])
			return uint32(n)*blockRows + uint32(i/chunkRowBytes), found, nil
		}
	}
	return 0, false, nil
}

// Place is where a chunk lies, for who counts.
type Place struct {
	Pack   chunk.ID
	Run    int    // which of the members
	Record uint32 // row of the run's record table
	Length uint32 // bytes of the chunk
}

// Each calls f for each chunk and page of the runs, in the order of their IDs, with
// all its places, those of the first run first, and whether it is needed. places is
// valid until f returns. It reads each run once, from end to end, and holds some
// 50 bytes for each pack of each run.
func (l *Live) Each(ctx context.Context, f func(id chunk.ID, needed bool, places []Place) error) error {
	type row struct {
		Place
		id     chunk.ID
		needed bool
	}
	streams := make([]stream[row], len(l.members))
	for i := range l.members {
		r := l.members[i].Run
		packs, first, err := r.packOfRecords(ctx)
		if err != nil {
			return err
		}
		bits := l.bits[r.id]
		c := newCursor(r, &r.layout.chunks, mergeReadBytes/len(l.members))
		n := uint32(0)
		streams[i] = func() (row, bool, error) {
			b, err := c.next(ctx)
			if b == nil {
				return row{}, false, err
			}
			at := n
			n++
			cr := parseChunkRow(b)
			p := sort.Search(len(packs), func(i int) bool { return first[i+1] > cr.Record })
			if p == len(packs) {
				return row{}, false, damaged("chunk %s of run %s points outside of the record table", cr.ID.Short(), r.id.Short())
			}
			return row{Place{packs[p], i, cr.Record, cr.Length}, cr.ID, bits[at/64]&(1<<(at%64)) != 0}, true, nil
		}
	}
	var id chunk.ID
	var places []Place
	needed := false
	flush := func() error {
		if len(places) == 0 {
			return nil
		}
		return f(id, needed, places)
	}
	err := mergeStreams(streams, func(a, b *row) int { return bytes.Compare(a.id[:], b.id[:]) }, func(r *row, _ int) error {
		if len(places) > 0 && r.id != id {
			if err := flush(); err != nil {
				return err
			}
			places, needed = places[:0], false
		}
		id, needed = r.id, needed || r.needed
		places = append(places, r.Place)
		return nil
	})
	if err != nil {
		return err
	}
	return flush()
}

// packOfRecords gives the packs of a run, and for each its first row of the record
// table; one more stands for the end of the last.
func (r *Run) packOfRecords(ctx context.Context) (packs []chunk.ID, first []uint32, err error) {
	for p, err := range r.Packs(ctx) {
		if err != nil {
			return nil, nil, err
		}
		packs = append(packs, p.ID)
	}
	n := uint32(0)
	for rec, err := range r.Records(ctx) {
		if err != nil {
			return nil, nil, err
		}
		if int(rec.Pack) == len(first) {
			first = append(first, n)
		}
		n++
	}
	return packs, append(first, n), nil
}
