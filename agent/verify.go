package agent

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/index"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
)

// verify is one check of a vault under way. It reads the vault, never the cache.
type verify struct {
	s     *Session
	o     VerifyOptions
	depth packDepth    // how far every pack is looked into
	mends bool         // for a repair: what was given up and is needed by nothing is passed over
	v     *vault.Vault // on the backend alone, with a log read anew

	hashes      [][32]byte       // of the log entries, by seq
	sizes       map[string]int64 // of all objects that the backend lists
	listed      int64            // the sum of sizes
	named       map[string]bool  // objects that the log names, of those listed
	runs        []*runState
	blocks      *index.BlockCache // of runs
	index       *vault.Index
	summer      *index.Summer // nil: rows are not compared with directories
	packs       map[chunk.ID]*packState
	quarantined map[chunk.ID]bool // and not swept
	reads       *packReads
	point       *log.PointID

	objects, bytes atomic.Int64

	mu       sync.Mutex // guards the rest
	damage   []Damage
	damaged  int64
	harmless int64 // of damaged: nothing needs them
	reported time.Time

	lost lostCount // of who goes through the points
}

// checkCacheBytes bounds the decoded blocks of index runs that a check keeps: who looks
// many things up sorts them first.
const checkCacheBytes = 1 << 20

// newVerify is a check that has read nothing yet.
func (s *Session) newVerify(o VerifyOptions, depth packDepth) *verify {
	return &verify{
		s: s, o: o, depth: depth, named: map[string]bool{}, packs: map[chunk.ID]*packState{},
		blocks: index.NewBlockCache(checkCacheBytes),
	}
}

// Verify checks that all that the log names is there and fits together; with
// ReadData that every byte of it is as it was written, and with Sample a part of
// that. It returns ErrDamaged with a result that says what is not. With Quarantine
// the home must be locked.
func (s *Session) Verify(ctx context.Context, o VerifyOptions) (VerifyResult, error) {
	begun := s.now()
	if o.Sample < 0 || o.Sample > 100 || o.Sample > 0 && (o.ReadData || o.Point != "") {
		return VerifyResult{}, fmt.Errorf("a sample of %v %% cannot be read", o.Sample)
	}
	if o.Quarantine {
		if err := s.beginWriting(ctx); err != nil {
			return VerifyResult{}, err
		}
	}
	c := s.newVerify(o, depthLength)
	if o.ReadData {
		c.depth = depthData
	}
	err := c.run(ctx)
	c.reads.save(err == nil && c.point == nil)
	res := c.result()
	if err == nil && o.Quarantine {
		res.Quarantined, err = s.distrust(ctx, c, "found damaged or missing by a check")
	}
	res.Duration = s.now().Sub(begun)
	if err == nil && (res.Damaged > 0 || res.Hurt > 0) {
		err = ErrDamaged
	}
	return res, err
}

func (c *verify) result() VerifyResult {
	res := VerifyResult{
		Objects: c.objects.Load(), Bytes: c.bytes.Load(), Damage: c.damage, Damaged: c.damaged, Harmless: c.harmless,
		Hurt: c.lost.files, HurtPoints: int64(len(c.lost.points)), LostBytes: c.lost.bytes, Points: int64(len(c.points())),
	}
	for _, r := range c.runs {
		if r.bad && r.live {
			res.DamagedRuns++
		}
	}
	res.Read = c.reads.coverage()
	if c.point != nil {
		return res
	}
	for name := range c.sizes {
		if !c.named[name] {
			res.Unnamed++
		}
	}
	return res
}

func (c *verify) run(ctx context.Context) error {
	if c.o.Point != "" {
		p, err := c.s.resolve(c.o.Point, "", "")
		if err != nil {
			return err
		}
		c.point = &p.Point.ID
	}
	return c.steps(ctx, c.begin, c.checkKeys, c.checkLog, c.checkRuns, c.checkPacks, c.checkPoints, c.reportPacks)
}

func (c *verify) steps(ctx context.Context, all ...func(context.Context) error) error {
	for _, step := range all {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// begin reads what all other steps go by.
func (c *verify) begin(ctx context.Context) error {
	if err := c.steps(ctx, c.list, c.readLog); err != nil {
		return err
	}
	c.quarantined = map[chunk.ID]bool{}
	for _, id := range c.v.Log.State().Quarantined() {
		c.quarantined[id] = true
	}
	c.reads = c.s.packReads()
	if c.depth == depthLength && c.o.Sample == 0 {
		return nil
	}
	var err error
	c.summer, err = index.NewSummer(c.s.randomness())
	return err
}

// list asks the backend what it has. That is not believed: an object is missing
// only if it cannot be read, or not be found again.
func (c *verify) list(ctx context.Context) error {
	c.sizes = map[string]int64{}
	for info, err := range c.s.backend.List(ctx, "") {
		if err != nil {
			return fmt.Errorf("list the vault: %w", err)
		}
		c.sizes[info.Name] = info.Size
		c.listed += info.Size
	}
	return nil
}

// size is the length of an object. One that the list did not have is looked for
// once more: a list may be behind.
func (c *verify) size(ctx context.Context, name string) (int64, error) {
	if size, ok := c.sizes[name]; ok {
		return size, nil
	}
	for info, err := range c.s.backend.List(ctx, name) {
		if err != nil {
			return 0, fmt.Errorf("list the vault: %w", err)
		}
		if info.Name == name {
			return info.Size, nil
		}
	}
	return 0, backend.ErrNotFound
}

// readLog reads the whole log from the vault, checking the chain.
func (c *verify) readLog(ctx context.Context) error {
	head := c.s.vault.Log.Head()
	v, err := vault.Open(ctx, c.s.backend, c.s.keys.Root, nil, vault.Options{Logger: c.s.log, Log: log.Options{
		Expect: &head, Logger: c.s.log,
		Observe: func(_ *log.Entry, h log.Head) { c.hashes = append(c.hashes, h.Hash) },
	}})
	if err != nil {
		return err
	}
	c.v = v
	return nil
}

// object notes one object that the log names.
func (c *verify) object(name string) {
	c.mu.Lock()
	c.named[name] = true
	c.mu.Unlock()
	c.objects.Add(1)
	c.progress(name)
}

// whole reads a small object and compares its hash.
func (c *verify) whole(ctx context.Context, name string, want [32]byte, limit int64) ([]byte, error) {
	c.object(name)
	b, err := backend.ReadAll(ctx, c.s.backend, name, limit)
	if err != nil {
		if size, ok := c.sizes[name]; ok && size > limit {
			err = fmt.Errorf("%w: it is too long", key.ErrDamaged)
		}
		return nil, c.found(name, err)
	}
	c.bytes.Add(int64(len(b)))
	if sha256.Sum256(b) != want {
		c.bad(name, fmt.Errorf("%w: it is not what the log says", key.ErrDamaged))
		return nil, nil
	}
	return b, nil
}

// maxKeyObject is more than a config or a slot may have.
const maxKeyObject = 4 << 10

// checkKeys checks the config and the key slots against the log.
func (c *verify) checkKeys(ctx context.Context) error {
	st := c.v.Log.State()
	genesis, _ := st.Genesis()
	if _, err := c.whole(ctx, vault.ConfigName(), genesis.Config, maxKeyObject); err != nil {
		return err
	}
	for _, sl := range st.Slots() {
		if _, err := c.whole(ctx, vault.SlotName(key.SlotID(sl.ID)), sl.Hash, maxKeyObject); err != nil {
			return err
		}
	}
	return nil
}

// checkLog reads every entry by itself, and every bundle, whichever of them the
// log was read from.
func (c *verify) checkLog(ctx context.Context) error {
	var bundle []byte
	for seq, want := range c.hashes {
		if seq%log.BundleEntries == 0 {
			bundle = log.BundleHeader(nil)
		}
		b, err := c.whole(ctx, log.EntryName(uint64(seq)), want, log.MaxObjectBytes)
		if err != nil {
			return err
		}
		if b == nil {
			bundle = nil // damaged, as reported: the bundle is compared by what opens
		}
		if bundle != nil {
			bundle = log.AppendBundled(bundle, b)
		}
		if seq%log.BundleEntries == log.BundleEntries-1 {
			if err := c.checkBundle(ctx, uint64(seq)/log.BundleEntries, bundle, seq+1 < len(c.hashes)); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkBundle compares a bundle with the entries. It must be there once an
// entry follows it.
func (c *verify) checkBundle(ctx context.Context, n uint64, want []byte, must bool) error {
	name := log.BundleName(n)
	if _, listed := c.sizes[name]; !listed && !must {
		return nil
	}
	if want == nil {
		c.object(name)
		return nil
	}
	_, err := c.whole(ctx, name, sha256.Sum256(want), int64(len(want)))
	return err
}

func (c *verify) progress(name string) {
	rep := c.s.env.Report
	if rep == nil {
		return
	}
	c.mu.Lock()
	due := time.Since(c.reported) >= progressEvery
	if due {
		c.reported = time.Now()
	}
	c.mu.Unlock()
	if due {
		p := Progress{Phase: "verify", Files: c.objects.Load(), Bytes: c.bytes.Load(), Current: name}
		if c.o.ReadData && c.point == nil {
			p.TotalFiles, p.TotalBytes = int64(len(c.sizes)), c.listed
		}
		rep.Progress(p)
	}
}
