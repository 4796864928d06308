package agent

import (
	"cmp"
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/index"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/manifest"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

const (
	// windowBytes and windowPieces bound the content that is planned at a time:
	// enough that the segments of a run of small files fall into one window,
	// and that a pack is read in a few ranges.
	windowBytes  = 64 << 20
	windowPieces = 4 << 10
	// windowSplit bounds the files of one window whose pieces may come apart: each is
	// open from its first piece to its last. A file of one piece is so for a moment.
	windowSplit = 16
	// rangeBytes bounds one read of a pack; rangeGap is how much that is not
	// needed is read rather than starting another.
	rangeBytes = 4 << 20
	rangeGap   = 64 << 10
	// queuedRanges is how many reads wait for a worker.
	queuedRanges = 4
)

// piece is a chunk on its way to one place in a file.
type piece struct {
	file *restoreFile
	off  int64
	id   chunk.ID
	size uint32
	loc  index.Location
}

// window collects pieces, sorts them by where they lie in the vault, and lets
// workers read, decode and write them: each record is decoded once for all the
// files that need it.
type window struct {
	r       *restore
	ctx     context.Context
	blobs   *vault.Blobs
	pieces  []piece
	bytes   int64
	split   int          // files with several pieces
	work    chan []piece // pieces of neighbouring records of one pack
	done    sync.WaitGroup
	pending sync.WaitGroup // ranges not yet written

	hasher *chunk.Hasher // of the walk
	buf    []byte
	locs   []index.Location
}

func (r *restore) newWindow(ctx context.Context) (*window, error) {
	w := &window{
		r: r, ctx: ctx, blobs: r.v.s.vault.NewBlobs(), work: make(chan []piece, queuedRanges),
		hasher: chunk.NewHasher(r.v.s.vault.Ring.ChunkID),
	}
	for range min(max(runtime.GOMAXPROCS(0), 2), maxWorkers) {
		s, err := r.v.s.vault.NewScratch()
		if err != nil {
			close(w.work)
			return nil, err
		}
		w.done.Go(func() {
			rw := &rangeWorker{w: w, scratch: s}
			for run := range w.work {
				rw.run(run)
				w.pending.Done()
			}
		})
	}
	return w, nil
}

// compareBuffer is scratch space of the walk.
func (w *window) compareBuffer(n int) []byte {
	if cap(w.buf) < n {
		w.buf = make([]byte, n)
	}
	return w.buf[:n]
}

// file plans the content of a file. It returns only errors that end the restore.
func (w *window) file(ctx context.Context, f *restoreFile, e *manifest.Entry) error {
	if w.split >= windowSplit {
		if err := w.flush(); err != nil {
			f.fail(err)
			f.end()
			return err
		}
	}
	f.left.Store(1)
	defer f.done(1)
	var off int64
	pieces := 0
	for x, err := range manifest.Extents(ctx, w.r.v.pages, e) {
		if err != nil {
			f.fail(err)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return nil
		}
		if f.failed.Load() != nil {
			return nil // the rest, which may be terabytes, would be read for nothing
		}
		if !x.Hole() {
			if err := w.add(f, off, x); err != nil {
				f.fail(err)
				return err
			}
			if pieces++; pieces == 2 {
				w.split++
			}
		}
		off += int64(x.Length)
	}
	return nil
}

func (w *window) add(f *restoreFile, off int64, x manifest.Extent) error {
	f.left.Add(1)
	w.pieces = append(w.pieces, piece{file: f, off: off, id: x.ID, size: uint32(x.Length)})
	w.bytes += int64(x.Length)
	if w.bytes >= windowBytes || len(w.pieces) >= windowPieces {
		return w.flush()
	}
	return nil
}

// locate finds where the pieces lie. It goes by their IDs, as the index does, so
// that each block of it is read once. Those that are nowhere fail.
func (w *window) locate() {
	slices.SortFunc(w.pieces, func(a, b piece) int { return a.id.Compare(b.id) })
	kept := w.pieces[:0]
	for i := range w.pieces {
		p := w.pieces[i]
		if i > 0 && len(kept) > 0 && kept[len(kept)-1].id == p.id && kept[len(kept)-1].size == p.size {
			p.loc = kept[len(kept)-1].loc
		} else if err := w.find(&p); err != nil {
			p.file.fail(err)
			p.file.done(1)
			continue
		}
		kept = append(kept, p)
	}
	clear(w.pieces[len(kept):])
	w.pieces = kept
}

func (w *window) find(p *piece) (err error) {
	if w.locs, err = w.r.v.index.Find(w.ctx, p.id, w.locs[:0]); err != nil {
		return err
	}
	for _, l := range w.locs {
		if l.Length == p.size && l.Type == key.TypeDataPack {
			p.loc = l
			return nil
		}
	}
	return errNowhere
}

var errNowhere = errors.New("its content is in no index of the vault: try agent verify")

// flush hands the window to the workers, and waits until it is written: what
// follows may need the room.
func (w *window) flush() error {
	w.locate()
	slices.SortFunc(w.pieces, func(a, b piece) int {
		return cmp.Or(a.loc.Pack.Compare(b.loc.Pack), cmp.Compare(a.loc.RecordOffset, b.loc.RecordOffset), cmp.Compare(a.loc.Offset, b.loc.Offset))
	})
	for rest := w.pieces; len(rest) > 0; {
		n := rangeOf(rest)
		w.pending.Add(1)
		w.work <- rest[:n:n]
		rest = rest[n:]
	}
	w.pending.Wait()
	clear(w.pieces)
	w.pieces, w.bytes, w.split = w.pieces[:0], 0, 0
	w.r.report(w.r.current)
	return w.r.stopped(w.ctx)
}

// rangeOf tells how many of the sorted pieces are read in one go.
func rangeOf(p []piece) int {
	first := &p[0].loc
	end := first.RecordOffset + first.Stored
	for i := 1; i < len(p); i++ {
		l := &p[i].loc
		if l.Pack != first.Pack || l.RecordOffset > end+rangeGap || l.RecordOffset+l.Stored-first.RecordOffset > rangeBytes {
			return i
		}
		end = max(end, l.RecordOffset+l.Stored)
	}
	return len(p)
}

// finish writes what is planned, unless all is to be dropped, and ends the workers.
func (w *window) finish(write bool) error {
	var err error
	if write {
		err = w.flush()
	} else {
		for i := range w.pieces {
			w.pieces[i].file.fail(context.Canceled)
			w.pieces[i].file.done(1)
		}
	}
	close(w.work)
	w.done.Wait()
	return err
}

// rangeWorker reads ranges, and decodes and writes what is in them.
type rangeWorker struct {
	w       *window
	scratch *vault.Scratch
	buf     []byte
	plain   []byte
}

// run handles the pieces of neighbouring records, sorted.
func (rw *rangeWorker) run(p []piece) {
	if rw.w.r.stopped(rw.w.ctx) != nil {
		for i := range p {
			p[i].file.fail(context.Canceled)
			p[i].file.done(1)
		}
		return
	}
	start := p[0].loc.RecordOffset
	end := start
	for i := range p {
		end = max(end, p[i].loc.RecordOffset+p[i].loc.Stored)
	}
	buf := grown(&rw.buf, int(end-start))
	err := rw.w.blobs.ReadRange(rw.w.ctx, pack.Name(p[0].loc.Pack), int64(start), buf)
	for i := 0; i < len(p); {
		n := i + 1
		for n < len(p) && p[n].loc.RecordOffset == p[i].loc.RecordOffset {
			n++
		}
		rw.record(p[i:n], buf, start, err)
		i = n
	}
}

func grown(b *[]byte, n int) []byte {
	if cap(*b) < n {
		*b = make([]byte, n)
	}
	return (*b)[:n]
}

// record decodes one record and writes the pieces in it. Where it cannot be
// read, each piece is looked for in its other places.
func (rw *rangeWorker) record(p []piece, buf []byte, start uint32, err error) {
	l := &p[0].loc
	var plain []byte
	if err == nil {
		box := buf[l.RecordOffset-start:][:l.Stored]
		plain, err = rw.w.blobs.Decode(grown(&rw.plain, int(l.Plain)+32)[:0], l, box, rw.scratch)
	}
	for i := range p {
		pc := &p[i]
		if err != nil {
			rw.elsewhere(pc, err)
			continue
		}
		data := plain[pc.loc.Offset:][:pc.loc.Length]
		if cerr := rw.scratch.Check(key.TypeDataPack, pc.id, data); cerr != nil {
			rw.elsewhere(pc, cerr)
			continue
		}
		rw.write(pc, data)
	}
}

// elsewhere reads a piece from another place of its chunk.
func (rw *rangeWorker) elsewhere(pc *piece, err error) {
	data, rerr := rw.w.blobs.Chunk(rw.w.ctx, rw.w.r.v.index, pc.id, rw.scratch, nil)
	if rerr != nil || len(data) != int(pc.size) {
		pc.file.fail(err)
		pc.file.done(1)
		return
	}
	rw.write(pc, data)
}

func (rw *rangeWorker) write(pc *piece, data []byte) {
	if pc.file.failed.Load() == nil {
		n, err := pc.file.f.WriteAt(data, pc.off)
		rw.w.r.bytes.Add(int64(n))
		if err != nil {
			pc.file.fail(err)
		}
	}
	pc.file.done(1)
}
