package rescue

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
)

// readState is a script that says what the reader took from a log.
const readState = `
import sys
import rescue
folder = rescue.Folder(sys.argv[1])
log = rescue.open_vault(folder, rescue.read_config(folder), open(sys.argv[2]).read(), rescue.Report())
for p in log.all_points():
    print("point", p.id.hex(), p.forgotten, p.held)
for lines in (
    ["run " + r.hex() for r in log.runs],
    ["machine " + m.hex() + " " + k.hex() for m, k in log.machines.items()],
    ["slot " + s.hex() + " " + h.hex() for s, h in log.slots.items()],
):
    print(*sorted(lines), sep="\n")
print("head", log.head - 1, log.head_hash.hex())
`

// goState says the same of what the agent took.
func goState(t *testing.T, f *forger) string {
	l, err := log.Open(t.Context(), f.vault.Backend, f.vault.Ring, log.Options{})
	noErr(t, err)
	s := l.State()
	var b strings.Builder
	title := map[bool]string{true: "True", false: "False"}
	for _, p := range s.Points() {
		fmt.Fprintln(&b, "point", p.Point.ID, title[p.Forgotten != 0], title[p.Held])
	}
	var runs, machines, slots []string
	for _, r := range s.Runs() {
		runs = append(runs, "run "+hex.EncodeToString(r[:]))
	}
	for _, m := range s.Machines() {
		machines = append(machines, fmt.Sprint("machine ", m.ID, " ", m.Key))
	}
	for _, k := range s.Slots() {
		slots = append(slots, fmt.Sprint("slot ", k.ID, " ", hex.EncodeToString(k.Hash[:])))
	}
	for _, lines := range [][]string{runs, machines, slots} {
		slices.Sort(lines)
		fmt.Fprintln(&b, strings.Join(lines, "\n"))
	}
	head := s.Head()
	fmt.Fprintln(&b, "head", head.Seq, hex.EncodeToString(head.Hash[:]))
	return b.String()
}

// TestReplay writes random entries under random keys, with and without authority,
// and compares what both readers take the vault for.
func TestReplay(t *testing.T) {
	python := needPython(t)
	var all string
	for seed := range uint64(4) {
		f := newForger(t)
		s := &scribe{f: f, rng: rand.New(rand.NewPCG(seed, 9)), seen: map[string]int{}}
		s.forgetAndHold()
		for range 400 {
			s.write()
		}
		want := goState(t, f)
		res := command(t, nil, python, "-B", "-c", readState, f.dir, f.recovery)
		if res.code != 0 || res.out != want {
			t.Errorf("seed %d: the readers differ:\n%s\nagent:\n%s\nrescue.py:\n%s%s", seed, s, want, res.out, res.errors)
		}
		all += want
	}
	for _, state := range []string{"False False", "True False", "False True", "True True", "run ", "slot "} {
		if !strings.Contains(all, state) {
			t.Errorf("nothing was ever in the state %q:\n%s", state, all)
		}
	}
}

// scribe draws entries from few points, runs and slots, so that they meet.
type scribe struct {
	f    *forger
	rng  *rand.Rand
	seen map[string]int
	past []member // machines that have another key now
}

func (s *scribe) String() string { return fmt.Sprint(s.seen) }

func (s *scribe) signer() ed25519.PrivateKey {
	f := s.f
	keys := []ed25519.PrivateKey{f.admin, f.admin, f.alice.key, f.alice.key, f.bob.key, ed25519.NewKeyFromSeed(make([]byte, 32))}
	for _, m := range s.past {
		keys = append(keys, m.key)
	}
	return keys[s.rng.IntN(len(keys))]
}

func (s *scribe) ids(n int) (ids []chunk.ID) {
	for range s.rng.IntN(n) {
		ids = append(ids, chunk.ID{1, byte(s.rng.IntN(12))})
	}
	return ids
}

func (s *scribe) points(n int) (ids []log.PointID) {
	for range s.rng.IntN(n) {
		ids = append(ids, s.pointID())
	}
	return ids
}

func (s *scribe) pointID() log.PointID { return log.PointID{2, byte(s.rng.IntN(20))} }

func (s *scribe) point() log.Point {
	machine := []member{s.f.alice, s.f.bob, {id: log.MachineID{9}}}[s.rng.IntN(3)].id
	return log.Point{
		ID: s.pointID(), Machine: machine, Previous: log.NoEntry, Host: "host", Runs: s.ids(3), Tags: []log.Tag{{Key: "a", Value: "b"}, {Key: "c"}},
		Sources: []log.Source{
			{ID: log.NewSourceID(machine, "/s"), Path: "/s", Status: log.StatusComplete, Root: chunk.ID{3}, Base: log.None, FileSystem: "fs"},
			{ID: log.NewSourceID(machine, "/failed"), Path: "/failed", Status: log.StatusFailed, Base: 1},
		},
	}
}

func (s *scribe) slots() (slots []log.Slot) {
	for _, i := range s.rng.Perm(24)[:s.rng.IntN(15)] {
		slots = append(slots, log.Slot{ID: log.SlotID{byte(i)}, Hash: [32]byte{byte(s.rng.IntN(256))}, Kind: log.SlotPassphrase, Label: "label"})
	}
	return slots
}

func (s *scribe) slotIDs() (ids []log.SlotID) {
	for range s.rng.IntN(9) {
		ids = append(ids, log.SlotID{byte(s.rng.IntN(24))})
	}
	return ids
}

// forgetAndHold makes a point that nothing purges.
func (s *scribe) forgetAndHold() {
	f, p := s.f, s.point()
	p.Machine, p.ID = f.alice.id, log.PointID{99}
	for i := range p.Sources {
		p.Sources[i].ID = log.NewSourceID(p.Machine, p.Sources[i].Path)
	}
	these := []log.PointID{p.ID}
	f.append(f.alice.key, &log.Commit{Point: p})
	f.append(f.alice.key, &log.Forget{Points: these})
	f.append(f.alice.key, &log.Purge{Points: these}) // she may not
	f.append(f.alice.key, &log.Hold{Points: these})
	f.append(f.admin, &log.Purge{Points: these}) // it is held
}

func (s *scribe) write() {
	f := s.f
	bodies := []func() log.Body{
		func() log.Body { return &log.Commit{Point: s.point()} },
		func() log.Body { return &log.Commit{Point: s.point()} },
		func() log.Body { return &log.Commit{Point: s.point()} },
		func() log.Body { return &log.Partial{Point: s.point()} },
		func() log.Body { return &log.Index{Adds: s.ids(3), Supersedes: s.ids(3)} },
		func() log.Body { return &log.Forget{Points: s.points(6), Reason: "old"} },
		func() log.Body { return &log.Forget{Points: s.points(3)} },
		func() log.Body { return &log.Unforget{Points: s.points(3)} },
		func() log.Body { return &log.Hold{Points: s.points(5), Reason: "law"} },
		func() log.Body { return &log.Unhold{Points: s.points(3)} },
		func() log.Body { return &log.Purge{Points: s.points(2)} },
		func() log.Body { return &log.Repack{Adds: s.ids(2), Replaced: s.ids(3)} },
		func() log.Body { return &log.Condemn{Packs: s.ids(3), Runs: s.ids(2)} },
		func() log.Body { return &log.Swept{Packs: s.ids(3), Runs: s.ids(2)} },
		func() log.Body { return &log.Quarantine{Packs: s.ids(3), Reason: "gone"} },
		func() log.Body { return &log.KeyChange{Added: s.slots(), Removed: s.slotIDs()} },
		func() log.Body { return &log.Noted{Forgets: []uint64{1, uint64(s.rng.IntN(100))}} },
		func() log.Body { return &log.Settings{SoftDeleteDays: 30} },
		func() log.Body {
			return &log.Genesis{SoftDeleteDays: 20, Admin: log.PublicOf(f.bob.key), Slots: s.slots()}
		},
	}
	i := s.rng.IntN(len(bodies) + 1)
	if i == len(bodies) { // alice's home was lost
		s.past = append(s.past, f.alice)
		f.alice = f.enrol(1)
		return
	}
	body, signer := bodies[i](), s.signer()
	switch b := body.(type) {
	case *log.Commit:
		if own := map[log.MachineID]member{f.alice.id: f.alice, f.bob.id: f.bob}[b.Machine].key; own != nil && s.rng.IntN(3) > 0 {
			signer = own
		}
	case *log.KeyChange:
		signer = f.admin
	case *log.Purge:
		if s.rng.IntN(3) > 0 {
			return // else there are hardly any points left
		}
	}
	s.seen[body.Type().String()]++
	f.append(signer, body)
}

// TestBodies: an entry that no writer makes ends the job, whoever wrote it.
func TestBodies(t *testing.T) {
	python := needPython(t)
	const script = `
import sys
import rescue
for dir in sys.argv[1:]:
    folder = rescue.Folder(dir)
    try:
        rescue.open_vault(folder, rescue.read_config(folder), open(dir + "/../recovery").read(), rescue.Report(quiet=True))
        print("whole")
    except rescue.Damaged as e:
        print(e)
`
	var dirs, want []string
	add := func(says string, head [32]byte, kind byte, body, unsigned string) {
		f := newForger(t)
		if head == [32]byte{} {
			head = f.head()
		}
		f.appendRaw(f.bob.key, head, kind, []byte(body), unsigned)
		dirs, want = append(dirs, f.dir), append(want, says)
	}
	add("whole", [32]byte{}, 7, "\x00", "") // an UNFORGET of nothing
	add("does not continue", [32]byte{1}, 7, "\x00", "")
	add("signature", [32]byte{}, 7, "", "\x00")
	add("unknown type", [32]byte{}, 0, "", "")
	add("unknown type", [32]byte{}, 18, "", "")
	add("bytes follow", [32]byte{}, 7, "\x00\x00", "")
	add("not allowed", [32]byte{}, 7, "\x01short", "")
	add("not allowed", [32]byte{}, 7, "\x80\x00", "") // a number that is longer than needed
	add("UTF-8", [32]byte{}, 6, "\x00\x02\xff\xfe", "")
	add("too short", [32]byte{}, 14, "\x00", "")
	add("not allowed", [32]byte{}, 16, "\x01\x00", "")
	add("too short", [32]byte{}, 3, "", "")
	res := command(t, nil, python, append([]string{"-B", "-c", script}, dirs...)...)
	got := strings.Split(strings.TrimSpace(res.out), "\n")
	for i := range want {
		if len(got) != len(want) || !strings.Contains(got[i], want[i]) {
			t.Fatalf("vault %d of %d: want %q: %v", i, len(want), want[i], res)
		}
	}
}

// TestSlots: a slot that the log names no more is none, and one that a killed init
// left, of another root key under the same passphrase, is passed over.
func TestSlots(t *testing.T) {
	needPython(t)
	f := newForger(t)
	slots, err := vault.Slots(t.Context(), f.vault.Backend)
	noErr(t, err)
	with, err := key.NewPassphrase([]byte(passphrase))
	noErr(t, err)
	for before := false; !before; { // one of them is tried before the right one
		stray, err := key.SealSlot(key.SlotOptions{Vault: f.vault.Ring.Vault, KDF: cheapKDF}, with, key.Secrets{Root: key.Root{1}})
		noErr(t, err)
		before = !slices.ContainsFunc(slots, func(s vault.Slot) bool { return s.ID.String() < stray.ID.String() })
		noErr(t, os.WriteFile(filepath.Join(f.dir, vault.SlotName(stray.ID)), stray.Append(nil), 0o600))
	}
	if res := rescue(t, f.dir, "points"); res.code != 0 {
		t.Errorf("with slots of another root key: %v", res)
	}
	for _, s := range slots {
		if s.Kind == key.KindRecovery {
			f.append(f.admin, &log.KeyChange{Removed: []log.SlotID{log.SlotID(s.ID)}})
		}
	}
	if res := f.rescue("points"); res.code != 12 {
		t.Errorf("with a key that was removed: %v", res)
	}
	if res := rescue(t, f.dir, "points"); res.code != 0 {
		t.Errorf("with the other one: %v", res)
	}
}

// TestBundle: entries that are missing or damaged come from their bundle.
func TestBundle(t *testing.T) {
	python := needPython(t)
	f := newForger(t)
	for len(f.objects) < 260 {
		f.append(f.admin, &log.Unhold{})
	}
	bundle := log.BundleHeader(nil)
	for _, object := range f.objects[:256] {
		bundle = log.AppendBundled(bundle, object)
	}
	path := filepath.Join(f.dir, log.BundleName(0))
	noErr(t, os.MkdirAll(filepath.Dir(path), 0o755))
	noErr(t, os.WriteFile(path, bundle, 0o600))
	head := sha256.Sum256(f.objects[259])
	check := func(name string, ok bool) {
		t.Helper()
		res := command(t, nil, python, "-B", "-c", readState, f.dir, f.recovery)
		if ok != (res.code == 0) || ok != strings.Contains(res.out, "head 259 "+hex.EncodeToString(head[:])) {
			t.Errorf("%s: %v", name, res)
		}
	}
	noErr(t, os.Remove(f.entry(0)))
	noErr(t, os.Remove(f.entry(255)))
	flip(t, f.entry(5), 100)
	check("a bundle stands in", true)
	flip(t, path, 40*len(f.objects[1])+50)
	check("another entry of the bundle is damaged", true)
	flip(t, f.entry(257), 100)
	check("an entry behind the bundle is damaged", false)
	flip(t, f.entry(257), 100)
	noErr(t, os.Remove(path))
	check("there is no bundle", false)
}
