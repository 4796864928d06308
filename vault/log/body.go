package log

import (
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/wire"
)

// Limits of docs/FORMAT.md §10 and §13.
const (
	// MaxBodyBytes bounds an entry's body: some 30,000 packs in one CONDEMN.
	// Who has a longer list writes several entries.
	MaxBodyBytes = 1 << 20
	// MaxSlots bounds a vault's key slots: each costs a key derivation to try.
	MaxSlots = 16
	// MaxTextBytes bounds a name, a label, a reason, a tag's key or value.
	MaxTextBytes = 1024
	// MinSoftDeleteDays and MaxSoftDeleteDays bound a vault's soft-delete period.
	MinSoftDeleteDays = 14
	MaxSoftDeleteDays = 180

	maxIDs  = MaxBodyBytes / 32
	maxID16 = MaxBodyBytes / 16
	maxSeqs = MaxBodyBytes / 8
	// slotMinBytes is the encoding of a slot with an empty label.
	slotMinBytes = 16 + 32 + 1 + 8 + 1
)

// Type tells what an entry does.
type Type uint8

// The types of entries (docs/FORMAT.md §10).
const (
	TypeGenesis Type = 1 + iota
	TypeMachine
	TypeCommit
	TypePartial
	TypeIndex
	TypeForget
	TypeUnforget
	TypeHold
	TypeUnhold
	TypePurge
	TypeRepack
	TypeCondemn
	TypeSwept
	TypeQuarantine
	TypeKeyChange
	TypeNoted
	TypeSettings
)

var typeNames = [...]string{
	TypeGenesis: "GENESIS", TypeMachine: "MACHINE", TypeCommit: "COMMIT", TypePartial: "PARTIAL",
	TypeIndex: "INDEX", TypeForget: "FORGET", TypeUnforget: "UNFORGET", TypeHold: "HOLD",
	TypeUnhold: "UNHOLD", TypePurge: "PURGE", TypeRepack: "REPACK", TypeCondemn: "CONDEMN",
	TypeSwept: "SWEPT", TypeQuarantine: "QUARANTINE", TypeKeyChange: "KEYCHANGE", TypeNoted: "NOTED",
	TypeSettings: "SETTINGS",
}

// String is the type's name in the format, as COMMIT.
func (t Type) String() string {
	if int(t) < len(typeNames) && typeNames[t] != "" {
		return typeNames[t]
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// Body is what an entry says: one of the pointer types *Genesis to *Settings of
// this package. A body that came out of a log is shared and must not be changed.
type Body interface {
	Type() Type
	// encode appends the encoding. It checks nothing: EncodeBody does.
	encode(b []byte) []byte
}

type (
	// Genesis is entry 0: it makes a vault.
	Genesis struct {
		Config         [32]byte // SHA-256 of the object config
		Admin          PublicKey
		SoftDeleteDays int
		Slots          []Slot
	}
	// Machine enrols a machine, or gives it a new key or name.
	Machine struct {
		ID    MachineID
		Key   PublicKey
		Name  string
		OS    string
		Owner bool // this machine becomes the one that writes
	}
	// Commit makes a recovery point.
	Commit struct{ Point }
	// Partial keeps what an unfinished job stored. It is no recovery point.
	Partial struct{ Point }
	// Index adds index runs and supersedes others (a merge, or a rebuild).
	Index struct{ Adds, Supersedes []chunk.ID }
	// Forget soft-deletes points.
	Forget struct {
		Points []PointID
		Reason string
	}
	// Unforget brings soft-deleted points back.
	Unforget struct{ Points []PointID }
	// Hold keeps points from Forget and Purge.
	Hold struct {
		Points []PointID
		Reason string
	}
	// Unhold ends Hold.
	Unhold struct{ Points []PointID }
	// Purge ends soft-deleted points for good.
	Purge struct{ Points []PointID }
	// Repack adds runs that name other packs with the live chunks of Replaced.
	Repack struct{ Adds, Replaced []chunk.ID }
	// Condemn announces that packs and runs will be deleted; no one may use them.
	Condemn struct{ Packs, Runs []chunk.ID }
	// Swept announces that packs and runs are being deleted now.
	Swept struct{ Packs, Runs []chunk.ID }
	// Quarantine takes trust from packs that are missing or damaged.
	Quarantine struct {
		Packs  []chunk.ID
		Reason string
	}
	// KeyChange removes key slots and then adds others.
	KeyChange struct {
		Added   []Slot
		Removed []SlotID
	}
	// Noted tells which FORGET entries, by number, an admin has seen.
	Noted struct{ Forgets []uint64 }
	// Settings changes what GENESIS set.
	Settings struct{ SoftDeleteDays int }
)

// SlotKind tells which secret opens a slot.
type SlotKind uint8

// The kinds of slots (docs/FORMAT.md §5).
const (
	SlotPassphrase SlotKind = 1
	SlotRecovery   SlotKind = 2
)

// Slot is the log's record of a key slot: only slots named so may be used.
type Slot struct {
	ID      SlotID
	Hash    [32]byte // SHA-256 of the slot's object
	Kind    SlotKind
	Created int64 // ns since 1970
	Label   string
}

// Type implements Body, as the methods below do.
func (*Genesis) Type() Type    { return TypeGenesis }
func (*Machine) Type() Type    { return TypeMachine }
func (*Commit) Type() Type     { return TypeCommit }
func (*Partial) Type() Type    { return TypePartial }
func (*Index) Type() Type      { return TypeIndex }
func (*Forget) Type() Type     { return TypeForget }
func (*Unforget) Type() Type   { return TypeUnforget }
func (*Hold) Type() Type       { return TypeHold }
func (*Unhold) Type() Type     { return TypeUnhold }
func (*Purge) Type() Type      { return TypePurge }
func (*Repack) Type() Type     { return TypeRepack }
func (*Condemn) Type() Type    { return TypeCondemn }
func (*Swept) Type() Type      { return TypeSwept }
func (*Quarantine) Type() Type { return TypeQuarantine }
func (*KeyChange) Type() Type  { return TypeKeyChange }
func (*Noted) Type() Type      { return TypeNoted }
func (*Settings) Type() Type   { return TypeSettings }

// EncodeBody encodes body, or tells which limit it is above.
func EncodeBody(body Body) ([]byte, error) {
	b := body.encode(nil)
	if len(b) > MaxBodyBytes {
		return nil, fmt.Errorf("encode %s: %d bytes, an entry holds %d at most: write several", body.Type(), len(b), MaxBodyBytes)
	}
	// The decoder is the one place that knows the limits.
	if _, err := DecodeBody(body.Type(), b); err != nil {
		return nil, fmt.Errorf("encode %s: %w", body.Type(), err)
	}
	return b, nil
}

// DecodeBody reads what EncodeBody writes, and nothing else; its errors wrap
// wire.ErrMalformed. The result does not alias b.
func DecodeBody(t Type, b []byte) (Body, error) {
	d := wire.NewDecoder(b)
	body := decodeBody(t, d)
	if err := d.Done(); err != nil {
		return nil, fmt.Errorf("%s body: %w", t, err)
	}
	return body, nil
}

func decodeBody(t Type, d *wire.Decoder) Body {
	switch t {
	case TypeGenesis:
		return decodeGenesis(d)
	case TypeMachine:
		return decodeMachine(d)
	case TypeCommit:
		return &Commit{Point: decodePoint(d)}
	case TypePartial:
		return &Partial{Point: decodePoint(d)}
	case TypeIndex:
		return &Index{Adds: decodeIDs(d), Supersedes: decodeIDs(d)}
	case TypeForget:
		return &Forget{Points: decode16[PointID](d), Reason: decodeText(d)}
	case TypeUnforget:
		return &Unforget{Points: decode16[PointID](d)}
	case TypeHold:
		return &Hold{Points: decode16[PointID](d), Reason: decodeText(d)}
	case TypeUnhold:
		return &Unhold{Points: decode16[PointID](d)}
	case TypePurge:
		return &Purge{Points: decode16[PointID](d)}
	case TypeRepack:
		return &Repack{Adds: decodeIDs(d), Replaced: decodeIDs(d)}
	case TypeCondemn:
		return &Condemn{Packs: decodeIDs(d), Runs: decodeIDs(d)}
	case TypeSwept:
		return &Swept{Packs: decodeIDs(d), Runs: decodeIDs(d)}
	case TypeQuarantine:
		return &Quarantine{Packs: decodeIDs(d), Reason: decodeText(d)}
	case TypeKeyChange:
		return &KeyChange{Added: decodeSlots(d), Removed: decode16[SlotID](d)}
	case TypeNoted:
		return &Noted{Forgets: decodeSeqs(d)}
	case TypeSettings:
		return &Settings{SoftDeleteDays: decodeDays(d)}
	}
	d.Fail("unknown entry type %d", uint8(t))
	return nil
}

func (g *Genesis) encode(b []byte) []byte {
	b = append(b, g.Config[:]...)
	b = append(b, g.Admin[:]...)
	b = wire.AppendUvarint(b, uint64(g.SoftDeleteDays))
	return appendSlots(b, g.Slots)
}

func decodeGenesis(d *wire.Decoder) *Genesis {
	g := &Genesis{}
	d.Fixed(g.Config[:])
	d.Fixed(g.Admin[:])
	g.SoftDeleteDays = decodeDays(d)
	g.Slots = decodeSlots(d)
	return g
}

// decodeDays reads a soft-delete period.
func decodeDays(d *wire.Decoder) int {
	days := int(d.Uvarint(MaxSoftDeleteDays))
	if err := CheckSoftDeleteDays(days); d.Err() == nil && err != nil {
		d.Fail("%v", err)
	}
	return days
}

// CheckSoftDeleteDays is an error where a vault can't have this soft-delete period.
func CheckSoftDeleteDays(days int) error {
	if days < MinSoftDeleteDays || days > MaxSoftDeleteDays {
		return fmt.Errorf("a soft-delete period of %d days: it has %d to %d", days, MinSoftDeleteDays, MaxSoftDeleteDays)
	}
	return nil
}

func (m *Machine) encode(b []byte) []byte {
	b = append(b, m.ID[:]...)
	b = append(b, m.Key[:]...)
	b = wire.AppendBlob(b, m.Name)
	b = wire.AppendBlob(b, m.OS)
	return wire.AppendUvarint(b, bit(m.Owner, 0))
}

func decodeMachine(d *wire.Decoder) *Machine {
	m := &Machine{}
	d.Fixed(m.ID[:])
	d.Fixed(m.Key[:])
	m.Name, m.OS = decodeText(d), decodeText(d)
	m.Owner = d.Uvarint(1) == 1
	return m
}

func (c *Commit) encode(b []byte) []byte  { return c.Point.encode(b) }
func (p *Partial) encode(b []byte) []byte { return p.Point.encode(b) }

func (x *Index) encode(b []byte) []byte {
	return appendIDs(appendIDs(b, x.Adds), x.Supersedes)
}

func (f *Forget) encode(b []byte) []byte {
	return wire.AppendBlob(append16(b, f.Points), f.Reason)
}

func (u *Unforget) encode(b []byte) []byte { return append16(b, u.Points) }

func (h *Hold) encode(b []byte) []byte {
	return wire.AppendBlob(append16(b, h.Points), h.Reason)
}

func (u *Unhold) encode(b []byte) []byte { return append16(b, u.Points) }
func (p *Purge) encode(b []byte) []byte  { return append16(b, p.Points) }

func (r *Repack) encode(b []byte) []byte {
	return appendIDs(appendIDs(b, r.Adds), r.Replaced)
}

func (c *Condemn) encode(b []byte) []byte { return appendIDs(appendIDs(b, c.Packs), c.Runs) }
func (s *Swept) encode(b []byte) []byte   { return appendIDs(appendIDs(b, s.Packs), s.Runs) }

func (q *Quarantine) encode(b []byte) []byte {
	return wire.AppendBlob(appendIDs(b, q.Packs), q.Reason)
}

func (k *KeyChange) encode(b []byte) []byte {
	return append16(appendSlots(b, k.Added), k.Removed)
}

func (n *Noted) encode(b []byte) []byte {
	b = wire.AppendUvarint(b, uint64(len(n.Forgets)))
	for _, seq := range n.Forgets {
		b = wire.AppendU64(b, seq)
	}
	return b
}

func (s *Settings) encode(b []byte) []byte {
	return wire.AppendUvarint(b, uint64(s.SoftDeleteDays))
}

func decodeSeqs(d *wire.Decoder) []uint64 {
	n := d.Count(maxSeqs, 8)
	if n == 0 {
		return nil
	}
	seqs := make([]uint64, n)
	for i := range seqs {
		seqs[i] = d.U64()
	}
	return seqs
}

func appendSlots(b []byte, slots []Slot) []byte {
	b = wire.AppendUvarint(b, uint64(len(slots)))
	for i := range slots {
		s := &slots[i]
		b = append(b, s.ID[:]...)
		b = append(b, s.Hash[:]...)
		b = append(b, byte(s.Kind))
		b = wire.AppendU64(b, uint64(s.Created))
		b = wire.AppendBlob(b, s.Label)
	}
	return b
}

func decodeSlots(d *wire.Decoder) []Slot {
	n := d.Count(MaxSlots, slotMinBytes)
	if n == 0 {
		return nil
	}
	slots := make([]Slot, n)
	for i := range slots {
		s := &slots[i]
		d.Fixed(s.ID[:])
		d.Fixed(s.Hash[:])
		s.Kind = SlotKind(d.U8())
		if d.Err() == nil && s.Kind != SlotPassphrase && s.Kind != SlotRecovery {
			d.Fail("unknown slot kind %d", uint8(s.Kind))
		}
		s.Created = d.I64()
		s.Label = decodeText(d)
		if slices.ContainsFunc(slots[:i], func(o Slot) bool { return o.ID == s.ID }) {
			d.Fail("slot %s stands twice", s.ID)
		}
	}
	return slots
}

func appendIDs(b []byte, ids []chunk.ID) []byte {
	b = wire.AppendUvarint(b, uint64(len(ids)))
	for i := range ids {
		b = append(b, ids[i][:]...)
	}
	return b
}

func decodeIDs(d *wire.Decoder) []chunk.ID {
	n := d.Count(maxIDs, 32)
	if n == 0 {
		return nil
	}
	ids := make([]chunk.ID, n)
	for i := range ids {
		d.Fixed(ids[i][:])
	}
	return ids
}

func append16[T ~[16]byte](b []byte, ids []T) []byte {
	b = wire.AppendUvarint(b, uint64(len(ids)))
	for i := range ids {
		id := [16]byte(ids[i])
		b = append(b, id[:]...)
	}
	return b
}

func decode16[T ~[16]byte](d *wire.Decoder) []T {
	n := d.Count(maxID16, 16)
	if n == 0 {
		return nil
	}
	ids := make([]T, n)
	for i := range ids {
		if b := d.Bytes(16); b != nil {
			ids[i] = T([16]byte(b))
		}
	}
	return ids
}

// decodeText reads text: UTF-8 of at most MaxTextBytes.
func decodeText(d *wire.Decoder) string {
	s := d.Str(MaxTextBytes)
	if err := CheckText(s); d.Err() == nil && err != nil {
		d.Fail("%v", err)
	}
	return s
}

// CheckText is an error where a text, as a name or a reason, cannot stand in an
// entry.
func CheckText(text string) error {
	if len(text) > MaxTextBytes {
		return fmt.Errorf("a text of %d bytes: it has %d at most", len(text), MaxTextBytes)
	}
	if !utf8.ValidString(text) {
		return errors.New("a text that is not UTF-8")
	}
	return nil
}

func bit(set bool, n uint) uint64 {
	if set {
		return 1 << n
	}
	return 0
}
