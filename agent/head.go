package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/tharsis-backup/tharsis/agent/home"
	"github.com/tharsis-backup/tharsis/cache"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
)

// A machine remembers the newest entry of the vault's log that it has seen. A log
// without it is not the vault as it was: somebody put an older copy in its place, a
// copy that went another way, or another vault. Nothing is done with such a vault,
// not even read, until AcceptHead was told that it is meant.

// HeadChange is what AcceptHead is about to make a home believe.
type HeadChange struct {
	Kind ChangeKind
	// VaultID is the vault's; KnownID that of the vault which the home has used.
	VaultID, KnownID string
	// Known is the newest entry that this machine has seen, Found the vault's.
	Known, Found log.Head
	// Common is the newest entry that is in both logs, or log.NoEntry.
	Common log.Head
	// Seen tells whether the cache still had the log as this machine has seen it. Else
	// Common and Lost are not known.
	Seen bool
	// Lost are the points that this machine has seen and that the vault does not
	// have; deleted ones do not count. LostOwn counts those of this machine.
	Lost    []PointInfo
	LostOwn int
}

// ChangeKind says how a vault differs from what a machine has seen of it.
type ChangeKind string

// The kinds of change; "" is none: the vault continues what was seen.
const (
	ChangeOlder  ChangeKind = "older"
	ChangeForked ChangeKind = "forked"
	ChangeOther  ChangeKind = "another vault"
)

// AcceptHead makes the home take the vault at url (as Open finds it) for what it
// is, although it does not continue what this machine has seen. confirm is told of
// the difference, and its error ends the work with nothing changed. Where there is
// none it is not asked, and nothing is done.
//
// The home then knows the vault's head for the newest, the cache of before is
// gone, and so is the journal: packs that it speaks of may have vanished. Another
// vault is taken only with a secret that opens it; the keys of the one before stay
// in the home, for it may come back. The home must be locked.
func AcceptHead(ctx context.Context, env Environment, h *home.Home, url string, confirm func(HeadChange) error) (HeadChange, error) {
	s, err := Open(ctx, env, h, url)
	if err == nil {
		defer s.Close()
		head := s.vault.Log.Head()
		return HeadChange{VaultID: s.vaultID(), KnownID: s.vaultID(), Known: head, Found: head, Common: head, Seen: true}, nil
	}
	if !errors.Is(err, log.ErrRollback) && !errors.Is(err, log.ErrForked) {
		return HeadChange{}, err
	}
	s, known, err := connect(ctx, env, h, url)
	if err != nil {
		return HeadChange{}, err
	}
	defer s.Close()
	a := acceptance{s: s}
	if err := a.read(ctx, known); err != nil {
		return HeadChange{}, err
	}
	if err := a.compare(); err != nil {
		return HeadChange{}, err
	}
	if err := confirm(a.change); err != nil {
		return a.change, err
	}
	return a.change, a.store(ctx)
}

// acceptance is an AcceptHead under way.
type acceptance struct {
	s      *Session
	known  key.VaultID // the vault that the home has used here
	hashes [][32]byte  // of the entries of the vault's log, by seq
	seen   *log.State  // of the cache; nil where that is gone
	change HeadChange
}

// read opens the vault as one that this machine has never seen.
func (a *acceptance) read(ctx context.Context, known home.Vault) error {
	a.s.anew = func(at log.Head) { a.hashes = append(a.hashes[:at.Seq], at.Hash) }
	c, err := a.s.readConfig(ctx)
	if err != nil {
		return err
	}
	a.known = c.Vault
	if known.URL != "" {
		a.known = known.ID
	}
	return a.s.openVault(ctx, c)
}

// other tells whether it is another vault than the home's.
func (a *acceptance) other() bool { return a.known != a.s.vault.Config.Vault }

// has tells whether the vault's log holds an entry.
func (a *acceptance) has(h log.Head) bool {
	return h.Seq < uint64(len(a.hashes)) && a.hashes[h.Seq] == h.Hash
}

// compare finds out what is different.
func (a *acceptance) compare() error {
	s, c := a.s, &a.change
	c.VaultID, c.KnownID, c.Found, c.Common = s.vaultID(), fmt.Sprintf("%x", a.known), s.vault.Log.Head(), log.NoEntry
	head, _, err := s.home.Head(a.known)
	if err != nil {
		return err
	}
	c.Known = head.Head
	if err := a.recall(); err != nil {
		return err
	}
	switch {
	case a.other():
		c.Kind = ChangeOther
	case c.Seen && c.Common == c.Found, !c.Seen && c.Found.Seq < c.Known.Seq:
		c.Kind = ChangeOlder
	default:
		c.Kind = ChangeForked
	}
	if a.seen == nil {
		return nil
	}
	for _, p := range a.seen.Points() {
		if _, there := s.vault.Log.State().Point(p.Point.ID); there || p.Forgotten != 0 {
			continue
		}
		c.Lost = append(c.Lost, describe(a.seen, p))
		if p.Point.Machine == s.machine.ID {
			c.LostOwn++
		}
	}
	return nil
}

// recall replays the log as this machine has seen it, from the cache.
func (a *acceptance) recall() error {
	root := a.s.keys.Root
	if a.other() {
		k, kept, err := a.s.home.Keys(a.known)
		if err != nil || !kept {
			return err
		}
		root = k.Root
	}
	dir, err := cache.Open(a.s.home.CacheDir(), a.known)
	if err != nil {
		return err
	}
	c := &a.change
	state, ok := log.Recall(key.NewRing(a.known, root), log.FileCache(dir.LogPath()), func(at log.Head) {
		if !a.other() && a.has(at) {
			c.Common = at
		}
	})
	// A cache that ends before what the home knows cannot tell what is lost.
	if ok && state.Head().Seq >= c.Known.Seq {
		c.Seen, c.Known, a.seen = true, state.Head(), state
	}
	return nil
}

// store makes the home believe it. The head goes first: a home that is killed
// before the cache is gone refuses the vault by that, or finds that it is spoilt.
func (a *acceptance) store(ctx context.Context) error {
	s := a.s
	s.head.Commit = a.commit()
	if a.other() {
		if err := s.settle(ctx); err != nil {
			return err
		}
		before, err := cache.Open(s.home.CacheDir(), a.known)
		if err == nil {
			err = before.Wipe()
		}
		if err != nil {
			return err
		}
		return s.cache.Wipe()
	}
	if err := s.setHead(); err != nil {
		return err
	}
	return s.cache.Wipe()
}

// commit is what the home is to know as this machine's newest COMMIT. One that it
// cannot know for its own is left for identify to find.
func (a *acceptance) commit() log.Head {
	s := a.s
	last, ok := s.vault.Log.State().LastCommit(s.machine.ID)
	if !ok {
		return log.NoEntry
	}
	if last.Install == s.machine.Nonce {
		return last.Entry
	}
	if a.seen != nil {
		if p, known := a.seen.Point(last.Point); known && p.Entry == last.Entry {
			return last.Entry
		}
	}
	return s.head.Commit
}

// expect makes the log be looked at for Environment.ExpectHead while it is read;
// what it returns tells, once it was, whether that is there.
func (s *Session) expect(o *log.Options) func() error {
	want, found := s.env.ExpectHead, false
	o.Observe = func(_ *log.Entry, at log.Head) {
		if want != nil && at.Seq == want.Seq {
			found = at == *want // anew where a cache proved to be of another vault
		}
		if s.anew != nil {
			s.anew(at)
		}
	}
	return func() error {
		if want == nil || found {
			return nil
		}
		if head := s.vault.Log.Head(); head.Seq < want.Seq {
			return fmt.Errorf("%w: that is entry %d, and its newest is entry %d", ErrNotExpected, want.Seq, head.Seq)
		}
		return fmt.Errorf("%w: its entry %d is another one", ErrNotExpected, want.Seq)
	}
}

// vaultID is the vault's, in hex.
func (s *Session) vaultID() string { return fmt.Sprintf("%x", s.vault.Config.Vault) }
