package log

import (
	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/wire"
)

// Limits of a point (docs/FORMAT.md §10).
const (
	// MaxTags bounds the tags of a point.
	MaxTags = 64
	// MaxSources bounds the sources of a point.
	MaxSources = 4096
	// MaxPathBytes bounds a source's path.
	MaxPathBytes = 65535

	// sourceMinBytes is the shortest encoding of a source.
	sourceMinBytes = 16 + 2 + 1 + 32 + 8 + 1 + 1 + 3
)

// Point is what one job committed. One that came out of a log is shared and
// must not be changed. Times are ns since 1970.
type Point struct {
	ID      PointID
	Machine MachineID
	// Install was drawn when the machine's home was made; it tells clones apart.
	Install [16]byte
	// Previous is the machine's COMMIT before this one, or NoEntry.
	Previous Head
	Started  int64
	Ended    int64
	// Warnings: some file was not stored as it is. Suspect: so much is gone that
	// retention must not rely on the point.
	Warnings bool
	Suspect  bool
	Host     string // the machine's name at that time
	Agent    string // the agent's version
	Tags     []Tag  // by Key, strictly ascending
	Runs     []chunk.ID
	Sources  []Source
	Stats    Stats
}

// NoEntry is the Previous of a machine's first COMMIT.
var NoEntry = Head{Seq: None}

// Tag is a word of the user's on a point.
type Tag struct{ Key, Value string }

// Status is how a source went.
type Status uint8

// The statuses of a source.
const (
	StatusComplete Status = 1 + iota
	StatusWarnings
	StatusSuspect
	StatusFailed // the source has no manifest in this point
)

// Snapshot is what a source was read from.
type Snapshot uint8

// The kinds of snapshots.
const (
	SnapshotNone Snapshot = iota
	SnapshotVSS
	SnapshotBtrfs
	SnapshotZFS
	SnapshotLVM
)

// Source is one source in a point.
type Source struct {
	ID         SourceID // NewSourceID of the machine and Path
	Path       string   // absolute, raw bytes
	Status     Status
	Root       chunk.ID // page ID of the manifest's root; zero exactly if failed
	Base       uint64   // the COMMIT or PARTIAL that this one started from, or None
	FileSystem string   // identity of the root's file system
	Snapshot   Snapshot
	Entries    uint64 // of the whole manifest
	Files      uint64
	Bytes      uint64 // sum of the files' sizes
}

// Stats counts what a job did.
type Stats struct {
	FilesNew, FilesChanged, FilesUnmodified, FilesGone, FilesUnreadable uint64
	// BytesRead is what was read of the files, BytesAdded the plaintext of new
	// chunks, BytesStored what was put into the vault before this entry.
	BytesRead, BytesAdded, BytesStored uint64
	Warnings                           uint64
}

// fields gives the counters in the order of the format.
func (s *Stats) fields() [9]*uint64 {
	return [9]*uint64{
		&s.FilesNew, &s.FilesChanged, &s.FilesUnmodified, &s.FilesGone, &s.FilesUnreadable,
		&s.BytesRead, &s.BytesAdded, &s.BytesStored, &s.Warnings,
	}
}

// Source finds a source of the point that has a manifest in it.
func (p *Point) Source(id SourceID) (*Source, bool) {
	for i := range p.Sources {
		if s := &p.Sources[i]; s.ID == id && s.Status != StatusFailed {
			return s, true
		}
	}
	return nil, false
}

func (p *Point) encode(b []byte) []byte {
	b = append(b, p.ID[:]...)
	b = append(b, p.Machine[:]...)
	b = append(b, p.Install[:]...)
	b = wire.AppendU64(b, p.Previous.Seq)
	b = append(b, p.Previous.Hash[:]...)
	b = wire.AppendU64(b, uint64(p.Started))
	b = wire.AppendU64(b, uint64(p.Ended))
	b = wire.AppendUvarint(b, bit(p.Warnings, 0)|bit(p.Suspect, 1))
	b = wire.AppendBlob(b, p.Host)
	b = wire.AppendBlob(b, p.Agent)
	b = wire.AppendUvarint(b, uint64(len(p.Tags)))
	for _, t := range p.Tags {
		b = wire.AppendBlob(wire.AppendBlob(b, t.Key), t.Value)
	}
	b = appendIDs(b, p.Runs)
	b = wire.AppendUvarint(b, uint64(len(p.Sources)))
	for i := range p.Sources {
		b = p.Sources[i].encode(b)
	}
	for _, f := range p.Stats.fields() {
		b = wire.AppendUvarint(b, *f)
	}
	return b
}

func decodePoint(d *wire.Decoder) (p Point) {
	d.Fixed(p.ID[:])
	d.Fixed(p.Machine[:])
	d.Fixed(p.Install[:])
	p.Previous.Seq = d.U64()
	d.Fixed(p.Previous.Hash[:])
	if d.Err() == nil && (p.Previous.Seq == None) != (p.Previous.Hash == [32]byte{}) {
		d.Fail("previous COMMIT with half of its name")
	}
	p.Started, p.Ended = d.I64(), d.I64()
	flags := d.Uvarint(3)
	p.Warnings, p.Suspect = flags&1 != 0, flags&2 != 0
	p.Host, p.Agent = decodeText(d), decodeText(d)
	p.Tags = decodeTags(d)
	p.Runs = decodeIDs(d)
	p.Sources = decodeSources(d, p.Machine)
	for _, f := range p.Stats.fields() {
		*f = d.Uvarint(1<<64 - 1)
	}
	return p
}

func decodeTags(d *wire.Decoder) []Tag {
	n := d.Count(MaxTags, 2)
	if n == 0 {
		return nil
	}
	tags := make([]Tag, n)
	for i := range tags {
		tags[i] = Tag{Key: decodeText(d), Value: decodeText(d)}
		if d.Err() == nil && i > 0 && tags[i].Key <= tags[i-1].Key {
			d.Fail("tags are not in order")
		}
	}
	return tags
}

func decodeSources(d *wire.Decoder, machine MachineID) []Source {
	n := d.Count(MaxSources, sourceMinBytes)
	if d.Err() == nil && n == 0 {
		d.Fail("a point without sources")
	}
	if d.Err() != nil {
		return nil
	}
	sources := make([]Source, n)
	seen := make(map[SourceID]struct{}, n)
	for i := range sources {
		s := &sources[i]
		s.decode(d)
		if d.Err() != nil {
			return nil
		}
		if s.ID != NewSourceID(machine, s.Path) {
			d.Fail("source ID is not that of its path")
		}
		if _, twice := seen[s.ID]; twice {
			d.Fail("source %s stands twice", s.ID)
		}
		seen[s.ID] = struct{}{}
	}
	return sources
}

func (s *Source) encode(b []byte) []byte {
	b = append(b, s.ID[:]...)
	b = wire.AppendBlob(b, s.Path)
	b = append(b, byte(s.Status))
	b = append(b, s.Root[:]...)
	b = wire.AppendU64(b, s.Base)
	b = wire.AppendBlob(b, s.FileSystem)
	b = append(b, byte(s.Snapshot))
	b = wire.AppendUvarint(b, s.Entries)
	b = wire.AppendUvarint(b, s.Files)
	return wire.AppendUvarint(b, s.Bytes)
}

func (s *Source) decode(d *wire.Decoder) {
	d.Fixed(s.ID[:])
	s.Path = d.Str(MaxPathBytes)
	s.Status = Status(d.U8())
	d.Fixed(s.Root[:])
	s.Base = d.U64()
	s.FileSystem = decodeText(d)
	s.Snapshot = Snapshot(d.U8())
	s.Entries = d.Uvarint(1<<64 - 1)
	s.Files = d.Uvarint(1<<64 - 1)
	s.Bytes = d.Uvarint(1<<64 - 1)
	switch {
	case d.Err() != nil:
	case s.Path == "":
		d.Fail("source without a path")
	case s.Status < StatusComplete || s.Status > StatusFailed:
		d.Fail("unknown source status %d", uint8(s.Status))
	case s.Root.IsZero() != (s.Status == StatusFailed):
		d.Fail("source root does not go with status %d", uint8(s.Status))
	case s.Snapshot > SnapshotLVM:
		d.Fail("unknown snapshot kind %d", uint8(s.Snapshot))
	}
}
