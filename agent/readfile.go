package agent

import (
	"errors"
	"io"
	"io/fs"

	"github.com/tharsis-backup/tharsis/agent/source"
	"github.com/tharsis-backup/tharsis/vault/log"
	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// readTries is how often a file that changes while it is read is read before it
// is stored as unstable.
const readTries = 3

// read reads a file and journals it. One below the chunker's minimum is one
// chunk, in the segment.
func (r *reader) read(t *fileTask) error {
	if done, err := r.linked(t); done || err != nil {
		return err
	}
	f, err := t.dir.Open(t.name)
	if err != nil {
		return r.w.j.unread(t, err)
	}
	defer f.Close()
	for try := 1; ; try++ {
		before := f.Opened()
		if try > 1 {
			if before, err = f.Stat(); err != nil {
				return r.w.j.unread(t, err)
			}
		}
		if before.Size >= uint64(r.w.j.s.vault.Config.Cut.Min) {
			return r.largeFile(t, f)
		}
		data, err := r.slurp(f, int(before.Size))
		if err != nil {
			return r.w.j.unread(t, err)
		}
		after, err := f.Stat()
		if err != nil {
			return r.w.j.unread(t, err)
		}
		stable := sameFile(&after, &before) && len(data) == int(before.Size)
		if !stable && try < readTries {
			continue
		}
		return r.smallDone(t, f, after, data, stable)
	}
}

// slurp reads the first size bytes of a file to the end of the segment, without
// making them part of it. It does not look for more: a file that grew has another
// size afterwards, and that is looked at in any case.
func (r *reader) slurp(f *source.File, size int) ([]byte, error) {
	buf := r.room(size)
	n, err := f.ReadAt(buf, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	r.w.j.stats.read.Add(int64(n))
	return buf[:n], nil
}

func (r *reader) smallDone(t *fileTask, f *source.File, now manifest.Entry, data []byte, stable bool) error {
	e := t.described(now)
	e.Size, e.Extents = uint64(len(data)), nil
	if len(data) > 0 {
		r.segment = r.segment[:len(r.segment)+len(data)]
		x, err := r.add(len(data))
		if err != nil {
			return err
		}
		e.Extents = []manifest.Extent{x}
	}
	return r.finish(t, f, &e, stable)
}

// described is the walk's entry with what the open file says.
func (t *fileTask) described(now manifest.Entry) manifest.Entry {
	e := t.entry
	e.Mode, e.UID, e.GID, e.User, e.Group = now.Mode, now.UID, now.GID, now.User, now.Group
	e.MTime, e.CTime, e.Size, e.Inode, e.LinkKey = now.MTime, now.CTime, now.Size, now.Inode, now.LinkKey
	return e
}

// finish adds the attributes and journals the entry.
func (r *reader) finish(t *fileTask, f *source.File, e *manifest.Entry, stable bool) error {
	j := r.w.j
	xattrs, err := f.Xattrs()
	r.set = j.encodeXattrs(r.set[:0], t.src, t.key, xattrs, err)
	if err := r.attach(e, r.set); err != nil {
		return err
	}
	if !stable {
		e.Flags |= manifest.FlagUnstable
		j.touchStatus(t.src, log.StatusWarnings)
		j.warn(t.src.full(t.key), "changed each time while it was read; what is stored may mix old and new")
	}
	if e.LinkKey != 0 && stable {
		r.w.links.put(t.src, e)
	}
	return r.emit(t, e)
}

// emit journals a file's entry, unless it is just what the base has.
func (r *reader) emit(t *fileTask, e *manifest.Entry) error {
	j := r.w.j
	r.raw = manifest.AppendEntry(r.raw[:0], e)
	if t.old != nil && t.old.fromBase && string(r.raw) == string(t.old.raw) {
		j.stats.unmodified.Add(1)
		return nil
	}
	if t.old != nil && t.old.sameContent(e) {
		j.stats.unmodified.Add(1)
	} else {
		j.count(t.old)
	}
	return j.journalEntry(t.src, t.key, r.raw)
}

// linked takes the content of a file with several names from the name that was
// read before, in this job.
func (r *reader) linked(t *fileTask) (bool, error) {
	if t.entry.LinkKey == 0 {
		return false, nil
	}
	e, ok := r.w.links.get(t.src, &t.entry)
	if !ok {
		return false, nil
	}
	return true, r.emit(t, &e)
}

// unread handles a file that could not be read: what the base has is kept, flagged.
func (j *job) unread(t *fileTask, err error) error {
	path := t.src.full(t.key)
	switch {
	case errors.Is(err, fs.ErrNotExist): // but not ESTALE, which a server gives for all it has when it starts anew
		j.info(path, "vanished")
		t.src.lost.Add(1)
		if t.old == nil {
			return nil
		}
		j.stats.gone.Add(1)
		return j.journalGone(t.src, t.key)
	case errors.Is(err, errors.ErrUnsupported):
		return err
	}
	j.stats.unreadable.Add(1)
	j.touchStatus(t.src, log.StatusWarnings)
	j.warn(path, cause(err).Error())
	if t.old == nil || t.old.entry.Kind != manifest.KindFile {
		t.src.lost.Add(1)
		if t.old != nil {
			return j.journalGone(t.src, t.key)
		}
		return nil
	}
	if ok, err := j.rescue(j.workers.ctx, &t.old.entry); err != nil {
		return err
	} else if !ok {
		j.warn(path, lostText)
		t.src.lost.Add(1)
		return j.journalGone(t.src, t.key)
	}
	e := t.old.entry
	e.Flags |= manifest.FlagStale
	return j.journalEntry(t.src, t.key, manifest.AppendEntry(nil, &e))
}
