package agent

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tharsis-backup/tharsis/agent/target"
	"github.com/tharsis-backup/tharsis/vault/log"
	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// conflicts are the rules by the names that commands use.
var conflicts = map[string]target.Conflict{
	"": target.Copy, "copy": target.Copy, "overwrite": target.Overwrite, "skip": target.Skip, "newer": target.Newer,
}

// ValidConflict tells whether RestoreOptions.Conflict may have this value.
func ValidConflict(rule string) bool {
	_, ok := conflicts[rule]
	return ok
}

// restore is one restore under way.
type restore struct {
	v    *view
	o    RestoreOptions
	pick *selection
	root *target.Root // nil in a dry run
	// incomplete: a source that is asked for failed in the point.
	incomplete bool
	lost       error // the first damage to a list of files
	plan       *window

	restored, skipped, failed, bytes, notes atomic.Int64
	files                                   atomic.Int64
	kept                                    atomic.Int64    // bytes of files that were there already
	total                                   manifest.Totals // zero where it is not known
	current                                 string          // path of the walk, for reports
	reported                                time.Time

	mu    sync.Mutex // guards fatal
	fatal error      // ends the restore: the target takes no more
}

// Restore puts a point, or some paths of it, to where it was or below a target.
// It reads the manifest in order, plans the content in windows by pack, and
// leaves what is there already with equal content. It can be run again.
func (s *Session) Restore(ctx context.Context, o RestoreOptions) (RestoreResult, error) {
	begun := s.now()
	p, err := s.resolve(o.Point, o.Machine, o.Source)
	if err != nil {
		return RestoreResult{}, err
	}
	v, err := s.view(ctx)
	if err != nil {
		return RestoreResult{}, err
	}
	r := &restore{v: v, o: o}
	sources, err := r.choose(ctx, p.Point)
	if err != nil {
		return RestoreResult{}, err
	}
	err = r.run(ctx, sources)
	if err == nil && r.lost != nil && r.restored.Load()+r.skipped.Load() == 0 {
		err = r.lost // nothing is left to restore
	}
	res := RestoreResult{
		Point: p.Point.ID.String(), Status: Completed, Restored: r.restored.Load(), Skipped: r.skipped.Load(),
		Failed: r.failed.Load(), Bytes: r.bytes.Load(), Notes: r.notes.Load(), Duration: s.now().Sub(begun),
	}
	if res.Failed > 0 || r.incomplete {
		res.Status = CompletedWithWarnings
	}
	return res, err
}

// choose finds the sources and the entries that are asked for, before anything
// is written.
func (r *restore) choose(ctx context.Context, p *log.Point) ([]*log.Source, error) {
	pick, err := newSelection(r.o)
	if err != nil {
		return nil, err
	}
	r.pick = pick
	var sources []*log.Source
	for i := range p.Sources {
		src := &p.Sources[i]
		if r.o.Source != "" && src.Path != r.o.Source {
			continue
		}
		if src.Status == log.StatusFailed {
			if pick.holds(src.Path) {
				r.incomplete = true
				r.v.s.note(Note{Warning, src.Path, "this source failed in this point; nothing to restore"})
			}
			continue
		}
		sources = append(sources, src)
	}
	if len(sources) == 0 {
		return nil, fmt.Errorf("%w: %s", ErrNoPath, r.o.Source)
	}
	if err := pick.resolve(ctx, r.v, sources); err != nil {
		return nil, err
	}
	r.measure(ctx, sources)
	return sources, nil
}

// measure finds how much there is to restore, for reports: a few pages tell it,
// unless there are patterns.
func (r *restore) measure(ctx context.Context, sources []*log.Source) {
	if r.v.s.env.Report == nil || r.pick.include != nil || r.pick.exclude != nil {
		return
	}
	var sum manifest.Totals
	for _, src := range sources {
		for _, start := range r.pick.starts(src) {
			t, err := manifest.SubtreeTotals(ctx, r.v.pages, src.Root, start)
			if err != nil || t.Bytes > math.MaxInt64-sum.Bytes {
				return // damage is reported by the walk
			}
			sum.Entries += t.Entries
			sum.Bytes += t.Bytes
		}
	}
	r.total = sum
}

func (r *restore) run(ctx context.Context, sources []*log.Source) error {
	if r.o.DryRun {
		return r.walkAll(ctx, sources)
	}
	dir := r.o.Target
	if dir == "" {
		dir = "/"
	}
	var err error
	r.root, err = target.Open(dir, target.Options{
		Conflict: conflicts[r.o.Conflict],
		Suffix:   " (restored " + r.v.s.now().Local().Format("2006-01-02 15-04") + ")",
		Log:      r.v.s.log,
		Failed:   func(err error) { r.fail("", err) },
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if r.plan, err = r.newWindow(ctx); err != nil {
		return err
	}
	err = r.walkAll(ctx, sources)
	if werr := r.plan.finish(err == nil); err == nil {
		err = werr
	}
	if ferr := r.root.Finish(); ferr != nil && err == nil && r.failed.Load() == 0 {
		err = ferr
	}
	for _, n := range r.root.Notes() {
		r.notes.Add(n.Count)
		r.v.s.note(Note{Info, n.Path, refusal(n)})
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fatal != nil {
		return r.fatal
	}
	return err
}

func refusal(n target.Note) string {
	text := "not restored here: " + n.What
	if n.Err != nil {
		text += " (" + cause(n.Err).Error() + ")"
	}
	if n.Count > 1 {
		text += fmt.Sprintf("; and so for %d more", n.Count-1)
	}
	return text
}

func (r *restore) walkAll(ctx context.Context, sources []*log.Source) error {
	for _, src := range sources {
		if r.root != nil {
			if err := r.plan.flush(); err != nil {
				return err
			}
			r.root.NextSource()
		}
		w := &restoreWalk{r: r, src: src}
		if err := w.run(ctx); err != nil {
			return err
		}
	}
	return nil
}

// outcome counts what became of an entry.
func (r *restore) outcome(path string, out target.Outcome, err error) {
	switch {
	case err != nil:
		r.fail(path, err)
	case out == target.Kept:
		r.skipped.Add(1)
	case out != target.Refused:
		r.restored.Add(1)
	}
}

// fail reports an entry that was not restored. An error that every other entry
// would meet as well ends the restore.
func (r *restore) fail(path string, err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	for _, full := range []error{syscall.ENOSPC, syscall.EROFS, syscall.EDQUOT} {
		if !errors.Is(err, full) {
			continue
		}
		r.mu.Lock()
		if r.fatal == nil {
			r.fatal = fmt.Errorf("write to the target: %w", err)
		}
		r.mu.Unlock()
		return
	}
	r.failed.Add(1)
	var te *target.Error
	if path == "" && errors.As(err, &te) {
		path = te.Path
	}
	r.v.s.note(Note{Failure, path, failureText(err)})
}

func failureText(err error) string {
	var te *target.Error
	if errors.As(err, &te) {
		return te.Op + ": " + cause(te.Err).Error()
	}
	return err.Error()
}

// stopped tells whether the restore is to end.
func (r *restore) stopped(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fatal != nil {
		return r.fatal
	}
	return ctx.Err()
}

// report tells of progress, a few times a second.
func (r *restore) report(path string) {
	rep := r.v.s.env.Report
	r.current = path
	if rep == nil || time.Since(r.reported) < progressEvery {
		return
	}
	r.reported = time.Now()
	rep.Progress(Progress{
		Phase: "restore", Files: r.files.Load(), Bytes: r.bytes.Load() + r.kept.Load(), Current: path,
		TotalFiles: int64(r.total.Entries), TotalBytes: int64(r.total.Bytes),
	})
}
