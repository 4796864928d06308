package manifest

// shape is the rule by which a level's rows are cut into pages (docs/FORMAT.md
// §8.3). The zero value is the format's; tests use smaller pages to have more.
type shape struct {
	bits uint // of the hash that must be zero after a page's last row
	size int  // bytes at which a page ends in any case
}

const (
	shapeBits = 7     // 128 rows on average, about 16 KiB
	shapeSize = 65536 // bytes; four times the average, for long names and block lists
)

// ends tells whether a page of a level ends after a row: the row's key, its
// number from 1 and the page's length with it. An inner page has two rows at
// least, or levels of long keys would not shrink.
func (s shape) ends(key []byte, level, rows, length int) bool {
	if level > 0 && rows < 2 {
		return false
	}
	bits, size := s.bits, s.size
	if bits == 0 {
		bits = shapeBits
	}
	if size == 0 {
		size = shapeSize
	}
	return length >= size || mix(key, uint8(level))>>(64-bits) == 0
}

// mix hashes a row's key, differently on each level. It need not resist an
// adversary: one who chooses file names can make small pages, at 2^7 attempts a
// name and level, and that is all.
func mix(key []byte, level uint8) uint64 {
	const prime = 0x100000001b3
	h := uint64(0xcbf29ce484222325)
	for _, c := range key {
		h = (h ^ uint64(c)) * prime
	}
	h = (h ^ uint64(level)) * prime
	h ^= h >> 32
	return h * 0x9e3779b97f4a7c15
}
