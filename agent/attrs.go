package agent

import (
	"context"
	"sync"
	"time"

	"github.com/tharsis-backup/tharsis/agent/source"
	"github.com/tharsis-backup/tharsis/vault/log"
	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// xattrSet reads the attributes of an entry that has no content, encoded.
func (j *job) xattrSet(it *source.Item, src *sourceJob) []byte {
	x, err := it.Dir.Xattrs(it.Name, it.Entry.Kind)
	if it.State == source.Unlisted {
		err = nil // that the folder cannot be read was said already
	}
	return j.encodeXattrs(nil, src, it.Key, x, err)
}

// encodeXattrs appends the set of an entry's attributes. What could not be read,
// or cannot be stored, is reported.
func (j *job) encodeXattrs(dst []byte, src *sourceJob, key []byte, x []manifest.Xattr, err error) []byte {
	if err != nil {
		j.info(src.full(key), "extended attributes: "+cause(err).Error())
	}
	set, err := manifest.AppendXattrs(dst, x)
	if err != nil {
		j.warn(src.full(key), cause(err).Error())
		return dst
	}
	return set
}

// touchStatus raises a source's status; workers do it while the walk goes on.
func (j *job) touchStatus(src *sourceJob, status log.Status) {
	j.statusMu.Lock()
	defer j.statusMu.Unlock()
	src.status = max(src.status, status)
}

// trusted tells whether all content of a base entry lies in packs that a new
// point may refer to. As long as the log distrusts no pack it need not be asked.
func (j *job) trusted(ctx context.Context, b *baseEntry) (bool, error) {
	if j.unusable == 0 && !j.s.salvage {
		return true, nil
	}
	if !b.entry.XattrRef.Hole() {
		if ok, err := j.index.Usable(ctx, b.entry.XattrRef.ID); !ok || err != nil {
			return false, err
		}
	}
	for x, err := range manifest.Extents(ctx, j.read, &b.entry) {
		if err != nil {
			return false, nil // its pages cannot be read: read the file
		}
		if x.Hole() {
			continue
		}
		if ok, err := j.writer.Confirmed(ctx, x.ID); !ok || err != nil {
			return false, err
		}
	}
	if !b.entry.Table.IsZero() && !j.o.DryRun {
		return j.retable(ctx, &b.entry) // the pages may lie in packs that lost trust
	}
	return true, nil
}

// maxLinks bounds the files with several names whose content is remembered
// within a job; one that was forgotten is read again, and stored once all the same.
const maxLinks = 16 << 10

// linkTable remembers the content of files with several names.
type linkTable struct {
	mu sync.Mutex // guards m
	m  map[linkID]manifest.Entry
}

type linkID struct {
	source int
	key    uint64
}

func newLinkTable() *linkTable { return &linkTable{m: map[linkID]manifest.Entry{}} }

func (t *linkTable) put(src *sourceJob, e *manifest.Entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.m) >= maxLinks {
		clear(t.m)
	}
	t.m[linkID{src.n, e.LinkKey}] = *e.Clone()
}

// get returns the entry of another name of the same file, if that was read in
// the state that the walk now sees.
func (t *linkTable) get(src *sourceJob, now *manifest.Entry) (manifest.Entry, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, ok := t.m[linkID{src.n, now.LinkKey}]
	if !ok || !sameFile(now, &e) {
		return manifest.Entry{}, false
	}
	return *e.Clone(), true
}

// progressEvery is how often progress is reported.
const progressEvery = 200 * time.Millisecond

// progress reports after a batch.
func (j *job) progress(b *batch) {
	j.filesRead.Add(int64(len(b.files)))
	j.report("read", b.files[len(b.files)-1].src.full(b.files[len(b.files)-1].key))
}

// tick reports in the middle of a large file.
func (j *job) tick(t *fileTask) { j.report("read", t.src.full(t.key)) }

func (j *job) progressPhase(phase string) { j.report(phase, "") }

func (j *job) report(phase, current string) {
	r := j.s.env.Report
	if r == nil {
		return
	}
	now := time.Now().UnixNano()
	last := j.reported.Load()
	if now-last < int64(progressEvery) || !j.reported.CompareAndSwap(last, now) {
		return
	}
	r.Progress(Progress{Phase: phase, Files: j.filesRead.Load(), Bytes: j.stats.read.Load(), Current: current})
}
