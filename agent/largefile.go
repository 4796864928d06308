package agent

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/tharsis-backup/tharsis/agent/source"
	"github.com/tharsis-backup/tharsis/cache/journal"
	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/manifest"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// partBytes is after how many bytes of a large file what was read is journaled:
// a killed job reads less than two of these again. Tests set it lower.
var partBytes int64 = 512 << 20

const (
	// partExtents bounds the extents of one journal record.
	partExtents = 4096
	// pendingChunks is how many chunks of one file may be on their way between
	// cutting and sealing: enough to keep the sealers busy.
	pendingChunks = 8
)

// sealTask is one chunk of a large file on its way to a pack.
type sealTask struct {
	data []byte // in a buffer of workers.bufs
	x    manifest.Extent
	err  error
	done chan struct{}
}

// seal is one sealer: it names, claims, compresses and stores chunks.
func (w *workers) seal() {
	var ws *vault.Workspace
	hasher := chunk.NewHasher(w.j.s.vault.Ring.ChunkID)
	for t := range w.seals {
		if ws == nil && t.err == nil {
			ws, t.err = vault.NewWorkspace()
		}
		if t.err == nil {
			t.err = w.sealOne(t, ws, hasher)
		}
		w.bufs <- t.data[:0:cap(t.data)]
		close(t.done)
	}
}

func (w *workers) sealOne(t *sealTask, ws *vault.Workspace, hasher *chunk.Hasher) error {
	c := pack.NameChunk(hasher, t.data)
	t.x = manifest.Extent{Length: uint64(len(t.data)), ID: c.ID}
	known, err := w.j.writer.Claim(w.ctx, t.x.ID)
	if err != nil || known {
		return err
	}
	return w.j.writer.AddRecord(w.ctx, ws, key.TypeDataPack, t.data, []pack.Chunk{c})
}

// largeFile reads a file of at least the chunker's minimum.
func (r *reader) largeFile(t *fileTask, f *source.File) error {
	if err := r.flush(); err != nil {
		return err
	}
	for try := 1; ; try++ {
		before, err := f.Stat()
		if err != nil {
			return r.w.j.unread(t, err)
		}
		l := &largeRead{r: r, t: t, f: f, size: int64(before.Size), stat: before, out: manifest.NewContentWriter(r.pageWriter())}
		err = l.read()
		if err == nil {
			err = l.settle()
		}
		l.wait()
		var fault *readError
		if errors.As(err, &fault) {
			return r.w.j.unread(t, fault.err)
		}
		if err != nil {
			return err
		}
		after, err := f.Stat()
		if err != nil {
			return r.w.j.unread(t, err)
		}
		stable := sameFile(&after, &before) && l.off == l.size
		if !stable && try < readTries {
			continue
		}
		e := t.described(after)
		if err := l.out.Finish(r.w.ctx, &e); err != nil {
			return fmt.Errorf("write block table: %w", err)
		}
		return r.finish(t, f, &e, stable)
	}
}

// pageWriter stores the pages of this reader's block tables.
func (r *reader) pageWriter() *pageWriter {
	if r.pages == nil {
		r.pages = r.w.j.pages()
	}
	return r.pages
}

// readError is an error of the source, which concerns this file alone.
type readError struct{ err error }

func (e *readError) Error() string { return e.err.Error() }
func (e *readError) Unwrap() error { return e.err }

// largeRead is one pass over a large file.
type largeRead struct {
	r    *reader
	t    *fileTask
	f    *source.File
	size int64
	stat manifest.Entry
	out  *manifest.ContentWriter

	off     int64       // read, and handed on, up to here
	queue   []*sealTask // in the order of the file
	part    []manifest.Extent
	partOff int64 // where the part begins
	partEnd int64 // where its last extent ends
}

// read goes over the data of the file, region by region, after what a killed
// job had read already.
func (l *largeRead) read() error {
	if err := l.resume(); err != nil {
		return err
	}
	for l.off < l.size {
		start, end, err := l.f.NextData(l.off)
		last := errors.Is(err, io.EOF)
		if err != nil && !last {
			return &readError{err}
		}
		start, end = min(start, l.size), min(end, l.size)
		if start > l.off {
			if err := l.hole(uint64(start - l.off)); err != nil {
				return err
			}
			l.off = start
		}
		if last {
			return nil // at its end, which may have come nearer: then it is not stable
		}
		if end <= start {
			continue
		}
		if err := l.region(start, end); err != nil {
			return err
		}
		if l.off < end {
			return nil // the file became shorter: it is not stable
		}
	}
	return nil
}

// region cuts the bytes [start, end) into chunks and hands them to the sealers.
func (l *largeRead) region(start, end int64) error {
	r := l.r
	if r.cutter == nil {
		polynomial, err := r.w.j.polynomial()
		if err != nil {
			return err
		}
		if r.cutter, err = chunk.NewCutter(r.w.j.s.vault.Config.Cut, polynomial); err != nil {
			return err
		}
	}
	r.cutter.Reset(io.NewSectionReader(l.f, start, end-start))
	for {
		buf, err := l.buffer()
		if err != nil {
			return err
		}
		data, err := r.cutter.Next(buf)
		if err != nil {
			r.w.bufs <- buf
			if errors.Is(err, io.EOF) {
				return nil
			}
			return &readError{err}
		}
		r.w.j.stats.read.Add(int64(len(data)))
		r.w.j.tick(l.t)
		l.off += int64(len(data))
		if err := l.send(data); err != nil {
			return err
		}
	}
}

// buffer takes a chunk buffer, waiting until a sealer gave one back.
func (l *largeRead) buffer() ([]byte, error) {
	select {
	case b := <-l.r.w.bufs:
		if b == nil {
			b = make([]byte, 0, l.r.w.j.s.vault.Config.Cut.Max)
		}
		return b, nil
	case <-l.r.w.ctx.Done():
		return nil, l.r.w.ctx.Err()
	}
}

func (l *largeRead) send(data []byte) error {
	t := &sealTask{data: data, done: make(chan struct{})}
	select {
	case l.r.w.seals <- t:
	case <-l.r.w.ctx.Done():
		return l.r.w.ctx.Err()
	}
	l.queue = append(l.queue, t)
	for len(l.queue) > pendingChunks {
		if err := l.take(); err != nil {
			return err
		}
	}
	return nil
}

// take waits for the oldest chunk and adds its extent to the file.
func (l *largeRead) take() error {
	t := l.queue[0]
	l.queue = l.queue[1:]
	select {
	case <-t.done:
	case <-l.r.w.ctx.Done():
		return l.r.w.ctx.Err()
	}
	if t.err != nil {
		return t.err
	}
	return l.extent(t.x)
}

// settle waits for all chunks on their way, and journals the last part.
func (l *largeRead) settle() error {
	for len(l.queue) > 0 {
		if err := l.take(); err != nil {
			return err
		}
	}
	if l.partOff == 0 && len(l.part) <= manifest.MaxInlineExtents {
		return nil // the entry itself will say it all
	}
	return l.flushPart()
}

// wait waits for the chunks on their way after an error: who closes the packs
// when the readers are idle must not come between their claims and their records.
func (l *largeRead) wait() {
	for _, t := range l.queue {
		<-t.done
	}
	l.queue = nil
}

// hole adds a hole, behind all chunks that are on their way.
func (l *largeRead) hole(n uint64) error {
	for len(l.queue) > 0 {
		if err := l.take(); err != nil {
			return err
		}
	}
	return l.extent(manifest.Extent{Length: n})
}

func (l *largeRead) extent(x manifest.Extent) error {
	if err := l.out.Add(l.r.w.ctx, x); err != nil {
		return fmt.Errorf("write block table: %w", err)
	}
	l.part = append(l.part, x)
	l.partEnd += int64(x.Length)
	if l.partEnd-l.partOff >= partBytes || len(l.part) >= partExtents {
		return l.flushPart()
	}
	return nil
}

// flushPart journals the extents since the last part.
func (l *largeRead) flushPart() error {
	if len(l.part) == 0 {
		return nil
	}
	v := appendPart(nil, &l.stat, l.partOff, l.part)
	l.part, l.partOff = l.part[:0], l.partEnd
	return l.r.w.j.journal.Append(journal.Record{Type: journal.Part, Source: l.t.src.id, Key: l.t.key, Value: v})
}

// resume takes over the parts that a killed job journaled of this very state
// of the file, as far as their chunks are stored.
func (l *largeRead) resume() error {
	if l.t.old == nil {
		return nil
	}
	for _, raw := range l.t.old.parts {
		p, err := decodePart(raw)
		if err != nil || !sameFile(&p.stat, &l.stat) || p.off != l.off {
			continue
		}
		ok, err := l.r.w.j.allConfirmed(l.r.w.ctx, p.extents)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		for _, x := range p.extents {
			if err := l.extent(x); err != nil {
				return err
			}
			l.off += int64(x.Length)
		}
	}
	// The rest is cut from here, at an end of a chunk, where the cutter starts
	// afresh anyway: the chunks will be those of an uninterrupted pass.
	return nil
}

// allConfirmed tells whether all chunks of the extents are stored.
func (j *job) allConfirmed(ctx context.Context, extents []manifest.Extent) (bool, error) {
	for _, x := range extents {
		if x.Hole() {
			continue
		}
		if ok, err := j.writer.Confirmed(ctx, x.ID); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}
