package log

import (
	"github.com/tharsis-backup/tharsis/internal/wire"
	"github.com/tharsis-backup/tharsis/vault/key"
)

// EntryName is the name of entry seq's object.
func EntryName(seq uint64) string { return entryName(seq) }

// BundleName is the name of the object that holds entries 256n to 256n + 255.
func BundleName(n uint64) string { return bundleName(n) }

// Unusable counts the packs that are not Usable. It only grows, so that a job
// learns by it whether any pack lost trust while it ran.
func (s *State) Unusable() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	n := 0
	for _, m := range s.packs {
		if m.flags&packUnusable != 0 {
			n++
		}
	}
	return n
}

// BundleHeader appends the header that a bundle begins with.
func BundleHeader(b []byte) []byte { return key.AppendShortHeader(b, key.TypeBundle) }

// AppendBundled appends the object of an entry as it stands in a bundle.
func AppendBundled(b, object []byte) []byte {
	return append(wire.AppendU32(b, uint32(len(object))), object...)
}
