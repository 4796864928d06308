package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/index"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// putRecorder keeps every object that anybody tried to put, also those that lost
// a race for a number of the log.
type putRecorder struct {
	mu  sync.Mutex
	all []recordedPut
}

type recordedPut struct {
	name string
	data []byte
}

type recordingBackend struct {
	backend.Backend
	r *putRecorder
}

func (b recordingBackend) Put(ctx context.Context, name string, body io.ReaderAt, size int64) error {
	data := make([]byte, size)
	if _, err := body.ReadAt(data, 0); err != nil && err != io.EOF {
		return err
	}
	b.r.mu.Lock()
	b.r.all = append(b.r.all, recordedPut{name, data})
	b.r.mu.Unlock()
	return b.Backend.Put(ctx, name, body, size)
}

// nonces collects the nonces of all boxes by the key that they are used with,
// which an object's name stands for: each object has a subkey of its own.
type nonces struct {
	t    *testing.T
	seen map[string]map[[12]byte]string
	n    int
}

func (n *nonces) box(object string, data []byte, at int64, what string) {
	n.t.Helper()
	if at < 0 || at+28 > int64(len(data)) {
		n.t.Fatalf("%s: no box at %d of %d: %s", object, at, len(data), what)
	}
	var nonce [12]byte
	copy(nonce[:], data[at:])
	m := n.seen[object]
	if m == nil {
		m = map[[12]byte]string{}
		n.seen[object] = m
	}
	if was, twice := m[nonce]; twice {
		n.t.Errorf("%s: the nonce %x is used twice: %s, %s", object, nonce, was, what)
	}
	m[nonce] = what
	n.n++
}

// object collects the boxes of one object of the vault.
func (n *nonces) object(ctx context.Context, ring *key.Ring, p recordedPut) {
	kind, rest, _ := strings.Cut(p.name, "/")
	switch kind {
	case "log":
		n.box(p.name, p.data, key.HeaderBytes, "entry")
	case "keys":
		n.box(p.name, p.data, 112, "payload")
	case "packs":
		n.pack(ctx, ring, p, chunk.ID(unhex(n.t, filepath.Base(rest))))
	case "index":
		n.run(ctx, ring, p, chunk.ID(unhex(n.t, rest)))
	}
}

func unhex(t *testing.T, s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 32 {
		t.Fatalf("not an ID: %s", s)
	}
	return b
}

func (n *nonces) pack(ctx context.Context, ring *key.Ring, p recordedPut, id chunk.ID) {
	b := oneObject{p}
	dir, err := pack.ReadDirectory(ctx, b, ring, p.data[5], id, uint64(len(p.data)))
	if err != nil {
		n.t.Fatal(err)
	}
	for _, r := range dir.Records {
		n.box(p.name, p.data, int64(r.Offset), fmt.Sprint("record ", r.Number))
	}
	length := int64(binary.LittleEndian.Uint32(p.data[len(p.data)-4:]))
	n.box(p.name, p.data, int64(len(p.data))-4-length, "directory")
}

func (n *nonces) run(ctx context.Context, ring *key.Ring, p recordedPut, id chunk.ID) {
	r, err := index.OpenRun(ctx, ring, id, index.ObjectSource(oneObject{p}, p.name), int64(len(p.data)), nil)
	if err != nil {
		n.t.Fatal(err)
	}
	at, c := int64(key.HeaderBytes), r.Counts()
	for table, t := range []struct {
		rows  uint32
		width int64
	}{{c.Packs, 41}, {c.Records, 21}, {c.Chunks, 44}} {
		for rows := int64(t.rows); rows > 0; rows -= 256 {
			n.box(p.name, p.data, at, fmt.Sprintf("table %d, %d rows left", table+1, rows))
			at += min(rows, 256)*t.width + 28
		}
	}
	n.box(p.name, p.data, at, "footer")
}

// oneObject is a backend of one object, to read.
type oneObject struct{ p recordedPut }

func (b oneObject) Get(_ context.Context, _ string, off, length int64) (io.ReadCloser, error) {
	return io.NopCloser(io.NewSectionReader(bytes.NewReader(b.p.data), off, length)), nil
}

func (b oneObject) Put(context.Context, string, io.ReaderAt, int64) error       { panic("read only") }
func (b oneObject) List(context.Context, string) iter.Seq2[backend.Info, error] { panic("one object") }
func (b oneObject) Delete(context.Context, string) error                        { panic("read only") }
func (b oneObject) Close() error                                                { return nil }

// journal collects the boxes of a journal: the first frame's key is the vault's,
// the others' is that of the journal, which a new file has a new one of.
func (n *nonces) journal(data []byte, id string) {
	for i := 0; len(data) >= 4; i++ {
		length := int(binary.LittleEndian.Uint32(data))
		if len(data) < 4+length {
			return
		}
		if i == 0 {
			n.box("first frames of journals", data, 4, id)
		} else {
			n.box("journal "+id, data, 4, fmt.Sprint("frame ", i))
		}
		data = data[4+length:]
	}
}

// TestFaultNonces collects every box that a whole run seals, in the vault and
// beside it, and finds no nonce twice under one key (I10). Meanwhile it looks at
// moments all over the run for anything that a thief of the vault or of the cache
// should not see.
func TestFaultNonces(t *testing.T) {
	ctx := t.Context()
	r := newFaultRig(t)
	canaries := plantCanaries(t, r)
	w := r.world("box")
	rec := &putRecorder{}
	n := &nonces{t: t, seen: map[string]map[[12]byte]string{}}
	journals := map[string][]byte{} // by their first frame, the longest state seen
	looks := 0
	look := func() {
		looks++
		dir := filepath.Dir(w.home)
		for name, data := range faultFilesNow(dir) {
			canaries.search(t, name, data)
			if filepath.Base(name) == "journal" && len(data) > 64 {
				id := string(data[:64])
				if len(data) > len(journals[id]) {
					journals[id] = data
				}
			}
		}
	}
	m := &faultMoments{at: func(i int, _ string) error {
		if i%5 == 0 {
			look()
		}
		return nil
	}}
	stop := m.watch(w)
	inner := w.wrap
	w.wrap = func(b backend.Backend) backend.Backend { return inner(recordingBackend{b, rec}) }
	if err := w.init(ctx); err != nil {
		t.Fatal(err)
	}
	for i := range maxRuns + 1 {
		r.edit(i % 3)
		if _, err := w.backup(ctx, r.src, canaries.dir); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.changePassphrase(ctx, faultPass, faultNewPass); err != nil {
		t.Fatal(err)
	}
	stop()
	// Two machines at once lose races: several candidates for one entry.
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			o := &faultWorld{home: fmt.Sprint(w.home, i), vault: w.vault, host: fmt.Sprint("box", i), secret: faultNewPass}
			o.wrap = func(b backend.Backend) backend.Backend { return recordingBackend{b, rec} }
			for range 3 {
				if _, err := o.backup(ctx, r.src); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	look()
	var ring *key.Ring
	if err := w.session(ctx, false, func(s *Session) error { ring = s.vault.Ring; return nil }); err != nil {
		t.Fatal(err)
	}
	candidates := map[string]int{}
	for _, p := range rec.all {
		n.object(ctx, ring, p)
		candidates[p.name]++
	}
	lost := 0
	for name, c := range candidates {
		if strings.HasPrefix(name, "log/") {
			lost += c - 1
		}
	}
	for id, data := range journals {
		n.journal(data, hex.EncodeToString([]byte(id[:16])))
	}
	if n.n < 100 || len(journals) == 0 || looks < 50 {
		t.Errorf("%d boxes, %d journals, %d looks", n.n, len(journals), looks)
	}
	t.Logf("%d boxes of %d objects, %d candidates lost a race, %d journals; %d looks for plaintext", n.n, len(candidates), lost, len(journals), looks)
}

// faultCanaries are secrets whose traces nobody may find.
type faultCanaries struct {
	dir  string
	text []string
}

func plantCanaries(t *testing.T, r *faultRig) faultCanaries {
	t.Helper()
	c := faultCanaries{dir: filepath.Join(r.root, "canary-in-a-path"), text: []string{
		"canary-in-a-path", "canary-in-a-name", "canary-in-a-folder", "canary-in-a-target", "canary-in-a-value", "canary-in-short-content",
		"canary-in-large-content", "canary-in-plain-content", faultPass, faultNewPass,
	}}
	content := []byte("canary-in-plain-content")
	for i := uint32(1); len(content) < 300_000; i = i*1664525 + 1013904223 { // does not compress
		content = append(content, byte(i>>24), byte(i>>16))
	}
	files := map[string][]byte{
		"canary-in-a-name":           []byte("canary-in-short-content"),
		"canary-in-a-folder/one":     bytes.Repeat([]byte("canary-in-large-content"), 30_000),
		"canary-in-a-folder/another": content,
	}
	for name, data := range files {
		path := filepath.Join(c.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/canary-in-a-target", filepath.Join(c.dir, "link")); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *faultCanaries) search(t *testing.T, name string, data []byte) {
	t.Helper()
	for _, text := range c.text {
		if bytes.Contains(data, []byte(text)) || strings.Contains(filepath.Base(name), text) {
			t.Errorf("%s has %q", name, text)
		}
	}
}

// faultFilesNow are the files below a folder that are there now; a run goes on.
func faultFilesNow(dir string) map[string][]byte {
	m := map[string][]byte{}
	_ = filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			if b, err := os.ReadFile(path); err == nil {
				m[path] = b
			}
		}
		return nil
	})
	return m
}
