package vault

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	mrand "math/rand/v2"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/stage"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

const (
	// uploadsAtOnce bounds packs on their way to the backend, and with them the
	// spool: a full pack waits for a free place, and its writer with it.
	uploadsAtOnce = 2
	// openDataPacks is how many data packs a job that fills more than one keeps
	// open, so that the vault's operator cannot tell chunk lengths from the
	// growth of a pack (docs/FORMAT.md §6.3).
	openDataPacks = 2
	// packChunks is how many chunks a pack gets at most: their IDs are in memory
	// until it is stored. It is only reached by small files of a KiB or so.
	packChunks = 8 << 10
)

// WriterOptions set up a [Writer].
type WriterOptions struct {
	// SpoolDir is where open packs and spilled indexes lie, in files that no
	// other process sees.
	SpoolDir string
	// Stored is called for each pack that the backend confirmed, before its
	// chunks count as known. An error ends the job.
	Stored func(pack.Directory) error
	// Copied is given a manifest pack's bytes after it was stored, for a local copy.
	Copied func(name string, body io.ReaderAt, size int64)
	// PackBytes is about the size at which packs close; 0 chooses the default.
	PackBytes uint64
	Log       *slog.Logger
}

// Writer stores a job's new chunks and pages in packs, each once. All methods
// but Flush, WriteIndex, Indexed and Close may be called concurrently.
type Writer struct {
	v     *Vault
	opts  WriterOptions
	known func(context.Context, chunk.ID) (bool, error)

	ctx     context.Context // of the job; uploads that began are let through
	uploads *errgroup.Group // replaced by each Flush

	mu      sync.Mutex            // guards the fields below
	claimed map[chunk.ID]struct{} // in records whose pack is not confirmed; bounded by the open packs
	open    map[uint8][]*openPack // by pack type
	many    bool                  // a data pack was filled: keep several open
	job     *jobIndex             // confirmed packs of this job
	err     error

	// Stored counts bytes put into the backend, AddedData plaintext bytes of new
	// chunks of files.
	Stored    atomic.Int64
	AddedData atomic.Int64
}

// openPack is a pack that takes records. Its fields are guarded by Writer.mu,
// but for the pack writer, which is safe for itself.
type openPack struct {
	w       *pack.Writer
	id      chunk.ID
	typ     uint8
	spool   *spool
	pending int // records that are sealed but not yet appended
	filled  bool
	chunks  int // in appended records
	closing bool
}

// NewWriter begins a job. known tells whether a chunk or page lies in a usable
// pack of the vault. ctx bounds the whole job.
func (v *Vault) NewWriter(ctx context.Context, known func(context.Context, chunk.ID) (bool, error), o WriterOptions) *Writer {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Writer{
		v: v, opts: o, known: known, ctx: ctx, uploads: newUploads(),
		claimed: make(map[chunk.ID]struct{}),
		open:    make(map[uint8][]*openPack),
		job:     newJobIndex(v.Ring, o.SpoolDir),
	}
}

func newUploads() *errgroup.Group {
	g := new(errgroup.Group)
	g.SetLimit(uploadsAtOnce)
	return g
}

// Adopt takes a pack that an earlier, killed job stored as one of this job's.
func (w *Writer) Adopt(ctx context.Context, dir pack.Directory) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.job.add(ctx, dir)
}

// Claim tells whether a chunk or page need not be stored: the vault, or this
// job, has it. Otherwise the caller has claimed it and must store it by
// AddRecord, or end the job.
func (w *Writer) Claim(ctx context.Context, id chunk.ID) (known bool, err error) {
	if known, err := w.Known(ctx, id); known || err != nil {
		return known, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	// Another worker may have claimed or even stored it since.
	if ok, err := w.ours(ctx, id, true); ok || err != nil {
		return ok, err
	}
	w.claimed[id] = struct{}{}
	return false, nil
}

// Known tells whether the vault or this job has a chunk, without claiming it.
func (w *Writer) Known(ctx context.Context, id chunk.ID) (bool, error) { return w.has(ctx, id, true) }

// Confirmed tells whether a chunk is stored for certain: claims do not count.
func (w *Writer) Confirmed(ctx context.Context, id chunk.ID) (bool, error) {
	return w.has(ctx, id, false)
}

// has tells whether this job, with or without its claims, or the vault has a chunk.
func (w *Writer) has(ctx context.Context, id chunk.ID, claims bool) (bool, error) {
	w.mu.Lock()
	ok, err := w.ours(ctx, id, claims)
	w.mu.Unlock()
	if ok || err != nil {
		return ok, err
	}
	return w.known(ctx, id)
}

// ours tells whether this job has a chunk. w.mu is held.
func (w *Writer) ours(ctx context.Context, id chunk.ID, claims bool) (bool, error) {
	if _, ok := w.claimed[id]; ok && claims {
		return true, nil
	}
	return w.job.has(ctx, id)
}

// compressor is chunk.Compressor, or what a test has in its place.
type compressor interface {
	Compress(dst, src []byte) ([]byte, chunk.Codec)
}

// Workspace holds one worker's buffers for AddRecord.
type Workspace struct {
	compressor compressor
	verifier   *pack.Verifier
	ids        map[uint8]*chunk.Hasher // by type of pack, made when first used
	stored     []byte
	box        []byte
}

// NewWorkspace makes the buffers of one worker.
func NewWorkspace() (*Workspace, error) {
	c, err := chunk.NewCompressor(chunk.CompressorOptions{})
	if err != nil {
		return nil, err
	}
	d, err := chunk.NewDecompressor()
	if err != nil {
		return nil, err
	}
	return &Workspace{compressor: c, verifier: pack.NewVerifier(d), ids: map[uint8]*chunk.Hasher{}}, nil
}

// hasher computes the IDs of what a type of pack holds.
func (ws *Workspace) hasher(ring *key.Ring, typ uint8) *chunk.Hasher {
	if h := ws.ids[typ]; h != nil {
		return h
	}
	k := ring.ChunkID
	if typ == key.TypeManifestPack {
		k = ring.PageID
	}
	ws.ids[typ] = chunk.NewHasher(k)
	return ws.ids[typ]
}

// AddRecord stores claimed chunks, concatenated in plaintext, as one record of
// a pack of the given type: it compresses, seals, opens and checks the IDs. It
// returns before the pack is stored; Flush tells. What changes on the way, also
// after it, is a stage.ErrSpoilt, here or there, and is not stored.
func (w *Writer) AddRecord(ctx context.Context, ws *Workspace, typ uint8, plaintext []byte, chunks []pack.Chunk) error {
	if n := chunk.CompressBound(len(plaintext)); cap(ws.stored) < n {
		ws.stored = make([]byte, n)
	}
	stage.Pass(stage.Named, plaintext)
	stored, codec := ws.compressor.Compress(ws.stored, plaintext)
	stage.Pass(stage.Compressed, stored)
	p, number, err := w.reserve(typ)
	if err != nil {
		return err
	}
	rec := pack.Record{Number: number, Codec: codec, Plain: uint32(len(plaintext)), Chunks: chunks}
	ws.box = p.w.Seal(ws.box[:0], number, codec, stored, rec.Plain)
	stage.Pass(stage.Sealed, ws.box)
	err = ws.verifier.Verify(p.w.Opener, &rec, ws.box, ws.hasher(w.v.Ring, typ))
	if err == nil {
		stage.Pass(stage.Verified, ws.box)
		err = p.w.Append(rec, ws.box)
	}
	if err != nil {
		err = fmt.Errorf("write pack %s: %w", p.id.Short(), err)
	}
	if typ == key.TypeDataPack {
		w.AddedData.Add(int64(len(plaintext)))
	}
	return w.release(p, len(chunks), err)
}

// reserve picks an open pack and a record number in it.
func (w *Writer) reserve(typ uint8) (*openPack, uint32, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return nil, 0, w.err
	}
	want := 1
	if w.many && typ == key.TypeDataPack {
		want = openDataPacks
	}
	for len(w.open[typ]) < want {
		p, err := w.begin(typ)
		if err != nil {
			return nil, 0, err
		}
		w.open[typ] = append(w.open[typ], p)
	}
	p := w.open[typ][mrand.IntN(len(w.open[typ]))]
	p.pending++
	return p, p.w.Reserve(), nil
}

func (w *Writer) begin(typ uint8) (*openPack, error) {
	f, err := newSpool(w.opts.SpoolDir)
	if err != nil {
		return nil, err
	}
	id, err := pack.NewID(w.v.random)
	if err != nil {
		f.Close()
		return nil, err
	}
	pw, err := pack.NewWriter(w.v.Ring, typ, id, f, pack.Options{Target: w.opts.PackBytes})
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("begin pack: %w", err)
	}
	return &openPack{w: pw, id: id, typ: typ, spool: f}, nil
}

// release ends one AddRecord on a pack, and uploads the pack when that was the
// last on a full one. It blocks while too many packs are on their way.
func (w *Writer) release(p *openPack, chunks int, err error) error {
	w.mu.Lock()
	p.pending--
	p.filled = p.filled || err == nil
	p.chunks += chunks
	if err != nil && w.err == nil {
		w.err = err
	}
	err = w.err
	if err == nil && !p.closing && (p.chunks >= packChunks || p.w.Full()) {
		w.retire(p)
		w.many = w.many || p.typ == key.TypeDataPack
	}
	last := p.closing && p.pending == 0
	w.mu.Unlock()
	if err != nil || !last {
		return err
	}
	w.uploads.Go(func() error { return w.upload(p) })
	return w.ctx.Err()
}

// retire takes a pack off the open ones. w.mu is held.
func (w *Writer) retire(p *openPack) {
	p.closing = true
	open := w.open[p.typ]
	for i := range open {
		if open[i] == p {
			w.open[p.typ] = append(open[:i:i], open[i+1:]...)
			return
		}
	}
}

// upload finishes a pack and stores it; when it returns without an error the
// pack's chunks are known.
func (w *Writer) upload(p *openPack) (err error) {
	defer p.spool.Close()
	defer func() {
		if err != nil {
			w.mu.Lock()
			if w.err == nil {
				w.err = err
			}
			w.mu.Unlock()
		}
	}()
	dir, err := p.w.Finish()
	if err != nil {
		return fmt.Errorf("finish pack %s: %w", p.id.Short(), err)
	}
	name := pack.Name(p.id)
	if err := w.v.Backend.Put(context.WithoutCancel(w.ctx), name, p.spool, int64(dir.Length)); err != nil {
		return fmt.Errorf("store pack %s: %w", p.id.Short(), err)
	}
	w.Stored.Add(int64(dir.Length))
	w.opts.Log.Debug("stored pack", "pack_id", p.id.Short(), "size_bytes", dir.Length, "records", len(dir.Records))
	if w.opts.Stored != nil {
		if err := w.opts.Stored(dir); err != nil {
			return err
		}
	}
	if p.typ == key.TypeManifestPack && w.opts.Copied != nil {
		w.opts.Copied(name, p.spool, int64(dir.Length))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.job.add(context.WithoutCancel(w.ctx), dir); err != nil {
		return err
	}
	for _, r := range dir.Records {
		for _, c := range r.Chunks {
			delete(w.claimed, c.ID)
		}
	}
	return nil
}

// Flush stores all open packs and waits until the backend confirmed every
// pack. No AddRecord may run meanwhile. Afterwards the writer can go on.
func (w *Writer) Flush() error {
	w.mu.Lock()
	var rest []*openPack
	for typ, open := range w.open {
		rest = append(rest, open...)
		delete(w.open, typ)
	}
	failed := w.err
	w.mu.Unlock()
	for _, p := range rest {
		if failed != nil || !p.filled {
			p.spool.Close()
			continue
		}
		w.uploads.Go(func() error { return w.upload(p) })
	}
	err := w.uploads.Wait()
	w.uploads = newUploads()
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// WriteIndex stores one index run over all packs of the job since the last
// call, and returns its ID, or ok = false where there was no pack. Flush must
// have succeeded since the last AddRecord.
func (w *Writer) WriteIndex(copied func(name string, body io.ReaderAt, size int64)) (id chunk.ID, ok bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.job.empty() {
		return chunk.ID{}, false, nil
	}
	all, err := w.job.all(w.ctx)
	if err != nil {
		return chunk.ID{}, false, err
	}
	id, size, err := w.v.storeRun(w.ctx, w.opts.SpoolDir, all, copied)
	if err != nil {
		return chunk.ID{}, false, err
	}
	w.Stored.Add(size)
	return id, true, nil
}

// Indexed says that a log entry names the run that WriteIndex stored: from now
// on the vault's index knows its packs, and the next run need not have them.
func (w *Writer) Indexed() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.job.close()
	w.job = newJobIndex(w.v.Ring, w.opts.SpoolDir)
}

// Close drops what was not stored.
func (w *Writer) Close() {
	w.mu.Lock()
	if w.err == nil {
		w.err = context.Canceled
	}
	w.mu.Unlock()
	w.Flush()
	w.job.close()
}
