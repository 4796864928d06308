package agent

import (
	"cmp"
	"slices"

	"github.com/tharsis-backup/tharsis/chunk"
)

const (
	// smallPack is the length below which a pack is written anew together with
	// others, once there are manySmall of its type: each job leaves one or two,
	// and a store of many small objects is slow to list, to check and to move.
	smallPack = 2 << 20
	manySmall = 64
	// maxDeadShare is how much of the trusted packs may be dead before those are written
	// anew too of which less than half is, in percent; but of a pack minDeadShare has
	// to be, since the rest of it is written again (docs/decisions/0009-dead-share.md).
	maxDeadShare = 15
	minDeadShare = 25
)

// deadBytes are the bytes of a pack's records that nothing takes from it.
func (u *packUse) deadBytes() uint64 { return u.total - min(u.live, u.total) }

// candidates are the packs whose rest is written anew, as far as MaxRepack goes, those
// first of which the least is needed: what is the last to have something and is to go;
// where over half is dead; of many small ones all; and else as many as bring the dead
// bytes of all below maxDeadShare.
func (p *prune) candidates() map[chunk.ID]struct{} {
	must := p.mustRepack()
	var ids []chunk.ID
	all, dead := uint64(0), uint64(0)
	st := p.s.vault.Log.State()
	for id, u := range p.use {
		if must(id, u) {
			ids = append(ids, id)
		} else if u.live > 0 && st.Usable(id) {
			all, dead = all+u.total, dead+u.deadBytes()
			if u.deadBytes()*100 >= u.total*minDeadShare {
				ids = append(ids, id)
			}
		}
	}
	p.sortByNeed(ids)
	from, bytes := map[chunk.ID]struct{}{}, int64(0)
	for _, id := range ids {
		u := p.use[id]
		if !must(id, u) {
			if dead*100 <= all*maxDeadShare {
				continue
			}
			all, dead = all-u.deadBytes(), dead-u.deadBytes()
		}
		if n := bytes + int64(u.length); p.o.MaxRepack == 0 || n <= p.o.MaxRepack || u.last {
			from[id], bytes = struct{}{}, n
		}
	}
	return from
}

// mustRepack tells which packs are written anew whatever the others are like.
func (p *prune) mustRepack() func(chunk.ID, *packUse) bool {
	small, isSmall := map[uint8]int{}, uint64(p.s.env.sized(smallPack))
	for _, u := range p.use {
		if u.live > 0 && u.length < isSmall {
			small[u.typ]++
		}
	}
	st := p.s.vault.Log.State()
	return func(id chunk.ID, u *packUse) bool {
		mostlyDead := 2*u.live < u.total
		return u.last && !st.Swept(id) ||
			u.live > 0 && st.Usable(id) && (mostlyDead || u.length < isSmall && small[u.typ] >= manySmall)
	}
}

// sortByNeed sorts packs: those that are the last to have something, then by how much
// of them is needed.
func (p *prune) sortByNeed(ids []chunk.ID) {
	slices.SortFunc(ids, func(a, b chunk.ID) int {
		x, y := p.use[a], p.use[b]
		if x.last != y.last {
			if x.last {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(x.live*(y.total+1), y.live*(x.total+1)), a.Compare(b))
	})
}
