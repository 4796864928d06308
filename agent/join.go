package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/tharsis-backup/tharsis/agent/source"
	"github.com/tharsis-backup/tharsis/cache/journal"
	"github.com/tharsis-backup/tharsis/vault/log"
	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// racyWindow is how much older than the start of the job that read it an
// entry's times must be for it to count as unchanged: file systems' clocks tick
// as coarsely as 2 s (FAT), and a write within a tick leaves no trace.
const racyWindow = 2 * time.Second

// walk is the state of the merge-join of one source's walk with its base: both
// are streams in manifest order, so memory does not grow with the files.
type walk struct {
	j    *job
	src  *sourceJob
	tree *source.Tree
	base *baseStream

	// unread is the folder whose base entries are kept, since it could not be listed.
	unread    []byte
	hasUnread bool
	// after, where set, is the key up to which a folder was listed before its
	// listing broke off: base entries below unread and after it are kept.
	after []byte

	raw []byte // scratch
}

// backupSource walks one source and hands what changed to the workers.
func (j *job) backupSource(ctx context.Context, src *sourceJob) (err error) {
	tree, err := source.Open(src.path, source.Options{
		Excludes: j.o.Excludes, ExcludeFiles: j.o.ExcludeFiles, CrossMounts: j.o.CrossMounts,
		AlwaysExclude: j.s.private, Log: j.s.log, Hook: j.s.env.hook,
	})
	if err != nil {
		if errors.Is(err, errors.ErrUnsupported) {
			return err
		}
		j.fail(src, strings.TrimPrefix(cause(err).Error(), "open source "+src.path+": "))
		return nil
	}
	defer func() {
		// The readers open files through the tree: one that finds it closed would
		// take its file for unreadable.
		if err != nil && j.workers != nil {
			j.workers.abandon(err)
		}
		tree.Close()
	}()
	src.fsid = tree.FSID()
	first, err := tree.Next(ctx)
	if err != nil {
		return j.rootError(ctx, src, err)
	}
	if why := j.refuse(src, first); why != "" {
		j.fail(src, why+acceptText+src.path)
		return nil
	}
	base, err := j.openBase(ctx, src)
	if err != nil {
		return err
	}
	src.begun = true
	w := &walk{j: j, src: src, tree: tree, base: base}
	if err := w.run(ctx, first); err != nil || j.workers == nil {
		return err
	}
	return j.workers.drain(ctx)
}

func (j *job) rootError(ctx context.Context, src *sourceJob, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("it cannot be read")
	}
	j.fail(src, cause(err).Error())
	return nil
}

// acceptText goes before the path of a source that a user may accept.
const acceptText = "; its earlier points are as they were. To take it as it is now: --accept-source "

// accepts tells whether the user takes a source as it now is.
func (j *job) accepts(src *sourceJob) bool { return slices.Contains(j.o.AcceptSources, src.path) }

// refuse tells why a source is not to be believed as it now is, or "".
func (j *job) refuse(src *sourceJob, root *source.Item) string {
	if root.State != source.Found {
		if root.Err != nil {
			return cause(root.Err).Error()
		}
		return "it cannot be read"
	}
	if !src.has || j.accepts(src) {
		return ""
	}
	if was := src.base.Source.FileSystem; was != "" && src.fsid != "" && was != src.fsid {
		return "it is on another file system than last time"
	}
	return ""
}

// run is the merge-join.
func (w *walk) run(ctx context.Context, item *source.Item) (err error) {
	seen := 0
	for {
		if item.State != source.Cut {
			if err := w.baseUpTo(ctx, item.Key); err != nil {
				return err
			}
		}
		if err := w.item(ctx, item); err != nil {
			return err
		}
		seen++
		if item, err = w.tree.Next(ctx); err != nil {
			break
		}
		if seen%partialCheck == 0 {
			if err := w.j.maybePartial(ctx); err != nil {
				return err
			}
		}
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, source.ErrRootGone):
		w.j.fail(w.src, "it went away while it was read")
		return w.void(ctx)
	case !errors.Is(err, io.EOF):
		w.j.fail(w.src, cause(err).Error())
		return w.void(ctx)
	}
	if seen == 1 && w.src.has && w.src.base.Source.Entries > 1 && !w.j.accepts(w.src) && w.src.base.Source.Files > 0 {
		w.j.fail(w.src, "it is empty, and was not last time"+acceptText+w.src.path)
		return w.void(ctx)
	}
	if err := w.passBase(ctx, func(*baseEntry) bool { return true }); err != nil {
		return err
	}
	return w.finish(ctx)
}

// finish closes the books of a source that was walked to its end.
func (w *walk) finish(ctx context.Context) error {
	if err := w.j.flushBatch(ctx); err != nil {
		return err
	}
	w.src.done = true
	if w.src.has && w.src.gone*2 > w.src.base.Source.Files && !w.j.accepts(w.src) {
		w.j.touchStatus(w.src, log.StatusSuspect)
		w.j.warn(w.src.path, fmt.Sprintf("%d of %d files are gone since the last point: this point counts as suspect", w.src.gone, w.src.base.Source.Files))
	}
	return nil
}

// void makes the journal forget a source that failed midway, with what readers
// are still about to say of it.
func (w *walk) void(ctx context.Context) error {
	w.j.dropBatch()
	if w.j.o.DryRun {
		return nil
	}
	if err := w.j.workers.drain(ctx); err != nil {
		return err
	}
	return w.j.journal.Append(journal.Record{Type: journal.Void, Source: w.src.id})
}

// baseUpTo handles the base's entries before key: the walk did not meet them.
func (w *walk) baseUpTo(ctx context.Context, key []byte) error {
	return w.passBase(ctx, func(b *baseEntry) bool { return bytes.Compare(b.key, key) < 0 })
}

// passBase handles the base's entries as long as they are before something, as
// entries that the walk did not meet.
func (w *walk) passBase(ctx context.Context, before func(*baseEntry) bool) error {
	for {
		b, err := w.base.peek(ctx)
		if err != nil {
			return err
		}
		if b == nil || !before(b) {
			return nil
		}
		if err := w.missed(ctx, b); err != nil {
			return err
		}
		w.base.advance()
	}
}

// missed handles an entry of the base that the walk did not meet: it is gone,
// unless a folder above it could not be listed. Failure is not deletion.
func (w *walk) missed(ctx context.Context, b *baseEntry) error {
	if w.hasUnread && manifest.Below(b.key, w.unread) && (w.after == nil || bytes.Compare(b.key, w.after) > 0) {
		return w.keepStale(ctx, b)
	}
	if b.entry.Kind == manifest.KindFile && !b.fresh {
		w.src.gone++
		w.j.stats.gone.Add(1)
	}
	return w.gone(b)
}

func (w *walk) gone(b *baseEntry) error {
	if w.j.o.DryRun {
		return nil
	}
	return w.j.journalGone(w.src, b.key)
}

// keepStale keeps what the base has of an entry that cannot be read now.
func (w *walk) keepStale(ctx context.Context, b *baseEntry) error {
	if b.entry.Kind == 0 { // only begun by a killed job
		return w.gone(b)
	}
	if ok, err := w.j.rescue(ctx, &b.entry); err != nil {
		return err
	} else if !ok {
		w.j.warn(w.src.full(b.key), lostText)
		return w.gone(b)
	}
	w.count(b.entry.Kind)
	if b.fromBase && b.entry.Flags&manifest.FlagStale != 0 || w.j.o.DryRun {
		return nil
	}
	e := b.entry
	e.Flags |= manifest.FlagStale
	return w.j.record(w.src, b.key, &e)
}

func (w *walk) count(k manifest.Kind) {
	if k == manifest.KindFile {
		w.src.files++
	}
}

// item handles one step of the walk; the base stands at its key or behind it.
func (w *walk) item(ctx context.Context, it *source.Item) error {
	if it.State == source.Cut {
		w.unreadable(it, w.lastKey())
		return nil
	}
	b, err := w.base.at(ctx, it.Key)
	if err != nil {
		return err
	}
	switch it.State {
	case source.Found:
		if it.NotEntered {
			w.j.info(w.src.full(it.Key), "is the root of another file system; not entered")
		}
		return w.found(ctx, it, b)
	case source.Unlisted:
		w.unreadable(it, nil)
		return w.found(ctx, it, b)
	case source.Unknown:
		w.unreadable(it, nil)
		if b == nil {
			return nil
		}
		defer w.base.advance()
		return w.keepStale(ctx, b)
	case source.Vanished:
		w.j.info(w.src.full(it.Key), "vanished")
		return nil // the base's entry, if any, is then missed
	case source.Skipped:
		w.j.info(w.src.full(it.Key), skipText(it.Err))
	}
	return nil
}

func skipText(err error) string {
	if err == nil {
		return "skipped"
	}
	return "skipped: " + cause(err).Error()
}

// unreadable notes a folder, or an unknown entry, that could not be read, and
// keeps what the base has below it.
func (w *walk) unreadable(it *source.Item, after []byte) {
	w.unread = append(w.unread[:0], it.Key...)
	w.hasUnread, w.after = true, after
	w.j.stats.unreadable.Add(1)
	w.j.touchStatus(w.src, log.StatusWarnings)
	text := "cannot be read"
	if it.Err != nil {
		text = cause(it.Err).Error()
	}
	w.j.warn(w.src.full(it.Key), text)
}

// lastKey is a copy of the key that the walk reached.
func (w *walk) lastKey() []byte { return slices.Clone(w.base.reached) }

// found handles an entry that the walk saw.
func (w *walk) found(ctx context.Context, it *source.Item, b *baseEntry) error {
	w.base.reached = append(w.base.reached[:0], it.Key...)
	w.count(it.Entry.Kind)
	if b != nil {
		defer w.base.advance()
	}
	carry, err := w.carries(ctx, it, b)
	if err != nil {
		return err
	}
	switch {
	case carry:
		return w.carried(it, b)
	case it.Entry.Kind == manifest.KindFile:
		return w.j.enqueue(ctx, w.src, it, b)
	}
	return w.special(it, b)
}

// carries tells whether an entry's content can be taken over from the base
// unread.
func (w *walk) carries(ctx context.Context, it *source.Item, b *baseEntry) (bool, error) {
	if b == nil || !sameFile(&it.Entry, &b.entry) || b.entry.Flags != 0 || b.racy() || b.parts != nil {
		return false, nil
	}
	return w.j.trusted(ctx, b)
}

// sameFile compares what changes whenever a file's content may have changed.
// It is all equality: a time that went back is a change too.
func sameFile(now, was *manifest.Entry) bool {
	return now.Kind == was.Kind && now.Size == was.Size && now.MTime == was.MTime && now.CTime == was.CTime &&
		(now.Inode == was.Inode || now.Inode == 0 || was.Inode == 0)
}

// carried takes the content over; where only the description changed (a user
// got another name, say), the entry is written anew.
func (w *walk) carried(it *source.Item, b *baseEntry) error {
	if it.Entry.Kind == manifest.KindFile {
		w.j.stats.unmodified.Add(1)
	}
	e := it.Entry
	e.Extents, e.Table, e.Xattrs, e.XattrRef = b.entry.Extents, b.entry.Table, b.entry.Xattrs, b.entry.XattrRef
	w.raw = manifest.AppendEntry(w.raw[:0], &e)
	if b.fromBase && bytes.Equal(w.raw, b.raw) || w.j.o.DryRun {
		return nil
	}
	return w.j.record(w.src, it.Key, &e)
}

// special handles a changed entry that has no content: folder, symlink, device, FIFO.
func (w *walk) special(it *source.Item, b *baseEntry) error {
	if w.j.o.DryRun {
		return nil
	}
	e := it.Entry
	if err := w.j.workers.attach(&e, w.j.xattrSet(it, w.src)); err != nil {
		return err
	}
	w.raw = manifest.AppendEntry(w.raw[:0], &e)
	if b != nil && b.fromBase && bytes.Equal(w.raw, b.raw) {
		return nil
	}
	return w.j.record(w.src, it.Key, &e)
}
