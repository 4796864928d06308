package agent

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tharsis-backup/tharsis/cache/journal"
	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/log"
	"github.com/tharsis-backup/tharsis/vault/manifest"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// maxFenced bounds how often a job starts over since a pack was condemned meanwhile
// that it may rely on. Each time costs a walk, and only what was lost is read again.
// More often than this in a row means that something is wrong, while a first backup of
// weeks meets many prunes: an attempt that took longer than fencedSpell is not counted.
const (
	maxFenced   = 5
	fencedSpell = time.Hour
)

// errFenced ends an attempt whose COMMIT the log refused: a pack that it uses,
// new or carried over, is not to be trusted any more, or its base is gone.
var errFenced = errors.New("the vault changed under the job")

// Backup makes a point of the given sources. The home must be locked.
//
// What a killed job left in the journal is taken up; what this one leaves, if
// it ends early, is taken up by the next.
func (s *Session) Backup(ctx context.Context, o BackupOptions) (BackupResult, error) {
	begun := s.now()
	paths, notes, err := s.sourcePaths(o)
	if err != nil {
		return BackupResult{}, err
	}
	for _, n := range notes {
		s.note(n)
	}
	for try := 0; ; try++ {
		head, tried := s.vault.Log.Head(), s.now()
		res, err := s.attempt(ctx, o, paths)
		if s.now().Sub(tried) > fencedSpell {
			try = 0
		}
		if errors.Is(err, errFenced) && try < maxFenced {
			s.log.Warn("start over", "reason", err)
			continue
		}
		if s.movedOn(ctx, err, head) && try < maxFenced {
			s.log.Warn("start over with a newer log", "reason", err)
			continue
		}
		if s.salvages(err) && !o.DryRun {
			s.log.Warn("start over and salvage", "reason", err)
			continue
		}
		res.Duration, res.Head = s.now().Sub(begun), s.vault.Log.Head()
		return res, err
	}
}

// movedOn tells whether what looks like damage may be the work of a prune, of which the
// log that an attempt began with did not tell yet.
func (s *Session) movedOn(ctx context.Context, err error, began log.Head) bool {
	if !isFinding(err) || s.salvage || s.refresh(ctx) != nil {
		return false
	}
	return s.vault.Log.Head() != began
}

// job is one attempt to make a point.
type job struct {
	s       *Session
	o       BackupOptions
	started time.Time
	id      log.PointID
	// previous is this machine's newest COMMIT as of the start of the job.
	previous log.Head
	sources  []*sourceJob

	writer  *vault.Writer
	index   *vault.Index
	journal *journal.Writer
	overlay *overlay
	workers *workers

	polynomial func() (chunk.Polynomial, error) // that large files are cut by
	read       *vault.Pages                     // manifest pages of the vault
	direct     *vault.Pages                     // the same, past the cache
	rescuer    rescuer

	unusable int // packs that the log distrusted when the job began
	resumed  bool
	lastPart time.Time // when the last PARTIAL was appended
	partRead int64     // bytes read until then

	stats     stats
	filesRead atomic.Int64
	reported  atomic.Int64 // when progress was last reported, ns
	statusMu  sync.Mutex   // guards the sources' status while workers run
}

// stats are the job's counters.
type stats struct {
	fresh, changed, unmodified, gone, unreadable atomic.Int64
	read, warnings                               atomic.Int64
}

// attempt is a backup from end to end.
func (s *Session) attempt(ctx context.Context, o BackupOptions, paths []string) (res BackupResult, err error) {
	// 1. The log, up to its head: the state that this job builds on.
	if err := s.refresh(ctx); err != nil {
		return res, err
	}
	if !o.DryRun {
		if err := s.identify(ctx); err != nil {
			return res, err
		}
		if err := s.enrol(ctx); err != nil {
			return res, err
		}
		if err := s.dailyList(ctx); err != nil {
			return res, err
		}
	}
	st := s.vault.Log.State()
	j := &job{s: s, o: o, started: s.now(), lastPart: s.now(), unusable: st.Unusable(), previous: s.lastCommit(st)}
	if err := s.random(j.id[:]); err != nil {
		return res, err
	}
	defer j.close(&err)
	if err := j.open(ctx, paths); err != nil {
		return res, err
	}

	// 2. Walk, compare, read and store what changed. Every finding goes to the journal.
	for _, src := range j.sources {
		if err := j.backupSource(ctx, src); err != nil {
			return res, err
		}
	}
	if !o.DryRun {
		if err := j.workers.drain(ctx); err != nil {
			return res, err
		}
	}
	if !j.anyGood() {
		return j.result(""), ErrAllFailed
	}
	if o.DryRun {
		return j.result(""), nil
	}

	// 3. Every chunk is confirmed; then pages, then the index, then the COMMIT.
	entry, err := j.publish(ctx, false)
	if err != nil {
		return res, err
	}

	// The point is there. What follows is about this machine, and a crash in
	// between costs the next job some time.
	if err := s.committed(entry); err != nil {
		return res, err
	}
	if err := s.dropJournal(); err != nil {
		s.log.Warn("remove journal", "err", err)
	}
	s.tidy(ctx)
	return j.result(j.id.String()), nil
}

// open prepares what a job writes with. A dry run writes nothing.
func (j *job) open(ctx context.Context, paths []string) (err error) {
	if err := j.s.cache.Sweep(); err != nil {
		return err
	}
	j.warnSalvage()
	o := j.s.indexOptions(true)
	o.Tolerant = j.s.salvage
	if j.index, err = j.s.vault.OpenIndex(ctx, o); err != nil {
		return err
	}
	if tell := j.s.env.IndexMemory; tell != nil {
		tell(j.index.MemoryBytes())
	}
	j.read, j.direct = j.s.pages(j.index), j.s.direct.NewPages(j.index)
	for i, p := range paths {
		j.sources = append(j.sources, j.newSource(i, p))
	}
	j.writer = j.s.vault.NewWriter(ctx, j.known, vault.WriterOptions{
		SpoolDir:  j.s.cache.SpoolDir(),
		Stored:    j.stored,
		Copied:    j.s.keepCopy,
		Log:       j.s.log,
		PackBytes: uint64(j.s.env.sized(pack.DefaultTarget)),
	})
	if err := j.loadOverlay(ctx); err != nil {
		return err
	}
	if j.o.DryRun {
		return nil
	}
	if err := j.openJournal(); err != nil {
		return err
	}
	// It takes a millisecond to find, which few small jobs need.
	j.polynomial = sync.OnceValues(func() (chunk.Polynomial, error) {
		return chunk.DerivePolynomial(j.s.vault.Ring.Chunker)
	})
	j.workers, err = j.newWorkers(ctx)
	return err
}

func (j *job) close(err *error) {
	if j.workers != nil {
		j.workers.stop()
	}
	if errors.Is(*err, context.Canceled) && j.journal != nil {
		// The user has lost patience; what is sealed is worth its upload all
		// the same, so that the next job has less to do.
		if ferr := j.writer.Flush(); ferr != nil {
			j.s.log.Warn("store the last packs", "err", ferr)
		}
	}
	if j.writer != nil {
		j.writer.Close()
	}
	if j.overlay != nil {
		j.overlay.close()
	}
	if j.journal != nil {
		if cerr := j.journal.Close(); *err == nil && cerr != nil {
			j.s.log.Warn("close journal", "err", cerr)
		}
	}
}

func (j *job) anyGood() bool {
	for _, src := range j.sources {
		if src.status != log.StatusFailed {
			return true
		}
	}
	return false
}

// stored journals a pack that the vault confirmed.
func (j *job) stored(dir pack.Directory) error {
	if err := j.journal.Append(journal.Record{Type: journal.Pack, Value: vault.AppendDirectory(nil, dir)}); err != nil {
		return err
	}
	return j.journal.Flush()
}

// warn counts a warning and reports it.
func (j *job) warn(path, text string) {
	j.stats.warnings.Add(1)
	j.s.note(Note{Warning, path, text})
}

func (j *job) info(path, text string) { j.s.note(Note{Info, path, text}) }

func (j *job) result(point string) BackupResult {
	st := &j.stats
	r := BackupResult{
		Point: point, Status: Completed, Resumed: j.resumed,
		FilesNew: st.fresh.Load(), FilesChanged: st.changed.Load(), FilesUnmodified: st.unmodified.Load(), FilesGone: st.gone.Load(),
		BytesRead: st.read.Load(), Warnings: st.warnings.Load(),
	}
	if j.writer != nil {
		r.BytesAdded, r.BytesStored = j.writer.AddedData.Load(), j.writer.Stored.Load()
	}
	if r.Warnings > 0 {
		r.Status = CompletedWithWarnings
	}
	return r
}

// record journals a finished entry of a source.
func (j *job) record(src *sourceJob, key []byte, e *manifest.Entry) error {
	return j.journalEntry(src, key, manifest.AppendEntry(nil, e))
}

// journalEntry journals an encoded entry.
func (j *job) journalEntry(src *sourceJob, key, raw []byte) error {
	return j.journal.Append(journal.Record{Type: journal.Entry, Source: src.id, Key: key, Value: raw})
}

// journalGone journals that the base's entry is no more.
func (j *job) journalGone(src *sourceJob, key []byte) error {
	return j.journal.Append(journal.Record{Type: journal.Gone, Source: src.id, Key: key})
}

// pageWriter stores pages for manifest builders. It is for one goroutine.
type pageWriter struct {
	j      *job
	hasher *chunk.Hasher
	ws     *vault.Workspace // made when it is first needed
}
