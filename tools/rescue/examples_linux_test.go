package rescue

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tharsis-backup/tharsis/vault/pack"
)

// TestExamples reads the examples of docs/FORMAT.md with rescue.py.
func TestExamples(t *testing.T) {
	const script = `
import hashlib, os, re, sys
import rescue as r
text = open("../../docs/FORMAT.md").read()
ex = {}
for name, block in re.findall(r"<!-- example (\w+) -->(.*?)<!-- end -->", text, re.S):
    ex[name] = b"".join(bytes.fromhex(m) for m in re.findall(r"^[0-9a-f]{8}  ([0-9a-f ]+?)  +\|", block, re.M))
vault, keys = bytes(range(16)), r.Keys(b"\xaa" * 32, bytes(range(16)))
dir = sys.argv[1]
def put(name, data):
    os.makedirs(os.path.dirname(f"{dir}/{name}"), exist_ok=True)
    open(f"{dir}/{name}", "wb").write(data)
put("config", ex["config"])
put("log/" + "0" * 16, b"")
slot_id = ex["slot"][7:23]
pack, run = "cc" * 32, "dd" * 32
put(f"packs/cc/{pack}", ex["pack"])
put(f"index/{run}", ex["index"])
folder = r.Folder(dir)
assert r.read_config(folder) == (vault, hashlib.sha256(ex["config"]).digest())
owner = ex["slot"][23:39]
assert r.open_slot(ex["slot"], slot_id, owner, b"the example's passphrase", True) == (b"\xaa" * 32, b"\xbb" * 32)
assert r.open_slot(ex["slot"], slot_id, owner, b"the example's passphrasf", True) is None
recovery = re.search(r"thr1(-[a-z2-7]{8}){7}", text)[0]
assert r.recovery_key(" " + recovery.upper().replace("-", " ")) == bytes(range(0xe0, 0x100))
for runs in ([bytes.fromhex(run)], []):  # by the index, and by the directory of the pack
    store = r.Store(folder, keys, runs, r.Report())
    for line in (b"hello, vault\n", b"hello, world\n"):
        assert store.chunk(r.hmac.digest(keys.chunk_id, line, "sha256"), 13) == line
level, rows = r.take_page(ex["page"], "page")
assert [k for k, _ in rows] == [b"", b"a", b"ab"] and rows[1][1].size == 13 and rows[2][1].target == b"a"
assert r.hmac.digest(keys.page_id, ex["page"], "sha256").hex() in text
class Pages:
    def chunk(self, page_id, is_page):
        assert r.hmac.digest(keys.page_id, ex["table"], "sha256") == page_id and page_id.hex() in text
        return ex["table"]
tree = r.Tree(Pages(), r.Report(), None)
extents = list(tree.table(r.hmac.digest(keys.page_id, ex["table"], "sha256"), None, 2**20 + 2**40))
assert extents == [(2**20, b"\x11" * 32), (2**40, None)]
log = r.Log.__new__(r.Log)
log.keys, log.head = keys, 1
entry = log.open_entry("entry 1", ex["log"], hashlib.sha256(b"entry 0").digest())
assert entry.type == r.MACHINE and entry.time == 1700000000000000005 and entry.body[16:48] == b"\x33" * 32
print("done", len(ex))
`
	python := needPython(t)
	if res := command(t, nil, python, "-B", "-c", script, t.TempDir()); res.code != 0 || !strings.HasPrefix(res.out, "done 7") {
		t.Error(res)
	}
}

// TestPadme compares which lengths of packs both readers take.
func TestPadme(t *testing.T) {
	var want strings.Builder
	for n := uint64(64); n < 5000; n++ {
		fmt.Fprintln(&want, pack.IsPadded(n))
	}
	script := `
import rescue
for n in range(64, 5000):
    print(str(rescue.padme(n)).lower())
`
	if res := command(t, nil, needPython(t), "-B", "-c", script); res.out != want.String() {
		t.Errorf("they differ: %s", res.errors)
	}
}

// TestCosts: a slot that asks for more memory than allowed is passed over at once.
func TestCosts(t *testing.T) {
	needPython(t)
	m := newMachine(t)
	path := m.slot(1)
	b, err := os.ReadFile(path)
	noErr(t, err)
	for offset, value := range map[int]uint32{39: 17, 43: 2<<20 + 1} {
		c := append([]byte(nil), b...)
		binary.LittleEndian.PutUint32(c[offset:], value)
		noErr(t, os.WriteFile(path, c, 0o600))
		start := time.Now()
		if res := rescue(t, m.vault, "points"); res.code != 12 || !strings.Contains(res.errors, "parameters") {
			t.Errorf("%d at %d, after %v: %v", value, offset, time.Since(start), res)
		}
	}
}
