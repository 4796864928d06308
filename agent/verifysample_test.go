package agent

import (
	"log/slog"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/tharsis-backup/tharsis/cache"
	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/key"
)

// sampler plays the checks of one machine over a vault whose packs come and go.
type sampler struct {
	t     *testing.T
	s     *Session
	now   time.Time
	packs map[chunk.ID]*packState
	since map[chunk.ID]int // run in which a pack came
	read  map[chunk.ID]int // run in which it was read last
	run   int
}

func newSampler(t *testing.T) *sampler {
	dir, err := cache.Open(quickDir(t), key.VaultID{1})
	noErr(t, err)
	p := &sampler{t: t, now: time.Unix(1_700_000_000, 0), packs: map[chunk.ID]*packState{}, since: map[chunk.ID]int{}, read: map[chunk.ID]int{}}
	p.s = fakeSession(dir, func() time.Time { return p.now })
	return p
}

func (p *sampler) add(rng *rand.Rand, length uint64) {
	var id chunk.ID
	for i := range id {
		id[i] = byte(rng.Uint32())
	}
	p.packs[id], p.since[id] = &packState{length: length}, p.run
}

func (p *sampler) drop(id chunk.ID) {
	delete(p.packs, id)
	delete(p.since, id)
	delete(p.read, id)
}

// check reads a sample and returns how many bytes.
func (p *sampler) check(share float64, damaged func(chunk.ID) bool) (bytes uint64) {
	p.run++
	p.now = p.now.Add(24 * time.Hour)
	r := p.s.packReads()
	var ids []chunk.ID
	for id, st := range p.packs {
		ids = append(ids, id)
		r.know(id, st.length)
	}
	for _, id := range r.choose(p.packs, ids, share) {
		bytes += p.packs[id].length
		p.read[id] = p.run
		r.done(id, damaged == nil || !damaged(id))
	}
	r.save(true)
	return bytes
}

// All packs are read within 100/P checks of P %, and again within as many; those that
// come are read soon; what is gone is forgotten.
func TestSampleComesRound(t *testing.T) {
	seeds(t, 12, func(t *testing.T, rng *rand.Rand) {
		p := newSampler(t)
		share := []float64{0.7, 5, 12.5, 33, 100}[rng.IntN(5)]
		round := int(math.Ceil(100 / share))
		for range 1 + rng.IntN(200) {
			p.add(rng, 1+rng.Uint64N(1<<24))
		}
		for range 2 * round {
			var total, longest uint64
			for _, st := range p.packs {
				total, longest = total+st.length, max(longest, st.length)
			}
			want := uint64(math.Ceil(float64(total) * share / 100))
			if got := p.check(share, nil); got < want || got > want+longest {
				t.Fatalf("read %d of %d bytes at %v %%", got, total, share)
			}
			if p.run < round {
				continue
			}
			for id := range p.packs {
				if p.read[id] <= p.run-round {
					t.Fatalf("after %d checks at %v %% a pack was read in %d", p.run, share, p.read[id])
				}
			}
		}
		if c := p.s.packReads(); len(c.packs) != len(p.packs) {
			t.Errorf("%d of %d packs remembered", len(c.packs), len(p.packs))
		}
		// From now on packs come and go, less than half of what is read.
		for range 4 * round {
			p.check(share, nil)
			var total, fresh uint64
			for id, st := range p.packs {
				total += st.length
				if n := p.run - p.since[id]; n > round+2 && p.read[id] == 0 {
					t.Fatalf("at %v %% a pack was not read in %d checks", share, n)
				}
			}
			for n := 1 + rng.Uint64N(1<<24); fresh+n < uint64(float64(total)*share/200); n = 1 + rng.Uint64N(1<<24) {
				p.add(rng, n)
				fresh += n
			}
			for id, st := range p.packs {
				if fresh < st.length || len(p.packs) < 2 {
					break
				}
				fresh -= st.length
				p.drop(id)
			}
		}
		if c := p.s.packReads(); len(c.packs) > len(p.packs)+int(float64(len(p.packs))) {
			t.Errorf("%d packs remembered, %d are there", len(c.packs), len(p.packs))
		}
	})
}

// A damaged pack is read by every sample, until it is whole.
func TestSampleInsistsOnDamage(t *testing.T) {
	rng := rand.New(rand.NewPCG(81, 82))
	p := newSampler(t)
	for range 50 {
		p.add(rng, 1000)
	}
	var bad chunk.ID
	for id := range p.packs {
		bad = id
	}
	isBad := func(id chunk.ID) bool { return id == bad }
	for p.read[bad] == 0 {
		p.check(4, isBad)
	}
	for range 10 {
		p.check(4, isBad)
		if p.read[bad] != p.run {
			t.Fatalf("check %d passed the damaged pack by", p.run)
		}
	}
	p.check(4, nil)
	if p.check(4, nil); p.read[bad] == p.run {
		t.Error("it is whole, and read again at once")
	}
}

// A clock that is set back, and a memo that was spoilt, cost reading, and no more.
func TestSampleForgets(t *testing.T) {
	rng := rand.New(rand.NewPCG(83, 84))
	p := newSampler(t)
	for range 10 {
		p.add(rng, 1000)
	}
	p.check(100, nil)
	if c := p.s.packReads(); len(c.packs) != 10 {
		t.Fatalf("%d remembered", len(c.packs))
	}
	other := *p.s
	other.vault = fakeVault(2)
	if c := other.packReads(); len(c.packs) != 0 {
		t.Error("another key's memo is believed")
	}
	p.now = p.now.Add(-time.Minute)
	if c := p.s.packReads(); len(c.packs) != 0 {
		t.Error("a time to come is believed")
	}
	p.now = p.now.Add(time.Hour)
	b, err := p.s.cache.Memo(readMemo, p.s.vault.Ring).Read()
	noErr(t, err)
	noErr(t, p.s.cache.Memo(readMemo, fakeVault(2).Ring).Write(b))
	if c := p.s.packReads(); len(c.packs) != 0 {
		t.Error("a memo under another key is believed")
	}
}

func fakeSession(dir *cache.Dir, now func() time.Time) *Session {
	return &Session{env: Environment{Clock: now}, log: slog.New(slog.DiscardHandler), cache: dir, vault: fakeVault(1)}
}

func fakeVault(n byte) *vault.Vault {
	return &vault.Vault{Ring: key.NewRing(key.VaultID{1}, key.Root{n})}
}
