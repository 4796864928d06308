package key

import (
	"encoding/hex"
	"testing"

	"github.com/tharsis-backup/tharsis/chunk"
)

func counting(first byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = first + byte(i)
	}
	return b
}

// TestRingPinned pins docs/FORMAT.md §2. The values were computed by another
// implementation (HKDF and HMAC of Python's hmac module), from vault ID 00 01 .. 0f
// and root key 20 21 .. 3f.
func TestRingPinned(t *testing.T) {
	r := NewRing(VaultID(counting(0, 16)), Root(counting(0x20, 32)))
	check := func(name string, got []byte, want string) {
		t.Helper()
		if hex.EncodeToString(got) != want {
			t.Errorf("%s: %x, want %s", name, got, want)
		}
	}
	for name, k := range map[string]chunk.Key{
		"chunk-id": r.ChunkID, "page-id": r.PageID, "chunker": r.Chunker, "cache": r.Cache,
		"pack": r.pack, "manifest": r.manifest, "index": r.index, "log": r.log,
	} {
		check(name, k[:], pinnedKeys[name])
	}
	id := counting(0x40, 32)
	for _, object := range []struct {
		name string
		kind uint8
		id   []byte
	}{
		{"data pack 40..5f", TypeDataPack, id},
		{"manifest pack 40..5f", TypeManifestPack, id},
		{"index run 40..5f", TypeIndex, id},
		{"log entry 1", TypeLog, []byte{1, 0, 0, 0, 0, 0, 0, 0}},
	} {
		c := r.Sealer(object.kind, object.id).Commitment
		check(object.name, c[:], pinnedKeys[object.name])
	}
	sum := chunk.NewHasher(r.ChunkID).Sum([]byte("content"))
	check("ID of content", sum[:], pinnedKeys["ID of content"])
}

// TestSlotPinned opens slots that another implementation made (Python's cryptography
// module): t=2, m=64 KiB, p=2.
func TestSlotPinned(t *testing.T) {
	secrets := Secrets{Root(counting(0x20, 32)), [32]byte(counting(0x60, 32)), RecoveryKey(counting(0x80, 32))}
	for with, object := range map[Credential]string{
		passphrase(t, "an old passphrase, pinned"): pinnedPassphraseSlot,
		secrets.Recovery.Credential():              pinnedRecoverySlot,
	} {
		b, err := hex.DecodeString(object)
		if err != nil {
			t.Fatal(err)
		}
		s, err := ParseSlot(b)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := s.Open(with); err != nil || got != secrets {
			t.Errorf("%s: %v", with, err)
		}
	}
	const want = "thr1-qcayfa4e-qwdipcej-rkfyzdmo-r6ijdeut-sskznf4y-tgnjxhe5-t2pyfwde"
	if got := secrets.Recovery.String(); got != want {
		t.Errorf("recovery key %s, want %s", got, want)
	}
}

var pinnedKeys = map[string]string{
	"chunk-id":             "df21d846e6912060de9206b4ec6b7a03f040cac350cba2251cec75ce60cbf7f7",
	"page-id":              "6443b07864c41616c1e5dc1ccdca5cd2a05a9ef087d5ddca51b5b8401ac6be1b",
	"chunker":              "c4c9b44f93c367a90866da4e269319691e228eb9478e3b114a50dda2583aee86",
	"cache":                "fb3108101562d5792c1424f68ce4434c655463f25c0519bf307f67bfabfd9464",
	"pack":                 "54a53484202ee39cb9179c2ccd3c63fee06639f5c977026e0c1bc10fd746d841",
	"manifest":             "6bf284b24413686e2e3fe94525fd831650150429624ad288dda3cc470595bc9d",
	"index":                "07ab317ca7f3b024475cb780f90dea042f15f7cf8eedd4b47aa9c151f6e8ea96",
	"log":                  "4e9449a7245533cd300e3631dc3147530509cddebbdcff3ade32dbb589eb3469",
	"data pack 40..5f":     "db61e50a6524eca8fa2327609b2cef3f05ac99f3f21625dca766164dbda8a60f",
	"manifest pack 40..5f": "14e99d8c9ab30321a556eecd7ac57f2003894d1fe9e68d07ea23eb3958aa50e7",
	"index run 40..5f":     "cf4df246ecf6bc285d842ded8d9ba55fdd95c2bb852c957c363c12440752dcfb",
	"log entry 1":          "b65a8390cec5a6335b677d79f0eee891f389c4569575e082c52629dfadf9e68d",
	"ID of content":        "f8c358beeb0e9cc3a6fb65c75d6d282344e35c66c6caa8f73e036a94bb95c99a",
}

const (
	pinnedPassphraseSlot = "54485352000201505152535455565758595a5b5c5d5e5f000102030405060708090a0b0c0d0e0f020000004000000002c0c1" +
		"c2c3c4c5c6c7c8c9cacbcccdcecfd0d1d2d3d4d5d6d7d8d9dadbdcdddedf9ed83fb0f5f71c5b656bdfbc5556b0b17e84e8b5" +
		"88d5fbe0f8b0c5e0e1f819caa0a1a2a3a4a5a6a7a8a9aaab61596085dc70196e79d8bcfc7f4b0c5848996b4856f84e9bc056" +
		"ec8ffc9933bb46514ae7d12893724b35b19aaf945922ad3ec189a051fedb854e4efe4ee9fed72c30516ca39611688dbdf847" +
		"0ac9964be59ebba03efcb4ac0c0e35c8c0c56a707d44d70c7e36fe9d5460bf633da2862c"
	pinnedRecoverySlot = "544853520002025152535455565758595a5b5c5d5e5f60000102030405060708090a0b0c0d0e0f0000000000000000000000" +
		"000000000000000000000000000000000000000000000000000000000000962bd59ad19cba0e88e913bd83a37aa975e92ca2" +
		"db049dc194fb190bf59106d0a0a1a2a3a4a5a6a7a8a9aaab27b4339f45560042571bda0965b37042ce34a7b261bb4571bee6" +
		"2a96b47d6759a5999d1e52b0f8e2aac9ac890b9755e1cc386f5168d55a9dfd93881b9bf9466e81940e4e01dafc1305437626" +
		"b914c5d502aea4cb2938766f00c248ec6b090a9d9bc0645c9d2cdef2da2f20ddde4081e0"
)
