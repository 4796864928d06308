package agent

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/tharsis-backup/tharsis/cache"
	"github.com/tharsis-backup/tharsis/chunk"
)

// readMemo is the name of the memo of packReads.
const readMemo = "read"

// packReads remembers when this machine's checks read which pack of a vault from
// end to end, so that samples come round to all of them. It is derived data: where
// it is lost, packs are read again sooner than they had to be. Its memory and the
// memo grow with the packs, by 41 bytes each on the disk.
type packReads struct {
	memo *cache.Memo
	log  *slog.Logger
	now  int64 // ns since 1970: of this check

	mu    sync.Mutex // guards the rest
	packs map[chunk.ID]packRead
	total map[chunk.ID]uint64 // lengths of the packs that the check knows
	dirty bool
}

// packRead is when a pack was read, or else when it was first seen.
type packRead struct {
	read bool
	time int64 // ns since 1970
}

// readBytes is the length of a record of the memo: ID, u8 1 for read, i64 time.
const readBytes = 32 + 1 + 8

// packReads gives what the cache remembers; what cannot be read is not known.
func (s *Session) packReads() *packReads {
	r := &packReads{
		memo: s.cache.Memo(readMemo, s.vault.Ring), log: s.log, now: s.now().UnixNano(),
		packs: map[chunk.ID]packRead{}, total: map[chunk.ID]uint64{},
	}
	b, err := r.memo.Read()
	if err != nil {
		s.log.Debug("no memory of earlier checks", "reason", err)
	}
	for ; len(b) >= readBytes; b = b[readBytes:] {
		at := packRead{b[32] == 1, int64(binary.LittleEndian.Uint64(b[33:]))}
		if at.time <= r.now { // else the clock was set back: it is not known when
			r.packs[chunk.ID(b[:32])] = at
		}
	}
	return r
}

// choose picks packs of at least share percent of the bytes of all: those never read
// before the others, and of both those first that wait the longest.
func (r *packReads) choose(packs map[chunk.ID]*packState, ids []chunk.ID, share float64) []chunk.ID {
	r.mu.Lock()
	defer r.mu.Unlock()
	var sum uint64
	for _, id := range ids {
		sum += packs[id].length
		if _, known := r.packs[id]; !known {
			r.packs[id] = packRead{time: r.now}
			r.dirty = true
		}
	}
	order := slices.Clone(ids)
	slices.SortFunc(order, func(a, b chunk.ID) int {
		x, y := r.packs[a], r.packs[b]
		if x.read != y.read {
			if y.read {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(x.time, y.time), bytes.Compare(a[:], b[:]))
	})
	want := uint64(math.Ceil(float64(sum) * share / 100))
	n := 0
	for got := uint64(0); n < len(order) && got < want; n++ {
		got += packs[order[n]].length
	}
	return order[:n]
}

// done notes that a pack was read. One that was damaged goes to the front, so that
// no later check passes it by.
func (r *packReads) done(id chunk.ID, whole bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dirty = true
	r.packs[id] = packRead{}
	if whole {
		r.packs[id] = packRead{true, r.now}
	}
}

// know tells of a pack that the vault has.
func (r *packReads) know(id chunk.ID, length uint64) { r.total[id] = length }

// save remembers it. all tells that the check knows all packs of the vault, so that
// others can be forgotten. It may be called on nil.
func (r *packReads) save(all bool) {
	if r == nil || !r.dirty {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	b := make([]byte, 0, len(r.packs)*readBytes)
	for id, at := range r.packs {
		if _, there := r.total[id]; all && !there {
			continue
		}
		b = append(b, id[:]...)
		b = append(b, 0)
		if at.read {
			b[len(b)-1] = 1
		}
		b = binary.LittleEndian.AppendUint64(b, uint64(at.time))
	}
	if err := r.memo.Write(b); err != nil {
		r.log.Warn("remember what was read", "err", err)
	}
}

// ReadCoverage is how much of the content of a vault's packs this machine's checks
// have read, and over which time.
type ReadCoverage struct {
	Bytes, Total int64
	Since        time.Duration // since the earliest of these reads; 0 where nothing was read
}

func (r *packReads) coverage() (c ReadCoverage) {
	if r == nil {
		return c
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, length := range r.total {
		c.Total += int64(length)
		if at := r.packs[id]; at.read {
			c.Bytes += int64(length)
			c.Since = max(c.Since, time.Duration(r.now-at.time))
		}
	}
	return c
}
