package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/log"
	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// sourceJob is one source in one job.
type sourceJob struct {
	n      int // its place in the job
	id     log.SourceID
	path   string
	base   log.Base
	has    bool // there is a base
	anew   bool // its manifest is read, but nothing of it is taken over as it is
	status log.Status

	fsid    string
	files   uint64
	lost    atomic.Uint64 // of files: could not be read, and the point has nothing of them
	gone    uint64
	begun   bool   // the walk started
	done    bool   // walked to its end
	partial uint64 // seq of this job's last PARTIAL that has the source; 0: none
	root    chunk.ID
	totals  manifest.Totals
}

func (j *job) newSource(n int, path string) *sourceJob {
	src := &sourceJob{n: n, path: path, id: sourceID(j.s.machine.ID, path), status: log.StatusComplete}
	src.base, src.has = j.s.vault.Log.State().BaseFor(src.id)
	src.anew = j.s.salvage
	return src
}

func sourceID(m log.MachineID, path string) log.SourceID { return log.NewSourceID(m, path) }

// baseSeq is the log entry that the base stands in: this job's own PARTIAL,
// once there is one, which takes the place of the PARTIAL that was the base, and
// has all of the base that this job carries over.
func (src *sourceJob) baseSeq() uint64 {
	if src.partial != 0 {
		return src.partial
	}
	if !src.has || src.anew {
		return log.None
	}
	return src.base.Entry.Seq
}

// baseRoot is the root page of the base, or zero.
func (src *sourceJob) baseRoot() (root chunk.ID) {
	if src.has && !src.anew {
		root = src.base.Source.Root
	}
	return root
}

// fail ends a source for this job. The point has it without content; its
// earlier points stay what it is compared with.
func (j *job) fail(src *sourceJob, text string) {
	j.touchStatus(src, log.StatusFailed)
	j.stats.warnings.Add(1)
	j.s.note(Note{Failure, src.path, text})
}

// full is the path of a key below the source.
func (src *sourceJob) full(key []byte) string {
	if len(key) == 0 {
		return src.path
	}
	return strings.TrimSuffix(src.path, "/") + "/" + manifest.PathOf(key)
}

// CheckPaths tells, before anything is made, whether all paths are there.
func CheckPaths(paths []string) error {
	for _, p := range paths {
		if _, err := os.Lstat(p); err != nil {
			return fmt.Errorf("path %s: %w", p, cause(err))
		}
	}
	return nil
}

// cause strips the operation and the path off a file system's error.
func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// sourcePaths chooses a job's sources: the given paths, or those of this
// machine's newest point. A path inside another is dropped with a note.
func (s *Session) sourcePaths(o BackupOptions) (paths []string, notes []Note, err error) {
	paths = slices.Clone(o.Paths)
	if len(paths) == 0 {
		if paths = s.lastSources(); len(paths) == 0 {
			return nil, nil, ErrNoSources
		}
	}
	slices.SortFunc(paths, func(a, b string) int { return bytes.Compare(manifestOrder(a), manifestOrder(b)) })
	kept := paths[:0]
	for _, p := range paths {
		if n := len(kept); n > 0 && inside(p, kept[n-1]) {
			if p != kept[n-1] {
				notes = append(notes, Note{Info, p, "is inside " + kept[n-1] + ", which is backed up as a whole"})
			}
			continue
		}
		kept = append(kept, p)
	}
	if len(kept) > log.MaxSources {
		return nil, nil, fmt.Errorf("%d sources are more than the %d that a point can have", len(kept), log.MaxSources)
	}
	for _, p := range o.AcceptSources {
		if !slices.Contains(kept, p) {
			return nil, nil, fmt.Errorf("%s is to be accepted, but is no source of this backup", p)
		}
	}
	return kept, notes, nil
}

// manifestOrder sorts a folder directly before what it holds.
func manifestOrder(path string) []byte { return bytes.ReplaceAll([]byte(path), []byte{'/'}, []byte{0}) }

// inside tells whether path is dir or below it.
func inside(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir) && path[len(dir)] == '/'
}

// lastSources are the paths of this machine's newest point.
func (s *Session) lastSources() (paths []string) {
	points := s.vault.Log.State().Points()
	for _, p := range slices.Backward(points) {
		if p.Point.Machine != s.machine.ID || p.Forgotten != 0 {
			continue
		}
		for _, src := range p.Point.Sources {
			paths = append(paths, src.Path)
		}
		return paths
	}
	return nil
}
