package log

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/key"
)

// memory is a backend in memory, with hooks around Put and Get.
type memory struct {
	mu      sync.Mutex
	objects map[string][]byte
	gets    map[string]int
	puts    map[string]int
	// onPut stands for Put when it is not nil; put does it.
	onPut func(name string, put func() error) error
	onGet func(name string) error
}

func newMemory() *memory {
	return &memory{objects: map[string][]byte{}, gets: map[string]int{}, puts: map[string]int{}}
}

func (m *memory) Put(ctx context.Context, name string, body io.ReaderAt, size int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b := make([]byte, size)
	for off := 0; off < len(b); { // in odd steps, as an uploader may read
		n, err := body.ReadAt(b[off:min(off+1021, len(b))], int64(off))
		if err != nil && err != io.EOF {
			return err
		}
		off += n
	}
	put := func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.puts[name]++
		if _, ok := m.objects[name]; ok {
			return fmt.Errorf("put %s: %w", name, backend.ErrExists)
		}
		m.objects[name] = b
		return nil
	}
	if m.onPut != nil {
		return m.onPut(name, put)
	}
	return put()
}

func (m *memory) Get(ctx context.Context, name string, off, length int64) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if m.onGet != nil {
		if err := m.onGet(name); err != nil {
			return nil, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gets[name]++
	b, ok := m.objects[name]
	if !ok {
		return nil, fmt.Errorf("get %s: %w", name, backend.ErrNotFound)
	}
	b = b[min(off, int64(len(b))):]
	if length >= 0 {
		b = b[:min(length, int64(len(b)))]
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

func (m *memory) List(context.Context, string) iter.Seq2[backend.Info, error] {
	panic("the log is never listed")
}
func (m *memory) Delete(context.Context, string) error { panic("the log is never deleted") }
func (m *memory) Close() error                         { return nil }

// copy gives a backend with the same objects and no hooks.
func (m *memory) copy() *memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := newMemory()
	for n, b := range m.objects {
		c.objects[n] = b
	}
	return c
}

// site is a vault with an admin and machines, for tests.
type site struct {
	ring     *key.Ring
	store    *memory
	admin    ed25519.PrivateKey
	machines []ed25519.PrivateKey
	stranger ed25519.PrivateKey
	rng      *rand.Rand
}

func newRNG(t testing.TB) *rand.Rand {
	seed := rand.Uint64()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	})
	return rand.New(rand.NewPCG(seed, 0))
}

func keyOf(n uint64) ed25519.PrivateKey {
	h := sha256.Sum256(binary.LittleEndian.AppendUint64([]byte("signer"), n))
	return ed25519.NewKeyFromSeed(h[:])
}

func machineID(i int) MachineID { return MachineID{0: 'M', 1: byte(i)} }

// newSite makes a vault with GENESIS and n machines enrolled.
func newSite(t testing.TB, n int) *site {
	s := &site{store: newMemory(), admin: keyOf(1000), stranger: keyOf(2000), rng: newRNG(t)}
	s.ring = key.NewRing(key.VaultID{7}, key.Root{9})
	for i := range n {
		s.machines = append(s.machines, keyOf(uint64(i)))
	}
	if err := Create(t.Context(), s.store, s.ring, s.admin, s.genesis(), s.options()); err != nil {
		t.Fatal(err)
	}
	l := s.open(t, Options{})
	for i := range s.machines {
		s.append(t, l, s.admin, s.enrol(i))
	}
	return s
}

func (s *site) genesis() Genesis {
	return Genesis{
		Config: [32]byte{1}, Admin: PublicOf(s.admin), SoftDeleteDays: 14,
		Slots: []Slot{{ID: SlotID{1}, Hash: [32]byte{2}, Kind: SlotPassphrase, Created: 5, Label: "first"}},
	}
}

func (s *site) enrol(i int) *Machine {
	return &Machine{ID: machineID(i), Key: PublicOf(s.machines[i]), Name: fmt.Sprint("host", i), OS: "linux"}
}

func (s *site) options() Options {
	return Options{Sleep: func(ctx context.Context, d time.Duration) error { return ctx.Err() }}
}

func (s *site) open(t testing.TB, o Options) *Log {
	t.Helper()
	l, err := s.tryOpen(t, s.store, o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (s *site) tryOpen(t testing.TB, b backend.Backend, o Options) (*Log, error) {
	if o.Sleep == nil {
		o.Sleep = s.options().Sleep
	}
	return Open(t.Context(), b, s.ring, o)
}

func (s *site) append(t testing.TB, l *Log, signer ed25519.PrivateKey, b Body) Head {
	t.Helper()
	h, err := l.Append(t.Context(), signer, func(*State) (Body, error) { return b, nil })
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// force appends an entry past Append's checks, and without a bundle.
func (s *site) force(t testing.TB, l *Log, signer ed25519.PrivateKey, b Body) {
	t.Helper()
	e := &Entry{Seq: l.next, Prev: l.prev, Time: int64(l.next) * 1e9, Body: b}
	object, err := e.Seal(s.ring, signer)
	if err != nil {
		t.Fatal(err)
	}
	s.store.objects[entryName(l.next)] = object
	if err := l.acceptNew(object); err != nil {
		t.Fatal(err)
	}
}

func (s *site) pointOf(machine int, id byte, paths ...string) Point {
	p := Point{ID: PointID{id}, Machine: machineID(machine), Previous: NoEntry, Host: "h", Agent: "a"}
	if len(paths) == 0 {
		paths = []string{"/"}
	}
	for _, path := range paths {
		p.Sources = append(p.Sources, Source{
			ID: NewSourceID(p.Machine, path), Path: path, Status: StatusComplete, Root: chunk.ID{id, 1}, Base: None,
		})
	}
	return p
}

// fill appends small COMMITs of machine 0 until the log has n entries.
func (s *site) fill(t testing.TB, l *Log, n uint64) {
	t.Helper()
	for l.next < n {
		p := s.pointOf(0, 0)
		binary.BigEndian.PutUint64(p.ID[8:], l.next)
		s.append(t, l, s.machines[0], &Commit{Point: p})
	}
}

// sameState fails unless both replays agree in everything.
func sameState(t testing.TB, what string, got, want *State) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%s: the states differ:\n%+v\n%+v", what, got, want)
	}
}

// random bodies: of small pools of names, so that entries meet.

type maker struct{ *rand.Rand }

func (m maker) text() string {
	return []string{"", "x", "why not", "größe", string(make([]byte, 1024))}[m.IntN(5)]
}

func some[T any](m maker, most int, f func() T) []T {
	n := m.IntN(most + 1)
	if n == 0 {
		return nil
	}
	all := make([]T, n)
	for i := range all {
		all[i] = f()
	}
	return all
}

func (m maker) id() chunk.ID        { return chunk.ID{byte(m.IntN(40)), 3} }
func (m maker) ids() []chunk.ID     { return some(m, 4, m.id) }
func (m maker) pointID() PointID    { return PointID{byte(m.IntN(60)), byte(m.IntN(2))} }
func (m maker) pointIDs() []PointID { return some(m, 8, m.pointID) }
func (m maker) slotID(i int) SlotID { return SlotID{byte(i)} }
func (m maker) seq() uint64         { return m.Uint64N(400) }
func (m maker) machine() MachineID  { return machineID(m.IntN(4)) }
func (m maker) number() (n uint64)  { return m.Uint64() >> m.IntN(64) }
func (m maker) slots() (all []Slot) {
	for _, i := range m.Perm(6)[:m.IntN(4)] {
		all = append(all, Slot{ID: m.slotID(i), Kind: SlotKind(1 + m.IntN(2)), Created: m.Int64(), Label: m.text()})
	}
	return all
}

func (m maker) point() Point {
	p := Point{
		ID: m.pointID(), Machine: m.machine(), Install: [16]byte{byte(m.IntN(3))}, Previous: NoEntry,
		Started: m.Int64(), Ended: -m.Int64(), Warnings: m.IntN(2) == 0, Suspect: m.IntN(2) == 0,
		Host: m.text(), Agent: m.text(), Runs: m.ids(),
	}
	if m.IntN(2) == 0 {
		p.Previous = Head{Seq: m.seq(), Hash: [32]byte{1}}
	}
	for i := range m.IntN(4) {
		p.Tags = append(p.Tags, Tag{Key: fmt.Sprint("k", i), Value: m.text()})
	}
	for i := range 1 + m.IntN(4) {
		path := fmt.Sprintf("/%d\xff", i)
		src := Source{
			ID: NewSourceID(p.Machine, path), Path: path, Status: Status(1 + m.IntN(4)), Base: None,
			FileSystem: m.text(), Snapshot: Snapshot(m.IntN(5)), Entries: m.number(), Files: m.number(), Bytes: m.number(),
		}
		if src.Status != StatusFailed {
			src.Root = chunk.ID{1, byte(m.IntN(256))}
			src.Base = m.seq()
		}
		p.Sources = append(p.Sources, src)
	}
	for _, f := range p.Stats.fields() {
		*f = m.number()
	}
	return p
}

func (m maker) body(t Type) Body {
	switch t {
	case TypeGenesis:
		return &Genesis{Config: [32]byte{1}, Admin: PublicKey{2}, SoftDeleteDays: 14 + m.IntN(167), Slots: m.slots()}
	case TypeMachine:
		i := m.IntN(4)
		return &Machine{ID: machineID(i), Key: PublicOf(keyOf(uint64(i + 4*m.IntN(2)))), Name: m.text(), OS: m.text(), Owner: m.IntN(2) == 0}
	case TypeCommit:
		return &Commit{Point: m.point()}
	case TypePartial:
		return &Partial{Point: m.point()}
	case TypeIndex:
		return &Index{Adds: m.ids(), Supersedes: m.ids()}
	case TypeForget:
		return &Forget{Points: m.pointIDs(), Reason: m.text()}
	case TypeUnforget:
		return &Unforget{Points: m.pointIDs()}
	case TypeHold:
		return &Hold{Points: m.pointIDs(), Reason: m.text()}
	case TypeUnhold:
		return &Unhold{Points: m.pointIDs()}
	case TypePurge:
		return &Purge{Points: m.pointIDs()}
	case TypeRepack:
		return &Repack{Adds: m.ids(), Replaced: m.ids()}
	case TypeCondemn:
		return &Condemn{Packs: m.ids(), Runs: m.ids()}
	case TypeSwept:
		return &Swept{Packs: m.ids(), Runs: m.ids()}
	case TypeQuarantine:
		return &Quarantine{Packs: m.ids(), Reason: m.text()}
	case TypeKeyChange:
		return &KeyChange{Added: m.slots(), Removed: some(m, 3, func() SlotID { return m.slotID(m.IntN(6)) })}
	case TypeNoted:
		return &Noted{Forgets: some(m, 5, m.seq)}
	case TypeSettings:
		return &Settings{SoftDeleteDays: MinSoftDeleteDays + m.IntN(MaxSoftDeleteDays-MinSoftDeleteDays+1)}
	}
	panic(t)
}
