// Package log reads and writes the vault's log: the chain of sealed, signed
// entries from which all that a vault is follows by replay (docs/FORMAT.md §10
// and §11).
//
// On the backend an entry is the object log/<seq>, and 256 of them together are
// bundle/<n>, which is only there to be read faster. Whoever creates log/<seq>
// first has that number: this is the vault's one commit point, and its lock.
// A writer holds and has checked the whole log below the number that it
// creates, so what it decides by is what the vault is (the fence): see Append.
//
// Errors: what does not open, does not continue the chain, is not signed, or is
// missing while later entries exist, wraps key.ErrDamaged; ErrRollback and
// ErrForked are for a log that is whole, but is not the one seen before. All
// others are the backend's. Entries without authority are no errors: they have
// no effect (State.Ignored counts them).
//
// A Log and its State may be used concurrently; a Log does one thing at a time.
// Memory grows with the State, not with the entries.
//
// Nothing that the backend returns is believed before it opened under the
// vault's keys and continued the chain. What a backend can do is to hold entries
// back; Options.Expect and the cache notice it where more was seen before. The
// package does not know packs, indexes or manifests, does not decide what may be
// deleted, never deletes, and never lists.
package log

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/key"
)

// Options changes how a log is read and written. The zero value works.
type Options struct {
	// Expect is an entry seen before, as a home keeps it: after reading, Open
	// checks that the log still has it.
	Expect *Head
	// Sole, where not nil, says that the backend's Put replaces what is there, so
	// that one machine alone may write. Append asks it with the State that its entry
	// would come after, and ends with its error; every Put is preceded by a look for
	// another's object and followed by reading back. It must not call the Log.
	Sole func(*State, Body) error
	// Cache holds the entries that this machine checked before. Nil: none.
	Cache Cache
	// Observe is called for every entry in order, from entry 0, once it was
	// checked and replayed; from entry 0 again where a cache proved to be of
	// another vault. It must not call the Log.
	Observe func(*Entry, Head)
	// Logger gets what does not stop the work: a damaged bundle, a lost cache.
	Logger *slog.Logger
	// Now is the clock that entries are dated by.
	Now func() time.Time
	// Rand gives nonces and jitter. It is read by one goroutine at a time.
	Rand io.Reader
	// Sleep waits between tries, or until ctx is done, whose error it returns.
	Sleep func(ctx context.Context, d time.Duration) error
}

// Log is a vault's log, read and checked up to its State's Head.
type Log struct {
	backend backend.Backend
	ring    *key.Ring
	opts    Options
	state   *State

	// turn holds a token while a goroutine reads or appends. It guards what is
	// below, and is a channel so that a context ends the wait for it.
	turn    chan struct{}
	next    uint64   // number of the first entry not yet read
	prev    [32]byte // hash of the entry before it
	plain   []byte   // buffer of openEntry
	cache   *recorder
	bundled uint64 // bundles below this number are known to exist
}

// Open reads a vault's log and checks all of it; of what the cache holds, only
// the chain, not the signatures again. The caller compares the vault's config
// with the State's Genesis. Where there is no entry 0 the error wraps
// backend.ErrNotFound, or is ErrRollback if more was seen before.
func Open(ctx context.Context, b backend.Backend, ring *key.Ring, opts Options) (*Log, error) {
	l := newLog(b, ring, opts)
	var err error
	if opts.Cache != nil {
		l.cache = newRecorder(ring, opts.Cache)
		err = l.replayCache()
	}
	cached := l.next
	if err == nil {
		err = l.refresh(ctx)
	}
	if err != nil && l.overruled(cached, err) {
		l = newLog(b, ring, opts)
		l.cache = newRecorder(ring, opts.Cache)
		if terr := opts.Cache.Truncate(0); terr != nil {
			l.dropCache(terr)
		}
		err = l.refresh(ctx)
	}
	if err != nil {
		return nil, err
	}
	if e := opts.Expect; e != nil && l.next <= e.Seq {
		return nil, l.shorter(ctx, e.Seq)
	}
	if l.next == 0 {
		return nil, fmt.Errorf("read log: no entry 0: %w", backend.ErrNotFound)
	}
	return l, nil
}

// overruled tells whether an error of Open may be the cache's alone, which then
// holds entries of another vault that once stood in this one's place. What Expect
// names was seen for certain; a cache that differs there, or does not reach as far,
// is no better witness, so the vault is read without it.
func (l *Log) overruled(cached uint64, err error) bool {
	other := errors.Is(err, ErrForked) || errors.Is(err, ErrRollback) || errors.Is(err, key.ErrDamaged)
	return other && l.cache != nil && l.opts.Expect != nil && cached > 0 && cached <= l.opts.Expect.Seq
}

func newLog(b backend.Backend, ring *key.Ring, opts Options) *Log {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Rand == nil {
		opts.Rand = rand.Reader
	}
	if opts.Sleep == nil {
		opts.Sleep = sleep
	}
	return &Log{backend: b, ring: ring, opts: opts, state: newState(), turn: make(chan struct{}, 1)}
}

// State is the replay of the log up to its Head. It is the same object for as
// long as the Log lives, and changes with Refresh and Append.
func (l *Log) State() *State { return l.state }

// Head is the newest entry read.
func (l *Log) Head() Head { return l.state.Head() }

// Refresh reads and checks what was appended since, and that the newest entry
// read before is still there: else the error is ErrRollback or ErrForked. After
// an error the State is that of the last entry that was whole.
func (l *Log) Refresh(ctx context.Context) error {
	if err := l.take(ctx); err != nil {
		return err
	}
	defer l.release()
	return l.refresh(ctx)
}

func (l *Log) take(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case l.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *Log) release() { <-l.turn }

// accept checks object as the next entry and replays it. After an error nothing
// has changed. With signed, its signature was checked before.
func (l *Log) accept(object []byte, signed bool) error {
	seq := l.next
	e, plain, err := openEntry(l.ring, seq, object, l.plain, signed)
	l.plain = plain
	if err != nil {
		return fmt.Errorf("log entry %d: %w", seq, err)
	}
	if e.Prev != l.prev {
		return fmt.Errorf("log entry %d: %w: it does not continue the entry before", seq, key.ErrDamaged)
	}
	if seq == 0 {
		if g, ok := e.Body.(*Genesis); !ok || g.Admin != e.Writer {
			return fmt.Errorf("log entry 0: %w: it is no GENESIS under its own admin key", key.ErrDamaged)
		}
	}
	head := Head{Seq: seq, Hash: sha256.Sum256(object)}
	if x := l.opts.Expect; x != nil && x.Seq == seq && x.Hash != head.Hash {
		return fmt.Errorf("%w (entry %d differs)", ErrForked, seq)
	}
	l.state.apply(e, head)
	l.next, l.prev = seq+1, head.Hash
	if l.opts.Observe != nil {
		l.opts.Observe(e, head)
	}
	return nil
}

// acceptNew is accept for what came from the backend: it goes to the cache too.
func (l *Log) acceptNew(object []byte) error {
	seq := l.next
	if err := l.accept(object, false); err != nil {
		return err
	}
	l.remember(seq, object)
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// isDamage tells errors of an object's content from errors of getting it.
func isDamage(err error) bool {
	return errors.Is(err, key.ErrDamaged) || errors.Is(err, key.ErrNewer)
}
