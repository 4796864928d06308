package formatdoc

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/cryptotest"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/index"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
	"github.com/tharsis-backup/tharsis/vault/manifest"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

var update = flag.Bool("update", false, "write the examples into docs/FORMAT.md")

const document = "../../docs/FORMAT.md"

// The examples' vault: its ID is 00 01 .. 0f, its root key 32 times aa.
func exampleVault() (key.VaultID, key.Root, *key.Ring) {
	var id key.VaultID
	for i := range id {
		id[i] = byte(i)
	}
	var root key.Root
	for i := range root {
		root[i] = 0xaa
	}
	return id, root, key.NewRing(id, root)
}

func TestExamples(t *testing.T) {
	old, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	text := string(old)
	for name, example := range map[string]func(*testing.T) string{
		"config": exampleConfig, "slot": exampleSlot, "pack": examplePack, "index": exampleIndex,
		"page": examplePage, "table": exampleTable, "log": exampleLog,
	} {
		t.Run(name, func(t *testing.T) {
			cryptotest.SetGlobalRandom(t, 1)
			text = replace(t, text, name, example(t))
		})
	}
	if text == string(old) {
		return
	}
	if !*update {
		t.Fatal("the examples of docs/FORMAT.md are not what the codecs write: go test ./internal/formatdoc -update")
	}
	if err := os.WriteFile(document, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// replace puts an example between its marks.
func replace(t *testing.T, text, name, example string) string {
	head := "<!-- example " + name + " -->\n"
	const tail = "<!-- end -->"
	start := strings.Index(text, head)
	if start < 0 {
		t.Fatalf("no mark %q", head)
	}
	start += len(head)
	end := strings.Index(text[start:], tail)
	if end < 0 {
		t.Fatalf("no end of example %s", name)
	}
	return text[:start] + example + text[start+end:]
}

// dump formats an example: what it is, and its bytes.
func dump(about string, b []byte) string {
	return about + "\n\n```\n" + strings.TrimRight(hex.Dump(b), "\n") + "\n```\n"
}

const keys = "In the vault with ID `000102…0f` and root key 32 × `aa`: "

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func exampleConfig(t *testing.T) string {
	id, _, _ := exampleVault()
	c := key.Config{Vault: id, Mode: key.ModeShared, Cut: chunk.DefaultCutParams}
	b := must(key.AppendConfig(nil, c))(t)
	if got := must(key.ParseConfig(b))(t); got != c {
		t.Fatalf("parsed %+v, want %+v", got, c)
	}
	return dump(fmt.Sprintf("A config of a shared vault with minimum %d, maximum %d and %d bits:", c.Cut.Min, c.Cut.Max, c.Cut.Bits), b)
}

func exampleSlot(t *testing.T) string {
	id, root, _ := exampleVault()
	var recovery key.RecoveryKey
	for i := range recovery {
		recovery[i] = byte(0xe0 + i)
	}
	sec := key.Secrets{Root: root, AdminSeed: [32]byte(bytes.Repeat([]byte{0xbb}, 32)), Recovery: recovery}
	with := must(key.NewPassphrase([]byte("the example's passphrase")))(t)
	s := must(key.SealSlot(key.SlotOptions{Vault: id, KDF: key.KDFParams{Time: 1, MemoryKiB: 64, Lanes: 1}}, with, sec))(t)
	parsed := must(key.ParseSlot(s.Append(nil)))(t)
	if got := must(parsed.Open(with))(t); got != sec {
		t.Fatal("the slot opens to other secrets")
	}
	return dump("A slot of the passphrase `the example's passphrase` (t = 1, m = 64, p = 1), with root key 32 × `aa`, admin seed 32 × `bb` "+
		"and the recovery key `"+recovery.String()+"` (bytes `e0` to `ff`):", s.Append(nil))
}

func examplePackOf(t *testing.T) (pack.Directory, []byte) {
	_, _, ring := exampleVault()
	var id chunk.ID
	for i := range id {
		id[i] = 0xcc
	}
	var out bytes.Buffer
	w := must(pack.NewWriter(ring, key.TypeDataPack, id, &out, pack.Options{}))(t)
	hasher := chunk.NewHasher(ring.ChunkID)
	plain := []byte("hello, vault\nhello, world\n")
	chunks := []pack.Chunk{{ID: hasher.Sum(plain[:13]), Length: 13}, {ID: hasher.Sum(plain[13:]), Length: 13}}
	n := w.Reserve()
	box := w.Seal(nil, n, chunk.CodecPlain, plain, uint32(len(plain)))
	rec := pack.Record{Number: n, Codec: chunk.CodecPlain, Plain: uint32(len(plain)), Chunks: chunks}
	if err := pack.NewVerifier(must(chunk.NewDecompressor())(t)).Verify(w.Opener, &rec, box, hasher); err != nil {
		t.Fatal(err)
	}
	if err := w.Append(rec, box); err != nil {
		t.Fatal(err)
	}
	dir := must(w.Finish())(t)
	o := must(pack.NewOpener(ring, key.TypeDataPack, id))(t)
	if _, err := o.ParseDirectory(dir.Length, out.Bytes()); err != nil {
		t.Fatal(err)
	}
	return dir, out.Bytes()
}

func examplePack(t *testing.T) string {
	_, b := examplePackOf(t)
	return dump(keys+"the data pack with ID 32 × `cc`, with one plain record (number 0) that is a segment of two chunks, "+
		"`hello, vault` and `hello, world`, each with a line feed:", b)
}

func exampleIndex(t *testing.T) string {
	_, _, ring := exampleVault()
	dir, _ := examplePackOf(t)
	id := chunk.ID(bytes.Repeat([]byte{0xdd}, 32))
	var out bytes.Buffer
	size := must(index.Write(&out, ring, id, []pack.Directory{dir}))(t)
	run := must(index.OpenRun(t.Context(), ring, id, index.FileSource(bytes.NewReader(out.Bytes())), size, nil))(t)
	if err := run.Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
	return dump(keys+"the index run with ID 32 × `dd` over that pack:", out.Bytes())
}

// pageStore keeps pages under their IDs.
type pageStore struct {
	hasher *chunk.Hasher
	pages  [][]byte
}

func examplePage(t *testing.T) string {
	_, _, ring := exampleVault()
	s := &pageStore{hasher: chunk.NewHasher(ring.PageID)}
	b := manifest.NewBuilder(s)
	at := manifest.Time{Sec: 1_700_000_000, Nsec: 5}
	hello := chunk.NewHasher(ring.ChunkID).Sum([]byte("hello, vault\n"))
	entries := []struct {
		key string
		e   manifest.Entry
	}{
		{"", manifest.Entry{Kind: manifest.KindDir, Mode: 0o755, User: "root", Group: "root", MTime: at, CTime: at, Inode: 2, FSID: "ext4-1"}},
		{"a", manifest.Entry{Kind: manifest.KindFile, Mode: 0o644, UID: 1000, GID: 1000, User: "ann", Group: "ann", MTime: at, CTime: at, Inode: 12,
			Size: 13, Extents: []manifest.Extent{{Length: 13, ID: hello}}}},
		{"ab", manifest.Entry{Kind: manifest.KindSymlink, Mode: 0o777, MTime: at, CTime: at, Inode: 13, Target: "a"}},
	}
	for _, x := range entries {
		if err := b.Add(t.Context(), []byte(x.key), &x.e); err != nil {
			t.Fatal(err)
		}
	}
	root, _, err := b.Finish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return dump(keys+"the one page of a manifest with the entries root (folder), `a` (13 bytes: `hello, vault` and a line feed) and `ab` "+
		"(symlink to `a`). Its page ID is `"+root.String()+"`:", s.pages[len(s.pages)-1])
}

func exampleTable(t *testing.T) string {
	_, _, ring := exampleVault()
	s := &pageStore{hasher: chunk.NewHasher(ring.PageID)}
	b := manifest.NewTableBuilder(s)
	for _, x := range []manifest.Extent{{Length: 1 << 20, ID: chunk.ID(bytes.Repeat([]byte{0x11}, 32))}, {Length: 1 << 40}} {
		if err := b.Add(t.Context(), x); err != nil {
			t.Fatal(err)
		}
	}
	root, _, err := b.Finish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return dump(keys+"a block table of 1 MiB in the chunk 32 × `11` and a hole of 1 TiB (in a vault, so few extents stand in the entry). "+
		"Its page ID is `"+root.String()+"`:", s.pages[len(s.pages)-1])
}

func exampleLog(t *testing.T) string {
	_, _, ring := exampleVault()
	signer := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{0xbb}, 32))
	body := &log.Machine{ID: log.MachineID(bytes.Repeat([]byte{0x22}, 16)), Key: log.PublicKey(bytes.Repeat([]byte{0x33}, 32)), Name: "laptop", OS: "linux/amd64"}
	e := &log.Entry{Seq: 1, Prev: sha256.Sum256([]byte("entry 0")), Time: 1_700_000_000_000_000_005, Nonce: [16]byte(bytes.Repeat([]byte{0x44}, 16)), Body: body}
	b := must(e.Seal(ring, signer))(t)
	if _, err := log.OpenEntry(ring, 1, b); err != nil {
		t.Fatal(err)
	}
	return dump(keys+"entry 1, a MACHINE with machine ID 16 × `22`, public key 32 × `33`, name `laptop`, OS `linux/amd64`, signed by the admin key of "+
		"seed 32 × `bb`, with nonce 16 × `44`, time 1700000000000000005, after an entry whose SHA-256 is that of `entry 0`:", b)
}
