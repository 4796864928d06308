package agent

import (
	"context"
	"fmt"
	"runtime"
	"sync"

	"github.com/tharsis-backup/tharsis/agent/source"
	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/manifest"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

const (
	// segmentBytes is how much of small files' content goes into one segment:
	// docs/decisions has what other sizes gave.
	segmentBytes = 1 << 20
	// firstSegment is what a reader's buffer begins with.
	firstSegment = 64 << 10
	// aloneBytes is the size from which a file has a record of its own.
	aloneBytes = 256 << 10
	// batchBytes bounds the content of one batch: files that have a record of their own
	// are not to wait for each other while other readers have nothing to do, and what
	// is handed out must be stored before a long job can make it a part of the vault.
	batchBytes = 16 << 20
	// batchFiles bounds the files of one batch: many empty ones, say.
	batchFiles = 2048
	// batchDirs bounds the folders that a batch's files lie in, and with it the
	// descriptors that reading it opens anew.
	batchDirs = 64
	// queuedBatches is how far the walk runs ahead of the readers.
	queuedBatches = 4
	// maxWorkers bounds readers and sealers, and with them their buffers: some
	// 12 MiB each.
	maxWorkers = 4
)

// fileTask is one file to read.
type fileTask struct {
	src   *sourceJob
	key   []byte
	name  string
	dir   *source.Dir
	entry manifest.Entry // from the walk
	old   *baseEntry     // what the base has, or nil; owned by the task
}

// batch is a run of small files in walk order, or one large file.
type batch struct {
	files []fileTask
	small uint64 // bytes of the files that share a record
	bytes uint64
	dirs  int
}

// workers read files and store their content: readers take batches in walk
// order; sealers store the chunks of large files.
type workers struct {
	j      *job
	ctx    context.Context
	cancel context.CancelCauseFunc // with the error that ends all
	ends   struct{ readers, sealers sync.WaitGroup }
	tasks  chan *batch
	seals  chan *sealTask
	bufs   chan []byte // chunk buffers of large files
	open   *batch      // being filled by the walk
	closed bool
	links  *linkTable
	busy   sync.WaitGroup // batches that are not done

	inline *reader // the walk's own, for attributes of folders and the like
}

func (j *job) newWorkers(ctx context.Context) (*workers, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	n := min(max(runtime.GOMAXPROCS(0), 2), maxWorkers)
	w := &workers{
		j: j, ctx: ctx, cancel: cancel,
		tasks: make(chan *batch, queuedBatches),
		seals: make(chan *sealTask),
		bufs:  make(chan []byte, 2*n),
		links: newLinkTable(),
	}
	for range cap(w.bufs) {
		w.bufs <- nil // made when it is first used
	}
	readers := make([]*reader, n+1)
	for i := range readers {
		var err error
		if readers[i], err = w.newReader(); err != nil {
			return nil, err
		}
	}
	w.inline = readers[n]
	for _, r := range readers[:n] {
		w.ends.readers.Go(r.run)
		w.ends.sealers.Go(w.seal)
	}
	return w, nil
}

// enqueue adds a changed file to the open batch, and hands that on when it is full.
func (j *job) enqueue(ctx context.Context, src *sourceJob, it *source.Item, b *baseEntry) error {
	if j.o.DryRun {
		if b != nil && sameFile(&it.Entry, &b.entry) {
			j.stats.unmodified.Add(1) // to be read to be sure; it hardly changed
		} else {
			j.count(b)
		}
		j.stats.read.Add(int64(it.Entry.Size))
		return nil
	}
	t := fileTask{src: src, key: append([]byte(nil), it.Key...), name: it.Name, dir: it.Dir, entry: it.Entry}
	if b != nil {
		t.old = b.clone()
	}
	w := j.workers
	if it.Entry.Size >= uint64(j.s.vault.Config.Cut.Min) {
		if err := j.flushBatch(ctx); err != nil {
			return err
		}
		return w.submit(ctx, &batch{files: []fileTask{t}})
	}
	if w.open == nil {
		w.open = &batch{}
	}
	o := w.open
	if n := len(o.files); n == 0 || o.files[n-1].dir != t.dir {
		o.dirs++
	}
	o.files = append(o.files, t)
	if t.entry.Size < uint64(j.s.env.sized(aloneBytes)) {
		o.small += t.entry.Size
	}
	o.bytes += t.entry.Size
	if o.full(&j.s.env) {
		return j.flushBatch(ctx)
	}
	return nil
}

// full tells whether a batch takes no more files.
func (o *batch) full(e *Environment) bool {
	return o.small >= uint64(e.sized(segmentBytes)) || o.bytes >= uint64(e.sized(batchBytes)) ||
		len(o.files) >= batchFiles || o.dirs >= batchDirs
}

// count adds a file that is not carried over to the job's figures.
func (j *job) count(b *baseEntry) {
	if b == nil || b.fresh {
		j.stats.fresh.Add(1)
	} else {
		j.stats.changed.Add(1)
	}
}

func (j *job) flushBatch(ctx context.Context) error {
	if j.workers == nil || j.workers.open == nil {
		return nil
	}
	b := j.workers.open
	j.workers.open = nil
	return j.workers.submit(ctx, b)
}

func (j *job) dropBatch() {
	if j.workers != nil {
		j.workers.open = nil
	}
}

// submit hands a batch to the readers. It returns the error that ended them.
func (w *workers) submit(ctx context.Context, b *batch) error {
	w.busy.Add(1)
	select {
	case w.tasks <- b:
		return nil
	case <-w.ctx.Done():
		w.busy.Done()
		return w.fault(ctx)
	}
}

// fault is why the workers stopped, or nil.
func (w *workers) fault(ctx context.Context) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return context.Cause(w.ctx)
}

// drain waits until all that was submitted is done, and keeps the workers.
func (w *workers) drain(ctx context.Context) error {
	w.busy.Wait()
	return w.fault(ctx)
}

// abandon makes the workers drop what was submitted, and waits until they did.
func (w *workers) abandon(err error) {
	w.cancel(err)
	w.busy.Wait()
}

// stop ends the workers: those that are not idle fail.
func (w *workers) stop() {
	w.cancel(context.Canceled)
	if !w.closed {
		w.closed = true
		close(w.tasks)
		w.ends.readers.Wait()
		close(w.seals)
		w.ends.sealers.Wait()
	}
}

// reader is one worker that reads files, with its buffers.
type reader struct {
	w       *workers
	ws      *vault.Workspace
	hasher  *chunk.Hasher
	cutter  *chunk.Cutter // made when it is first used
	pages   *pageWriter   // likewise
	segment []byte        // content of small files that is not stored yet
	chunks  []pack.Chunk  // what is in it
	raw     []byte
	set     []byte
}

func (w *workers) newReader() (*reader, error) {
	ws, err := vault.NewWorkspace()
	if err != nil {
		return nil, fmt.Errorf("prepare compressor: %w", err)
	}
	return &reader{w: w, ws: ws, hasher: chunk.NewHasher(w.j.s.vault.Ring.ChunkID)}, nil
}

// run reads batches until there are no more. After an error, its own or
// another's, it takes them off the queue all the same, so that nobody waits for them.
func (r *reader) run() {
	for b := range r.w.tasks {
		if r.w.ctx.Err() == nil {
			if err := r.batch(b); err != nil {
				r.w.cancel(err)
			}
		}
		r.w.busy.Done()
	}
}

func (r *reader) batch(b *batch) error {
	for i := range b.files {
		if err := r.w.ctx.Err(); err != nil {
			return err
		}
		if err := r.read(&b.files[i]); err != nil {
			return err
		}
	}
	if err := r.flush(); err != nil {
		return err
	}
	r.w.j.progress(b)
	return nil
}

// add puts a chunk that lies at the end of the segment to what is stored, if
// it is new. It returns the extent that stands for it.
func (r *reader) add(n int) (manifest.Extent, error) {
	end := len(r.segment)
	c := pack.NameChunk(r.hasher, r.segment[end-n:])
	x := manifest.Extent{Length: uint64(n), ID: c.ID}
	known, err := r.w.j.writer.Claim(r.w.ctx, c.ID)
	if err != nil {
		return x, err
	}
	if known {
		r.segment = r.segment[:end-n]
		return x, nil
	}
	if n >= r.w.j.s.env.sized(aloneBytes) {
		err := r.w.j.writer.AddRecord(r.w.ctx, r.ws, key.TypeDataPack, r.segment[end-n:], []pack.Chunk{c})
		r.segment = r.segment[:end-n]
		return x, err
	}
	r.chunks = append(r.chunks, c)
	if len(r.segment) >= r.w.j.s.env.sized(segmentBytes) {
		return x, r.flush()
	}
	return x, nil
}

// flush stores the segment as one record.
func (r *reader) flush() error {
	if len(r.chunks) == 0 {
		return nil
	}
	err := r.w.j.writer.AddRecord(r.w.ctx, r.ws, key.TypeDataPack, r.segment, r.chunks)
	r.segment, r.chunks = r.segment[:0], r.chunks[:0]
	return err
}

// room makes space for n bytes at the end of the segment.
func (r *reader) room(n int) []byte {
	end := len(r.segment)
	if need := end + n; need > cap(r.segment) {
		// It grows: a job that found little changed needs no buffer of a full segment.
		grown := make([]byte, end, max(need, min(2*need, segmentBytes+aloneBytes+512), firstSegment))
		copy(grown, r.segment)
		r.segment = grown
	}
	return r.segment[end : end+n]
}

// attach gives an entry its attribute set, inline or as a chunk.
func (w *workers) attach(e *manifest.Entry, set []byte) error {
	if err := w.inline.attach(e, set); err != nil {
		return err
	}
	return w.inline.flush()
}

func (r *reader) attach(e *manifest.Entry, set []byte) error {
	e.Xattrs, e.XattrRef = nil, manifest.Extent{}
	switch {
	case len(set) == 0:
		return nil
	case len(set) <= manifest.MaxInlineXattrs:
		e.Xattrs = set
		return nil
	}
	copy(r.room(len(set)), set)
	r.segment = r.segment[:len(r.segment)+len(set)]
	x, err := r.add(len(set))
	e.XattrRef = x
	return err
}
