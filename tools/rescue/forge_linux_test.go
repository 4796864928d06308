package rescue

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/wire"
	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
	"github.com/tharsis-backup/tharsis/vault/manifest"
	"github.com/tharsis-backup/tharsis/vault/pack"
	"github.com/tharsis-backup/tharsis/vault/pack/packtest"
)

// forger writes what members of a vault could write, also those with no good will:
// everything is sealed and signed as it should be, and says what the test wants.
type forger struct {
	t             *testing.T
	dir, recovery string
	vault         *vault.Vault
	admin         ed25519.PrivateKey
	alice, bob    member
	objects       [][]byte // of the log
	time          int64
}

type member struct {
	id  log.MachineID
	key ed25519.PrivateKey
}

func newForger(t *testing.T) *forger {
	dir := quickDir(t)
	f := &forger{t: t, dir: filepath.Join(dir, "vault"), recovery: filepath.Join(dir, "recovery"), time: 1_700_000_000_000_000_000}
	b, _, secrets := createVault(t, f.dir, f.recovery)
	v, err := vault.Open(t.Context(), b, secrets.Root, nil, vault.Options{})
	noErr(t, err)
	genesis, err := os.ReadFile(filepath.Join(f.dir, log.EntryName(0)))
	noErr(t, err)
	f.vault, f.objects = v, [][]byte{genesis}
	f.admin = ed25519.NewKeyFromSeed(secrets.AdminSeed[:])
	f.alice, f.bob = f.enrol(1), f.enrol(2)
	return f
}

// enrol gives a machine a new key.
func (f *forger) enrol(id byte) member {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	noErr(f.t, err)
	m := member{log.MachineID{id}, key}
	f.append(f.admin, &log.Machine{ID: m.id, Key: log.PublicOf(m.key), Name: string('a' + rune(id)), OS: "linux"})
	return m
}

// append writes the next entry of the log.
func (f *forger) append(signer ed25519.PrivateKey, body log.Body) {
	f.t.Helper()
	f.time += 1e9
	e := log.Entry{Seq: uint64(len(f.objects)), Prev: f.head(), Time: f.time, Body: body}
	_, _ = rand.Read(e.Nonce[:])
	object, err := e.Seal(f.vault.Ring, signer)
	noErr(f.t, err)
	f.put(object)
}

// appendRaw writes an entry of any type and body, after any other, with a signature
// that covers the entry but not what is appended to it.
func (f *forger) appendRaw(signer ed25519.PrivateKey, head [32]byte, kind byte, body []byte, unsigned string) {
	ring, seq := f.vault.Ring, uint64(len(f.objects))
	b := append(wire.AppendU64(nil, seq), head[:]...)
	b = append(wire.AppendU64(append(b, kind), 0), make([]byte, 16)...)
	writer := log.PublicOf(signer)
	b = append(wire.AppendU32(append(b, writer[:]...), uint32(len(body)+len(unsigned))), body...)
	b = append(append(b, unsigned...), ed25519.Sign(signer, append(append([]byte("tharsis/0/log-entry"), ring.Vault[:]...), b...))...)
	id := binary.LittleEndian.AppendUint64(nil, seq)
	s := ring.Sealer(key.TypeLog, id)
	f.put(s.Seal(key.AppendHeader(nil, key.TypeLog, s), b, append(append([]byte("tharsis/0/log"), ring.Vault[:]...), id...)))
}

func (f *forger) put(object []byte) {
	f.t.Helper()
	noErr(f.t, os.WriteFile(f.entry(len(f.objects)), object, 0o600))
	f.objects = append(f.objects, object)
}

func (f *forger) entry(seq int) string { return filepath.Join(f.dir, log.EntryName(uint64(seq))) }

func (f *forger) head() [32]byte { return sha256.Sum256(f.objects[len(f.objects)-1]) }

// planted is what plant stored of a source.
type planted struct {
	path string
	rows []row
	lie  uint64 // added to the number of entries
	root byte   // not 0: the page is stored under an ID that begins so, which is not its own
}

// row is a row of a page as its writer wants it: no rule is kept.
type row struct {
	key   string
	entry manifest.Entry
}

const text = "planted by a hostile member of the vault"

// swapped is the ID of a chunk under which plant stores another one.
var swapped = chunk.ID{4, 5, 6}

func (f *forger) textID() chunk.ID { return chunk.NewHasher(f.vault.Ring.ChunkID).Sum([]byte(text)) }

func folder(key string) row {
	return row{key, manifest.Entry{Kind: manifest.KindDir, Mode: 0o755}}
}

func symlink(key, target string) row {
	return row{key, manifest.Entry{Kind: manifest.KindSymlink, Mode: 0o777, Target: target}}
}

// file is a file that holds text.
func (f *forger) file(key string) row {
	n := uint64(len(text))
	return row{key, manifest.Entry{
		Kind: manifest.KindFile, Mode: 0o644, Size: n, UID: uint32(os.Getuid()), GID: uint32(os.Getgid()),
		Extents: []manifest.Extent{{Length: n, ID: f.textID()}},
	}}
}

// page encodes a leaf of the rows, in their order.
func page(rows []row) []byte {
	b := wire.AppendUvarint([]byte{1, 0}, uint64(len(rows)))
	last := ""
	for _, r := range rows {
		shared := 0
		for shared < min(len(last), len(r.key)) && last[shared] == r.key[shared] {
			shared++
		}
		b = wire.AppendBlob(wire.AppendUvarint(b, uint64(shared)), r.key[shared:])
		b = manifest.AppendEntry(b, &r.entry)
		last = r.key
	}
	return b
}

// plant commits a point of alice's whose sources have one page each.
func (f *forger) plant(sources []planted) {
	t, ctx := f.t, f.t.Context()
	t.Helper()
	w := f.vault.NewWriter(ctx, func(context.Context, chunk.ID) (bool, error) { return false, nil }, vault.WriterOptions{SpoolDir: t.TempDir()})
	defer w.Close()
	ws, err := vault.NewWorkspace()
	noErr(t, err)
	noErr(t, w.AddRecord(ctx, ws, key.TypeDataPack, []byte(text), []pack.Chunk{{ID: f.textID(), Length: uint32(len(text))}}))
	f.misname(w, key.TypeDataPack, swapped, []byte(text))
	names, p := chunk.NewHasher(f.vault.Ring.PageID), log.Point{Machine: f.alice.id, Previous: log.NoEntry, Host: "alice"}
	_, _ = rand.Read(p.ID[:])
	for _, s := range sources {
		b := page(s.rows)
		root, size := names.Sum(b), uint64(0)
		if s.root != 0 {
			root[0] = s.root
			f.misname(w, key.TypeManifestPack, root, b)
		} else {
			noErr(t, w.AddRecord(ctx, ws, key.TypeManifestPack, b, []pack.Chunk{{ID: root, Length: uint32(len(b))}}))
		}
		for _, r := range s.rows {
			size += r.entry.Size
		}
		p.Sources = append(p.Sources, log.Source{
			ID: log.NewSourceID(p.Machine, s.path), Path: s.path, Status: log.StatusComplete, Root: root, Base: log.None,
			Entries: uint64(len(s.rows)) + s.lie, Bytes: size,
		})
	}
	noErr(t, w.Flush())
	run, _, err := w.WriteIndex(nil)
	noErr(t, err)
	p.Runs = []chunk.ID{run}
	f.append(f.alice.key, &log.Commit{Point: p})
}

// misname stores content as a chunk that it is not.
func (f *forger) misname(w *vault.Writer, typ uint8, id chunk.ID, content []byte) {
	f.t.Helper()
	object, dir, err := packtest.Lying(f.vault.Ring, typ, chunk.CodecPlain, content, uint32(len(content)), id)
	noErr(f.t, err)
	noErr(f.t, backend.PutBytes(f.t.Context(), f.vault.Backend, pack.Name(dir.ID), object))
	noErr(f.t, w.Adopt(f.t.Context(), dir))
}

// rescue runs rescue.py with the recovery key.
func (f *forger) rescue(args ...string) result {
	f.t.Helper()
	return rescue(f.t, append([]string{"--recovery-key-file", f.recovery, f.dir}, args...)...)
}
