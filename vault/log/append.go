package log

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/tharsis-backup/tharsis/internal/stage"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/key"
)

// ErrNoAuthority is for an entry that would have no effect: its writer may not
// write it, or not any more.
var ErrNoAuthority = errors.New("the key has no authority for this entry")

const (
	// firstPause and maxPause bound the wait before a try: it doubles from one to
	// the other, and a random part of it is waited. The lower bound is the time
	// of a round trip to a near store, the upper one what a user stands.
	firstPause = 50 * time.Millisecond
	maxPause   = 5 * time.Second

	// putTries bounds how often a Put of unknown outcome is tried, and so how long
	// a store may be away beyond what the retries below the log ride out.
	putTries = 5
)

// Append appends the entry whose body build gives, signed by signer, and
// returns it as the new head.
//
// build is called with the State as of the entry before: when it returns, all
// that it saw still holds for the entry that is then created, or that entry is
// not created and build is called again, with a newer State. It is where a job
// checks that what it refers to is still there (State.Usable, Stands, RunGone),
// and its error ends the Append. It must not call the Log.
//
// Lost races are retried for as long as ctx lasts. An unclear outcome of a Put
// is settled by reading back; if it cannot be, the error says that the outcome
// is unknown: the entry may be in the log, or appear there. A later Append finds
// it, if it is a COMMIT: one of a point that its machine already committed is
// done, and the entry of then is returned.
func (l *Log) Append(ctx context.Context, signer ed25519.PrivateKey, build func(*State) (Body, error)) (Head, error) {
	if err := l.take(ctx); err != nil {
		return Head{}, err
	}
	defer l.release()
	defer l.flush()
	if err := l.refresh(ctx); err != nil {
		return Head{}, err
	}
	for try := 0; ; try++ {
		body, err := build(l.state)
		if err != nil {
			return Head{}, err
		}
		if l.opts.Sole != nil {
			if err := l.opts.Sole(l.state, body); err != nil {
				return Head{}, err
			}
		}
		if at, done, err := l.state.done(body); done || err != nil {
			return at, err
		}
		won, err := l.tryAppend(ctx, signer, body)
		if err != nil {
			return Head{}, fmt.Errorf("append %s as log entry %d: %w", body.Type(), l.next, err)
		}
		if won {
			return l.Head(), nil
		}
		if err := l.pause(ctx, try); err != nil {
			return Head{}, err
		}
		if err := l.advance(ctx, nil); err != nil {
			return Head{}, err
		}
	}
}

// done tells whether an entry already did what body is to do, and which.
func (s *State) done(body Body) (Head, bool, error) {
	c, ok := body.(*Commit)
	if !ok {
		return Head{}, false, nil
	}
	p, ok := s.Point(c.ID)
	if !ok {
		return Head{}, false, nil
	}
	if p.Point.Machine != c.Machine || p.Point.Install != c.Install {
		return Head{}, false, fmt.Errorf("append COMMIT: point %s was committed by another machine", c.ID)
	}
	return p.Entry, true, nil
}

// tryAppend creates entry l.next, or returns false where another was faster.
func (l *Log) tryAppend(ctx context.Context, signer ed25519.PrivateKey, body Body) (bool, error) {
	object, err := l.sealNext(signer, body)
	if err != nil {
		return false, err
	}
	if err := l.ensureBundle(ctx); err != nil {
		return false, err
	}
	won, err := l.createEntry(ctx, l.next, object)
	if err != nil || !won {
		return false, err
	}
	if l.opts.Sole != nil {
		if err := l.checkBuiltOn(ctx); err != nil {
			return false, err
		}
	}
	seq := l.next
	raw, err := object.All()
	if err == nil {
		err = l.accept(raw, true)
	}
	if err != nil {
		return false, err
	}
	l.remember(seq, raw)
	return true, nil
}

// checkBuiltOn tells, where Put replaces, whether entry l.next was put in the place
// of one that another machine had already built on, which breaks the log.
func (l *Log) checkBuiltOn(ctx context.Context) error {
	later, err := l.exists(ctx, entryName(l.next+1))
	if err == nil && later {
		err = fmt.Errorf("%w: another machine wrote at the same time, and its entry was replaced", key.ErrDamaged)
	}
	return err
}

// sealNext gives an object for entry l.next, which was opened and checked as a
// reader will.
func (l *Log) sealNext(signer ed25519.PrivateKey, body Body) (*stage.Bytes, error) {
	e := &Entry{Seq: l.next, Prev: l.prev, Time: l.opts.Now().UnixNano(), Body: body}
	if _, err := io.ReadFull(l.opts.Rand, e.Nonce[:]); err != nil {
		return nil, fmt.Errorf("draw a nonce: %w", err)
	}
	object, err := e.sealVerified(l.ring, signer)
	if err != nil {
		return nil, err
	}
	if !l.state.mayWrite(e) {
		return nil, ErrNoAuthority
	}
	return object, nil
}

func (s *State) mayWrite(e *Entry) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.authorized(e)
}

// createEntry creates an entry's object, or returns false where there is another.
func (l *Log) createEntry(ctx context.Context, seq uint64, object *stage.Bytes) (bool, error) {
	name := entryName(seq)
	return l.create(ctx, name, object, object.Len(), func(ctx context.Context) (bool, bool, error) {
		there, err := l.get(ctx, name)
		if err != nil {
			return false, false, err
		}
		ours, err := object.All()
		return there != nil, bytes.Equal(there, ours), err
	})
}

// create puts an object and returns whether it is there and ours. settle tells
// whether there is one, and whether it is ours: after any error of Put, since
// even ErrExists may speak of our own earlier try, made again further down.
// Where there is none, it may still appear, so the same bytes are put again. One
// that is not durable cannot be settled: to find it proves nothing. Where Put
// replaces (Options.Sole), it is asked before as well, and after a Put that
// succeeded: another that was put in between is left to have the name.
func (l *Log) create(ctx context.Context, name string, body io.ReaderAt, size int64,
	settle func(context.Context) (found, ours bool, err error)) (bool, error) {
	replaces := l.opts.Sole != nil
	for try := 0; ; try++ {
		if replaces {
			if found, ours, err := settle(ctx); found || err != nil {
				return ours, err
			}
		}
		putErr := l.backend.Put(ctx, name, body, size)
		if putErr == nil && !replaces {
			return true, nil
		}
		if errors.Is(putErr, backend.ErrNotDurable) {
			return false, fmt.Errorf("create %s: the outcome is unknown: %w", name, putErr)
		}
		found, ours, err := settle(ctx)
		if err == nil && found {
			return ours, nil
		}
		if err == nil && putErr == nil {
			err = errors.New("it was stored, and is not there")
		}
		if try+1 == putTries || ctx.Err() != nil {
			return false, fmt.Errorf("create %s: the outcome is unknown: %w", name, errors.Join(putErr, err))
		}
		if err := l.pause(ctx, try); err != nil {
			return false, fmt.Errorf("create %s: the outcome is unknown: %w", name, errors.Join(putErr, err))
		}
	}
}

// pause waits for a random part of a time that doubles with every try.
func (l *Log) pause(ctx context.Context, try int) error {
	var b [8]byte
	if _, err := io.ReadFull(l.opts.Rand, b[:]); err != nil {
		return fmt.Errorf("draw a pause: %w", err)
	}
	most := maxPause
	if try < 16 {
		most = min(firstPause<<try, maxPause)
	}
	return l.opts.Sleep(ctx, time.Duration(binary.LittleEndian.Uint64(b[:])%uint64(most)))
}

// Create makes the log of a new vault: entry 0, signed by the admin key that g
// names. Where there is one the error wraps backend.ErrExists. Of opts it uses
// Now, Rand and Sleep.
func Create(ctx context.Context, b backend.Backend, ring *key.Ring, admin ed25519.PrivateKey, g Genesis, opts Options) error {
	if g.Admin != PublicOf(admin) {
		return fmt.Errorf("create log: the signer is not the admin that GENESIS names")
	}
	l := newLog(b, ring, opts)
	object, err := l.sealNext(admin, &g)
	if err != nil {
		return fmt.Errorf("create log: %w", err)
	}
	won, err := l.createEntry(ctx, 0, object)
	if err != nil {
		return fmt.Errorf("create log: %w", err)
	}
	if !won {
		return fmt.Errorf("create log: %w", backend.ErrExists)
	}
	return nil
}
