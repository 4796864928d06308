package agent

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/tharsis-backup/tharsis/cache/extsort"
	"github.com/tharsis-backup/tharsis/cache/journal"
	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
	"github.com/tharsis-backup/tharsis/vault/manifest"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// A long job appends a PARTIAL entry this often, so that losing the cache
// does not lose a first backup of weeks.
const (
	partialEvery = 30 * time.Minute
	partialBytes = 32 << 30
)

// partialCheck is after how many entries of a walk the two are looked at. Tests
// set it lower.
var partialCheck = 1024

// publish makes what the journal says a part of the vault: pages, index run,
// and the log entry, in this order. Before the entry nothing of it is visible.
// The workers must be idle.
func (j *job) publish(ctx context.Context, partial bool) (log.Head, error) {
	j.progressPhase("commit")
	if err := j.writer.Flush(); err != nil {
		return log.Head{}, err
	}
	if err := j.journal.Flush(); err != nil {
		return log.Head{}, err
	}
	sources, err := j.mergeSources(ctx, partial)
	if err != nil {
		return log.Head{}, err
	}
	if err := j.writer.Flush(); err != nil {
		return log.Head{}, err
	}
	point := log.Point{
		ID: j.id, Machine: j.s.machine.ID, Install: j.s.machine.Nonce, Previous: j.previous,
		Started: j.startOf(partial), Host: j.s.host, Agent: Version, Sources: sources, Tags: tags(j.o.Tags),
	}
	run, ok, err := j.writer.WriteIndex(j.s.keepCopy)
	if err != nil {
		return log.Head{}, err
	}
	if ok {
		point.Runs = []chunk.ID{run}
	}
	j.fill(&point)
	// The fence: build is called with the log as of the entry before, and its
	// entry is created only if nothing came between.
	entry, err := j.s.vault.Log.Append(ctx, j.s.machine.Key, func(st *log.State) (log.Body, error) {
		err := j.fence(st, point.Sources, point.Runs)
		if weaken := j.s.env.weaken; weaken != nil {
			err = weaken(st, err)
		}
		if err != nil {
			return nil, err
		}
		if partial {
			return &log.Partial{Point: point}, nil
		}
		// THE COMMIT POINT. A crash before the entry is created leaves the last
		// point as it was, and a journal that the next job goes on from; a
		// crash after it leaves this point, complete.
		return &log.Commit{Point: point}, nil
	})
	if err != nil {
		return log.Head{}, err
	}
	j.writer.Indexed()
	return entry, nil
}

// startOf is when the state that a point shows began. A PARTIAL also has what the
// walk did not come to yet, as its base has it: that was read by an earlier job,
// and an entry that was racy then must not pass for one that was looked at now.
func (j *job) startOf(partial bool) int64 {
	start := j.started.UnixNano()
	for _, src := range j.sources {
		if partial && src.begun && src.has && !src.done {
			start = min(start, src.base.Point.Started)
		}
	}
	return start
}

// fill sets what is known only when all is stored.
func (j *job) fill(p *log.Point) {
	st := &j.stats
	p.Ended = j.s.now().UnixNano()
	p.Warnings = st.warnings.Load() > 0
	for _, src := range p.Sources {
		p.Suspect = p.Suspect || src.Status == log.StatusSuspect
	}
	p.Stats = log.Stats{
		FilesNew: uint64(st.fresh.Load()), FilesChanged: uint64(st.changed.Load()), FilesUnmodified: uint64(st.unmodified.Load()),
		FilesGone: uint64(st.gone.Load()), FilesUnreadable: uint64(st.unreadable.Load()),
		BytesRead: uint64(st.read.Load()), BytesAdded: uint64(j.writer.AddedData.Load()), BytesStored: uint64(j.writer.Stored.Load()),
		Warnings: uint64(st.warnings.Load()),
	}
}

func tags(m map[string]string) (out []log.Tag) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, log.Tag{Key: k, Value: m[k]})
	}
	return out
}

// fence tells whether all that the point uses is still to be relied on, as of a
// state of the log: the bases stand, and no pack lost trust since the job began. A
// COMMIT of this machine that appeared meanwhile is a copy's of this home.
func (j *job) fence(st *log.State, sources []log.Source, runs []chunk.ID) error {
	if j.s.lastCommit(st) != j.previous {
		return fmt.Errorf("%w: another one made a point in this machine's name", errFenced)
	}
	if st.Unusable() != j.unusable {
		return fmt.Errorf("%w: a pack was condemned or quarantined", errFenced)
	}
	if slices.ContainsFunc(runs, st.RunGone) {
		return fmt.Errorf("%w: the index run of this job was condemned", errFenced)
	}
	for _, src := range sources {
		if src.Base != log.None && !st.Stands(src.ID, src.Base) {
			return fmt.Errorf("%w: the base of %s was purged", errFenced, src.Path)
		}
	}
	return nil
}

// mergeSources writes each source's new manifest: its base with what the
// journal says.
func (j *job) mergeSources(ctx context.Context, partial bool) ([]log.Source, error) {
	sorter := extsort.New(j.s.cache.SpoolDir(), sortBytes)
	defer sorter.Close()
	if _, err := j.readJournal(ctx, sorter, true); err != nil {
		return nil, err
	}
	it, err := sorter.Sort(ctx)
	if err != nil {
		return nil, fmt.Errorf("sort journal: %w", err)
	}
	defer it.Close()
	all := &diff{overlay: overlay{it: it}}
	if err := all.next(); err != nil {
		return nil, err
	}
	pages := j.pages()
	var out []log.Source
	for _, src := range j.sources {
		failed := src.status == log.StatusFailed
		if partial && (failed || !src.begun) {
			continue
		}
		if !failed {
			if err := j.mergeSource(ctx, src, all, pages, partial); err != nil {
				return nil, fmt.Errorf("write manifest of %s: %w", src.path, err)
			}
		}
		out = append(out, src.entry())
	}
	return out, nil
}

// mergeSource writes one manifest. An unfinished source's deletions don't
// count: it was not walked to its end.
func (j *job) mergeSource(ctx context.Context, src *sourceJob, all *diff, pages *pageWriter, partial bool) (err error) {
	if err := all.skipTo(src); err != nil {
		return err
	}
	all.source, all.keepGone = src, partial && !src.done
	o := manifest.MergeOptions{Plain: j.s.vault.Log.State().HasUntrusted()}
	src.root, src.totals, err = manifest.Merge(ctx, src.baseRoot(), all, j.read, pages, o)
	return err
}

// entry is what a point says of a source.
func (src *sourceJob) entry() log.Source {
	e := log.Source{ID: src.id, Path: src.path, Status: src.status, Base: src.baseSeq(), FileSystem: src.fsid}
	if src.status != log.StatusFailed {
		e.Root, e.Entries, e.Files, e.Bytes = src.root, src.totals.Entries, src.files-src.lost.Load(), src.totals.Bytes
		if src.has && !src.done {
			// What the walk did not come to is still there. That many files are
			// gone, or all, is judged by this number.
			e.Files = max(e.Files, src.base.Source.Files)
		}
	}
	return e
}

// diff gives one source's records to a merge: the last of each key.
type diff struct {
	overlay
	source   *sourceJob
	keepGone bool
	key, val []byte
}

// Next implements [manifest.RecordReader].
func (d *diff) Next(context.Context) (manifest.Record, error) {
	for {
		k, ok := d.of(d.source)
		if !ok {
			return manifest.Record{}, io.EOF
		}
		d.key = append(d.key[:0], k...)
		typ := journal.Type(0)
		for {
			k, ok := d.of(d.source)
			if !ok || !bytes.Equal(k, d.key) {
				break
			}
			if d.cur.typ != journal.Part {
				typ = d.cur.typ
				d.val = append(d.val[:0], d.cur.value...)
			}
			if err := d.next(); err != nil {
				return manifest.Record{}, err
			}
		}
		switch {
		case typ == journal.Entry:
			return manifest.Record{Key: d.key, Entry: d.val}, nil
		case typ == journal.Gone && !d.keepGone:
			return manifest.Record{Key: d.key}, nil
		}
	}
}

// maybePartial appends a PARTIAL entry when it is time.
func (j *job) maybePartial(ctx context.Context) error {
	if j.o.DryRun || j.s.salvage || j.s.now().Sub(j.lastPart) < j.s.env.partialEvery() && j.stats.read.Load()-j.partRead < partialBytes {
		return nil
	}
	if err := j.flushBatch(ctx); err != nil {
		return err
	}
	if err := j.workers.drain(ctx); err != nil {
		return err
	}
	entry, err := j.publish(ctx, true)
	if err != nil {
		return err
	}
	for _, src := range j.sources {
		if src.begun && src.status != log.StatusFailed {
			src.partial = entry.Seq
		}
	}
	j.lastPart, j.partRead = j.s.now(), j.stats.read.Load()
	return j.index.Refresh(ctx)
}

// pages is a page writer of the job's own. It may be used by one goroutine.
func (j *job) pages() *pageWriter {
	return &pageWriter{j: j, hasher: chunk.NewHasher(j.s.vault.Ring.PageID)}
}

// PutPage implements [manifest.PageWriter].
func (w *pageWriter) PutPage(ctx context.Context, page []byte) (chunk.ID, error) {
	if w.ws == nil {
		var err error
		if w.ws, err = vault.NewWorkspace(); err != nil {
			return chunk.ID{}, fmt.Errorf("prepare compressor: %w", err)
		}
	}
	c := pack.NameChunk(w.hasher, page)
	known, err := w.j.writer.Claim(ctx, c.ID)
	if err != nil || known {
		return c.ID, err
	}
	return c.ID, w.j.writer.AddRecord(ctx, w.ws, key.TypeManifestPack, page, []pack.Chunk{c})
}
