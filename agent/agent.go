// Package agent is the engine: it backs sources up to a vault, restores points
// from it, and checks what it holds. It knows no flags, no terminal and no
// process: package cmd/agent turns those into the options here.
//
// # Reading order
//
// session.go opens a vault for a home; backup.go is one backup from end to end,
// with the commit point marked; restore.go is one restore; verify.go checks.
//
// # Errors
//
// What concerns one file of the source is a [Note] and never an error. An error
// of a Session's method ends the job; it is about the vault, the cache, the
// target or the request. The sentinels below, [home.ErrBusy] and
// [key.ErrWrongKey] are what a caller branches on.
//
// # Concurrency
//
// A Session is used by one goroutine. Any number of sessions, in any number of
// processes and machines, may use one vault at a time; a home lets one of them
// write.
package agent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/tharsis-backup/tharsis/agent/source"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/log"
)

// Errors that callers branch on.
var (
	// ErrNoVault is returned where there is no vault at the given place.
	ErrNoVault = errors.New("no vault there")
	// ErrVaultExists is returned by Init where a vault is already.
	ErrVaultExists = errors.New("a vault is there already")
	// ErrNoPoint is returned where no point fits what was asked for.
	ErrNoPoint = errors.New("no such point")
	// ErrNoPath is returned where a point has nothing under the given path.
	ErrNoPath = errors.New("no such path in the point")
	// ErrNoSources is returned by a backup that was told no path, on a machine
	// without a point to take them from.
	ErrNoSources = errors.New("nothing to back up")
	// ErrAllFailed is returned by a backup in which no source could be read.
	ErrAllFailed = errors.New("no source could be backed up")
	// ErrNotExpected is returned by Open where the log lacks Environment.ExpectHead.
	ErrNotExpected = errors.New("the vault's log does not hold the entry that was expected")
	// ErrDamaged is returned by Verify where something of the vault is not as it was written.
	ErrDamaged = errors.New("the vault is damaged")
)

// Version is the agent's own version, written into points.
const Version = "0.1.0-dev"

// Environment is what the engine is given from outside. The zero value works:
// the system's clock and randomness, no log, no reports, and no passphrase.
type Environment struct {
	Log   *slog.Logger
	Clock func() time.Time
	// Rand gives IDs, keys and jitter, but not the nonces of what is sealed: those are
	// always the system's. It may be read by several goroutines at a time.
	Rand io.Reader
	// Host is the machine's name as points show it; "" asks the system.
	Host string
	// Hardware names the machine's hardware; "" asks the system.
	Hardware string
	// Secret is asked for the vault's passphrase or recovery key when the home
	// holds no key of it. It returns the secret as given, without a line end.
	Secret func(ctx context.Context) (string, error)
	// Report receives notes and progress. Its methods are called by several
	// goroutines at a time.
	Report Reporter
	// IndexMemory is told how many bytes of a vault's index a job holds in memory,
	// which grow with the vault.
	IndexMemory func(bytes int64)
	// PartialEvery is how often a long job makes what it has stored part of the
	// vault, hidden, so that a lost cache does not lose it; 0: every 30 minutes.
	PartialEvery time.Duration
	// Sleep waits, or until ctx is done, whose error it returns. Nil: a timer.
	Sleep func(ctx context.Context, d time.Duration) error
	// ExpectHead, where not nil, is an entry that a vault's log must hold to be
	// opened: what a machine goes by that has not seen the vault before.
	ExpectHead *log.Head
	// Wrap decorates the backend, once it is open. Nil: it is used as it is.
	Wrap func(backend.Backend) backend.Backend

	// weaken replaces what the fence says of a state, for tests that show what a weaker
	// one loses. Nil everywhere else.
	weaken func(st *log.State, verdict error) error

	// shrink divides the sizes of packs and of what is grouped in them, for tests by which
	// a small vault fares like a large one. 0 everywhere else.
	shrink int

	hook source.Hook // for tests: told of each step of reading sources
}

// sized is a size of packs or records, as [Environment] has it.
func (e *Environment) sized(bytes int) int { return bytes / max(e.shrink, 1) }

// partialEvery is how often a long job makes what it has stored part of the vault.
func (e *Environment) partialEvery() time.Duration {
	if e.PartialEvery > 0 {
		return e.PartialEvery
	}
	return partialEvery
}

// Reporter is told what happens while a job runs.
type Reporter interface {
	// Note tells of one thing that a user may want to know.
	Note(Note)
	// Progress tells how far the job is; it is called at most a few times a second.
	Progress(Progress)
}

// Severity ranks notes.
type Severity uint8

// The severities. Only warnings and failures about what is backed up make a job
// "with warnings".
const (
	Info    Severity = iota + 1 // worth knowing: a socket was skipped, a file vanished
	Warning                     // content is missing or doubtful: unreadable, unstable
	Failure                     // a whole source failed, or an entry was not restored
)

// Note is one message about one path.
type Note struct {
	Severity Severity
	Path     string // absolute, raw; "" where it is about no path
	Text     string // lower case, no final period: "permission denied"
}

// Progress is a snapshot of a job's counters. Totals are 0 while unknown.
type Progress struct {
	Phase        string // "scan", "read", "commit", "restore", "verify"
	Files, Bytes int64  // done
	TotalFiles   int64
	TotalBytes   int64
	Current      string // path in work
}

// Status is DESIGN's word for how a job ended.
type Status string

// The states of a finished job.
const (
	Completed             Status = "Completed"
	CompletedWithWarnings Status = "CompletedWithWarnings"
	Failed                Status = "Failed"
	Cancelled             Status = "Cancelled"
)

// BackupOptions say what to back up.
type BackupOptions struct {
	// Paths are absolute paths, each a source; empty: the sources of this
	// machine's newest point.
	Paths         []string
	Excludes      []string // gitignore-style patterns
	ExcludeFiles  []string // files of such patterns
	CrossMounts   bool
	Tags          map[string]string
	AcceptSources []string // sources to take although they were emptied or moved to another file system
	DryRun        bool
}

// BackupResult is what a backup did.
type BackupResult struct {
	Point           string // 32 hex digits; "" for a dry run
	Status          Status
	FilesNew        int64
	FilesChanged    int64
	FilesUnmodified int64
	FilesGone       int64
	BytesRead       int64 // from files
	BytesAdded      int64 // plaintext of new chunks
	BytesStored     int64 // put into the vault
	Warnings        int64
	Duration        time.Duration
	Resumed         bool     // took up the work of a job that was killed
	Head            log.Head // of the vault's log, at the end of the job
}

// PointInfo describes a point.
type PointInfo struct {
	ID        log.PointID
	Time      time.Time // when the job started: the state that the point shows
	Ended     time.Time
	Machine   string
	MachineID log.MachineID
	Sources   []SourceInfo
	Files     int64
	Bytes     int64
	NewBytes  int64 // stored in the vault for this point
	Status    Status
	Tags      map[string]string
	Suspect   bool

	Held       bool // kept from being deleted and purged
	HoldReason string

	Deleted      bool // soft-deleted: it can be restored by its ID, and brought back
	DeletedAt    time.Time
	ForgetReason string
	// PurgeFrom is from when on a deleted point may be purged; zero while that time
	// does not run, as nobody with the admin key noted the deletion or it is held.
	PurgeFrom time.Time
}

// SourceInfo describes one source of a point.
type SourceInfo struct {
	Path   string
	Status string // "complete", "with warnings", "suspect", "failed"
	Files  int64
	Bytes  int64
}

// PointFilter selects points; zero fields select all.
type PointFilter struct {
	Machine string // host name or a start of the machine ID
	Source  string // path of a source
	Deleted bool   // those that were deleted and not purged, instead of the others
}

// RestoreOptions say what to restore, where to, and what to do about what is there.
type RestoreOptions struct {
	Point    string // "latest", a time, or a start of a point ID
	Machine  string
	Source   string
	Target   string // "" restores to where it was
	Paths    []string
	Includes []string
	Excludes []string
	Conflict string // "copy" (default), "overwrite", "skip", "newer"
	DryRun   bool
}

// RestoreResult is what a restore did.
type RestoreResult struct {
	Point    string
	Status   Status
	Restored int64 // entries made
	Skipped  int64 // entries left as they were
	Failed   int64 // entries that could not be made whole
	Bytes    int64 // written to files
	Notes    int64
	Duration time.Duration
}

// VerifyOptions say how deep to look.
type VerifyOptions struct {
	ReadData bool
	// Sample, above 0, is how many percent of the packs' bytes are read: those that no
	// check of this machine has read, then those read longest ago. It goes with
	// neither ReadData nor Point.
	Sample float64
	Point  string // only what this point needs
	// Quarantine takes trust from packs that are damaged or missing, so that the next
	// backups store again what they still have of their content.
	Quarantine bool
}

// VerifyResult is what a check found.
type VerifyResult struct {
	Objects     int64 // objects looked at
	Bytes       int64 // bytes read
	Unnamed     int64 // objects that no log entry names: left by killed jobs
	Points      int64
	Damage      []Damage // at most MaxDamageReports
	Damaged     int64    // damaged, missing or misplaced objects, all counted
	Harmless    int64    // of these: they were given up before, and nothing needs them
	DamagedRuns int64    // of these: index runs that are in use
	Quarantined int64    // packs that this check put into quarantine
	Hurt        int64    // files of points that damage reaches, all counted
	HurtPoints  int64    // points that these are of
	LostBytes   int64    // of these files' content
	Read        ReadCoverage
	Duration    time.Duration
}

// MaxDamageReports bounds the damage that a check keeps in memory to name;
// what is beyond is counted.
const MaxDamageReports = 1000

// Damage is one damaged object, or one file of a point that it hurts.
type Damage struct {
	Object     string // name in the vault, "" for a hurt file
	Point      string // of a hurt file
	Unfinished bool   // that point is one that a job has not finished yet
	Path       string
	Text       string
}

// Entry is one entry of a point as listings show it.
type Entry struct {
	Path   string // absolute, raw
	Kind   string // "dir", "file", "symlink", "block", "char", "fifo"
	Mode   uint32
	UID    uint32
	GID    uint32
	User   string
	Group  string
	Size   int64
	MTime  time.Time
	Target string
	Stale  bool
	// Unstable marks a file that changed while it was read.
	Unstable bool
}

// Version of a file: which points have it in this state.
type FoundVersion struct {
	Entry
	Points []string // IDs, oldest first
	Times  []time.Time
}

// Change is a difference between two points.
type Change struct {
	Kind string // "+" added, "-" gone, "M" content changed, "U" only metadata changed
	Path string
}
