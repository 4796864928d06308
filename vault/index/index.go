// Package index writes, reads and merges index runs: sorted tables that tell in
// which pack, and where in it, a chunk or a page lies (docs/FORMAT.md §7).
//
// On disk: header (40) | pack blocks | record blocks | chunk blocks | footer box
// | its length (u32). Rows have fixed widths, 256 rows make a sealed block, and
// the footer has the counts and the first bytes of each chunk block, so that one
// look-up in a vault far away costs a block of each table.
//
// [Write] makes a run of the directories of packs, [Merge] one of several runs,
// [OpenRun] reads one from a [Source]: the vault, or a local copy. A [Set] looks a
// chunk up in several runs; a [Filter], which is local only, spares it most
// look-ups of chunks that are not there.
//
// Errors: all that is wrong with a run wraps key.ErrDamaged (or key.ErrNewer);
// errors of the source are wrapped as they are. [ErrEmpty] is for a run that
// would have no rows.
//
// Concurrency: Run, Set, Filter and [BlockCache] may be shared. Iterators are for
// one goroutine each.
//
// Security: every block is bound to the vault, the run, the table and its place,
// so a run in a cache that others can write is as good as one in the vault: it
// can be spoilt, but not lie. A filter is not authenticated; see there.
//
// The package does not know which runs count (the log says so) and not what lies
// in a pack; it stores nothing but what it writes to the caller's writer.
package index

import (
	"errors"
	"fmt"
	"strings"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// ErrEmpty is returned where a run would have no chunks: such runs are not
// written. Nothing was written then.
var ErrEmpty = errors.New("no chunks for an index run")

// MaxChunks bounds the chunks of a run; 10^8 is the supported size of a vault.
const MaxChunks = 1 << 28

// Location is one place of a chunk.
type Location struct {
	Pack         chunk.ID
	Type         uint8  // of the pack: key.TypeDataPack or key.TypeManifestPack
	PackLength   uint64 // bytes of the pack's object
	Number       uint32 // of the record, unique within its pack
	RecordOffset uint32 // where the record's box begins in the object
	Stored       uint32 // bytes of the box
	Plain        uint32 // bytes of the record's plaintext
	Codec        chunk.Codec
	Offset       uint32 // of the chunk in the record's plaintext
	Length       uint32 // bytes of the chunk
}

// Record is the location's record as a pack.Opener takes it, without its chunks.
func (l *Location) Record() pack.Record {
	return pack.Record{Number: l.Number, Codec: l.Codec, Plain: l.Plain, Stored: l.Stored, Offset: l.RecordOffset}
}

// Counts are the rows of a run's tables. Each pack has a record and each record a
// chunk, so Packs <= Records <= Chunks.
type Counts struct {
	Packs, Records, Chunks uint32
}

// Prefix is what the names of all runs' objects begin with.
const Prefix = "index/"

// Name is the name of a run's object: index/<64 hex digits>.
func Name(id chunk.ID) string { return Prefix + id.String() }

// IDOf is the ID of the run whose object has this name; false for other names.
func IDOf(name string) (id chunk.ID, ok bool) {
	id, err := chunk.ParseID(strings.TrimPrefix(name, Prefix))
	if err != nil || Name(id) != name {
		return chunk.ID{}, false
	}
	return id, true
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{key.ErrDamaged}, args...)...)
}
