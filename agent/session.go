package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/tharsis-backup/tharsis/agent/home"
	"github.com/tharsis-backup/tharsis/cache"
	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/backend/location"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
)

// Session is a vault opened for a home.
type Session struct {
	env     Environment
	log     *slog.Logger
	home    *home.Home
	machine home.Machine
	host    string

	place   location.Location
	backend backend.Backend
	reserve reserve // of the backend; nil where it has none
	full    bool    // the backend had no room, and the reserve was given free
	cache   *cache.Dir
	objects *cache.Objects
	vault   *vault.Vault // read through the cache
	direct  *vault.Vault // the vault alone
	keys    home.Keys
	head    home.Head // as the home knew it
	seen    bool      // it knew one
	// anew, where set, is told of each entry of a log that is read as if this
	// machine had never seen it.
	anew func(log.Head)

	remember bool           // the home had no vault: it takes this one
	holds    bool           // this session took the home's lock
	kept     bool           // the keys came from the home
	salvage  bool           // a backup met damage, and goes on without what is damaged
	rebuilt  *vault.Rebuild // what stands in for a damaged index; nil while none is needed
	// private are paths that no backup reads: the home, and a local vault.
	private []string
}

// Open opens the vault at url, or where url is "" the one that the home
// remembers. The key is the home's, or is asked for by Environment.Secret.
// Whether the log continues what the home has seen is checked here: where it
// does not, the error is log.ErrRollback or log.ErrForked, and AcceptHead is how
// to go on. ErrNotExpected is for Environment.ExpectHead.
func Open(ctx context.Context, env Environment, h *home.Home, url string) (*Session, error) {
	s, known, err := connect(ctx, env, h, url)
	if err != nil {
		return nil, err
	}
	if err := s.open(ctx, known); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// connect opens the backend of the vault at url, or of the one that the home
// remembers. What the home knows of that is zero where it is another one.
func connect(ctx context.Context, env Environment, h *home.Home, url string) (s *Session, known home.Vault, err error) {
	s = &Session{env: env, log: env.Log, home: h}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	known, has, err := h.Vault()
	if err != nil {
		return nil, known, err
	}
	if url == "" {
		if !has {
			return nil, known, ErrNoVault
		}
		url = known.URL
	}
	s.remember = !has
	if s.place, err = location.Parse(url); err != nil {
		return nil, known, fmt.Errorf("vault %s: %w", url, err)
	}
	if known.URL != s.place.String() {
		known = home.Vault{}
	}
	return s, known, s.openBackend(ctx)
}

func (s *Session) openBackend(ctx context.Context) (err error) {
	s.backend, err = location.Open(ctx, s.place)
	if errors.Is(err, backend.ErrNotFound) {
		return fmt.Errorf("%s: %w", s.place, ErrNoVault)
	}
	if err != nil {
		return fmt.Errorf("open vault %s: %w", s.place, err)
	}
	s.reserve, _ = s.backend.(reserve)
	if wrap := s.env.Wrap; wrap != nil {
		s.backend = wrap(s.backend)
	}
	return nil
}

func (s *Session) open(ctx context.Context, known home.Vault) error {
	c, err := s.readConfig(ctx)
	if err != nil {
		return err
	}
	if known.URL != "" && known.ID != c.Vault {
		return fmt.Errorf("%s: %w: it is another vault than the one that this machine uses", s.place, log.ErrForked)
	}
	return s.openVault(ctx, c)
}

func (s *Session) readConfig(ctx context.Context) (key.Config, error) {
	c, _, err := vault.ReadConfig(ctx, s.backend)
	if errors.Is(err, vault.ErrNone) {
		return c, fmt.Errorf("%s: %w", s.place, ErrNoVault)
	}
	if err != nil {
		return c, err
	}
	s.machine, err = s.home.Machine(s.env.Rand, s.env.hardware())
	return c, err
}

// openVault gets the keys, the home's or by a secret, and reads the log.
func (s *Session) openVault(ctx context.Context, c key.Config) (err error) {
	if s.keys, s.kept, err = s.home.Keys(c.Vault); err != nil {
		return err
	}
	if s.kept {
		return s.openLog(ctx, c, nil)
	}
	return s.unlock(ctx, c, func(slot vault.Slot) error { return s.openLog(ctx, c, &slot) })
}

// unlock asks for a secret and opens a slot with it that accept takes, which is
// called with the keys in place.
func (s *Session) unlock(ctx context.Context, c key.Config, accept func(vault.Slot) error) error {
	if s.env.Secret == nil {
		return fmt.Errorf("%w: none was given", key.ErrWrongKey)
	}
	text, err := s.env.Secret(ctx)
	if err != nil {
		return err
	}
	_, _, err = unlockWith(ctx, s.backend, c, text, func(sec key.Secrets, slot vault.Slot) error {
		s.keys = home.Keys{Root: sec.Root, Admin: sec.AdminSeed[:]}
		return accept(slot)
	})
	return err
}

// named accepts a slot that the log names.
func (s *Session) named(slot vault.Slot) error {
	if !s.vault.Names(slot) {
		return fmt.Errorf("%w: this passphrase or key was taken out of use", key.ErrWrongKey)
	}
	return nil
}

// unlockWith opens a slot with what a user typed. What cannot be a passphrase
// is a wrong one.
func unlockWith(ctx context.Context, b backend.Backend, c key.Config, text string,
	accept func(key.Secrets, vault.Slot) error) (key.Secrets, vault.Slot, error) {
	with, err := key.ParseCredential([]byte(text))
	if err != nil {
		return key.Secrets{}, vault.Slot{}, fmt.Errorf("%w: %w", key.ErrWrongKey, err)
	}
	return vault.Unlock(ctx, b, c, with, accept)
}

func (s *Session) openLog(ctx context.Context, c key.Config, slot *vault.Slot) (err error) {
	if s.cache, err = cache.Open(s.home.CacheDir(), c.Vault); err != nil {
		return err
	}
	s.objects = s.cache.Over(s.backend)
	o := vault.Options{Logger: s.log, Rand: s.env.Rand, Log: log.Options{
		Logger: s.log, Now: s.env.Clock, Rand: s.env.Rand, Sleep: s.env.Sleep, Sole: s.sole,
	}}
	if s.head, s.seen, err = s.home.Head(c.Vault); err != nil {
		return err
	}
	if !s.seen {
		s.head.Commit = log.NoEntry
	}
	if s.anew == nil {
		o.Log.Cache = log.FileCache(s.cache.LogPath())
		if s.seen {
			o.Log.Expect = &s.head.Head
		}
	}
	expected := s.expect(&o.Log)
	if s.vault, err = vault.Open(ctx, s.objects, s.keys.Root, slot, o); err != nil {
		return err
	}
	if s.vault.Config != c {
		return fmt.Errorf("read config: %w: it changed", key.ErrDamaged)
	}
	if err := expected(); err != nil {
		return err
	}
	s.direct = s.vault.On(s.backend)
	s.host = s.env.Host
	if s.host == "" {
		s.host, _ = os.Hostname()
	}
	s.private = []string{s.home.Dir}
	if s.place.Scheme == location.SchemeFile {
		s.private = append(s.private, filepath.Clean(s.place.Path))
	}
	return nil
}

// Close frees the session. It stores nothing.
func (s *Session) Close() error {
	if s.rebuilt != nil {
		s.rebuilt.Close()
	}
	if s.holds {
		s.holds = false
		s.home.Unlock()
	}
	return s.backend.Close()
}

// Remember makes a home that has no vault keep this one, with its keys, so that
// later commands need neither URL nor passphrase; while another process writes to
// that home it does nothing. In any other home it keeps the log's head as seen. A
// command calls it when it has succeeded.
func (s *Session) Remember(ctx context.Context) error {
	if !s.remember {
		if err := s.saveHead(); err != nil {
			s.log.Warn("remember the log's head", "err", err) // a home that cannot be written to can be read from
		}
		return nil
	}
	if !s.home.Locked() {
		if err := s.home.Lock(); errors.Is(err, home.ErrBusy) {
			return nil
		} else if err != nil {
			return err
		}
		defer s.home.Unlock()
	}
	if _, has, err := s.home.Vault(); has || err != nil {
		return err
	}
	return s.settle(ctx)
}

// settle makes the home keep this vault, as it is, as the one that it uses. Its URL
// goes last: it is what later commands go by. A machine that may not write to the
// vault stays unknown there.
func (s *Session) settle(ctx context.Context) error {
	if !s.readOnly() {
		if err := s.enrol(ctx); err != nil {
			return err
		}
	}
	if err := s.home.SetKeys(s.vault.Config.Vault, s.keysToKeep()); err != nil {
		return err
	}
	if err := s.setHead(); err != nil {
		return err
	}
	s.remember = false
	return s.home.SetVault(s.place.String(), s.vault.Config.Vault)
}

// keysToKeep are the keys that an unattended machine needs: the admin key only
// where it is the vault's only machine, for prunes that nobody attends.
func (s *Session) keysToKeep() home.Keys {
	k := home.Keys{Root: s.keys.Root}
	if others := s.vault.Log.State().Machines(); len(others) == 0 || len(others) == 1 && others[0].ID == s.machine.ID {
		k.Admin = s.keys.Admin
	}
	return k
}

// saveHead stores the log's head as what this machine has seen, unless the home
// knows a newer one already.
func (s *Session) saveHead() error { return s.updateHead(nil) }

// committed is saveHead, with this machine's newest COMMIT. The home must be locked.
func (s *Session) committed(entry log.Head) error { return s.updateHead(&entry) }

func (s *Session) updateHead(commit *log.Head) error {
	head := s.vault.Log.Head()
	if s.seen && commit == nil && head == s.head.Head {
		return nil
	}
	return s.home.UpdateHead(s.vault.Config.Vault, func(h home.Head) home.Head {
		if h.Head.Seq < head.Seq || h.Head == (log.Head{}) {
			h.Head = head
		}
		if commit != nil {
			h.Commit = *commit
		}
		s.head, s.seen = h, true
		return h
	})
}

// setHead makes the home believe the log as it is, also where it knows a newer head.
func (s *Session) setHead() error {
	s.head.Head, s.seen = s.vault.Log.Head(), true
	return s.home.SetHead(s.vault.Config.Vault, s.head)
}

// refresh reads the log up to its head.
func (s *Session) refresh(ctx context.Context) error {
	return s.vault.Refresh(ctx)
}

func (s *Session) now() time.Time {
	if s.env.Clock != nil {
		return s.env.Clock()
	}
	return time.Now()
}

// randomness is the environment's, or the system's.
func (s *Session) randomness() io.Reader {
	if s.env.Rand != nil {
		return s.env.Rand
	}
	return rand.Reader
}

func (s *Session) random(b []byte) error {
	if _, err := io.ReadFull(s.randomness(), b); err != nil {
		return fmt.Errorf("draw random bytes: %w", err)
	}
	return nil
}

func (s *Session) note(n Note) {
	if s.env.Report != nil {
		s.env.Report.Note(n)
	}
}

// indexOptions set up an index; keep is for jobs that look up many new chunks.
func (s *Session) indexOptions(keep bool) vault.IndexOptions {
	return vault.IndexOptions{Keep: keep, FilterDir: s.cache.FilterDir()}
}

// keepCopy puts an object that was just stored into the cache.
func (s *Session) keepCopy(name string, body io.ReaderAt, size int64) {
	if err := s.objects.Add(name, body, size); err != nil {
		s.log.Warn("keep a copy", "err", err)
	}
}

// pages reads manifest pages through an index.
func (s *Session) pages(x *vault.Index) *vault.Pages { return s.vault.NewPages(x) }
