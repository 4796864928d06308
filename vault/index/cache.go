package index

import "sync"

// DefaultCacheBytes is the budget of a BlockCache: enough for the blocks of
// records and packs of a usual vault and the chunk blocks of a job's recent
// past, and small beside the 256 MiB that a job may take.
const DefaultCacheBytes = 16 << 20

// blockOverhead is what an entry of the cache takes besides its block.
const blockOverhead = 128

// BlockCache keeps the opened and checked blocks that were used last, of all runs
// that share it. It is safe for concurrent use.
type BlockCache struct {
	mu      sync.Mutex
	budget  int
	used    int
	entries map[blockKey]*blockEntry
	lru     blockEntry // ring: next is the newest, prev the oldest
}

type blockKey struct {
	run    uint64 // serial of the Run, so that a run opened again is another
	number uint32
	table  uint8
}

type blockEntry struct {
	key        blockKey
	block      []byte
	prev, next *blockEntry
}

// NewBlockCache makes a cache of at most budget bytes; 0 means DefaultCacheBytes.
func NewBlockCache(budget int) *BlockCache {
	if budget == 0 {
		budget = DefaultCacheBytes
	}
	c := &BlockCache{budget: budget, entries: make(map[blockKey]*blockEntry)}
	c.lru.prev, c.lru.next = &c.lru, &c.lru
	return c
}

// get returns a block, which must not be changed, or nil. A nil cache is empty.
func (c *BlockCache) get(k blockKey) []byte {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[k]
	if e == nil {
		return nil
	}
	if c.lru.next != e {
		e.unlink()
		c.push(e)
	}
	return e.block
}

func (c *BlockCache) put(k blockKey, block []byte) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries[k] != nil {
		return // two readers missed it together
	}
	e := &blockEntry{key: k, block: block}
	c.entries[k] = e
	c.push(e)
	c.used += e.bytes()
	for c.used > c.budget && c.lru.prev != &c.lru {
		oldest := c.lru.prev
		oldest.unlink()
		delete(c.entries, oldest.key)
		c.used -= oldest.bytes()
	}
}

func (c *BlockCache) push(e *blockEntry) {
	e.prev, e.next = &c.lru, c.lru.next
	e.next.prev, c.lru.next = e, e
}

func (e *blockEntry) unlink() { e.prev.next, e.next.prev = e.next, e.prev }

func (e *blockEntry) bytes() int { return cap(e.block) + blockOverhead }
