package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/index"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
	"github.com/tharsis-backup/tharsis/vault/manifest"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// packReadBytes is how much of a pack a check reads at once.
const packReadBytes = 1 << 20

// checkRuns checks every index run that was not swept: the live ones, and those
// that a merge superseded.
func (c *verify) checkRuns(ctx context.Context) (err error) {
	st := c.v.Log.State()
	ids := st.Runs()
	for _, r := range st.PendingRuns() {
		ids = append(ids, r.ID)
	}
	for _, id := range ids {
		name := index.Name(id)
		c.object(name)
		err := c.checkRun(ctx, id, name)
		if c.point != nil && isFinding(err) {
			continue // if the point needs it, it is hurt
		}
		if err := c.found(name, err); err != nil {
			return err
		}
	}
	c.index, err = c.v.OpenIndex(ctx, vault.IndexOptions{Tolerant: true})
	return err
}

func (c *verify) checkRun(ctx context.Context, id chunk.ID, name string) error {
	size, err := c.size(ctx, name)
	if err != nil {
		return err
	}
	run, err := index.OpenRun(ctx, c.v.Ring, id, index.ObjectSource(c.s.backend, name), size, nil)
	if err != nil {
		return err
	}
	if c.o.ReadData && c.point == nil {
		c.bytes.Add(size)
		if err := run.Verify(ctx); err != nil {
			return err
		}
	}
	for p, err := range run.Packs(ctx) {
		if err != nil {
			return err
		}
		c.packs[p.ID] = &packState{typ: p.Type, length: p.Length}
	}
	return nil
}

// checkPacks checks that every pack that an index run names is there, unless it
// was swept, and reads them all if asked to. For one point it is about the packs
// that the point needs.
func (c *verify) checkPacks(ctx context.Context) error {
	if c.point != nil {
		if err := c.keepNeeded(ctx); err != nil {
			return err
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(min(max(runtime.GOMAXPROCS(0), 2), maxWorkers))
	for id, p := range c.packs {
		if c.v.Log.State().Swept(id) {
			continue
		}
		name := pack.Name(id)
		c.object(name)
		size, err := c.size(ctx, name)
		switch {
		case errors.Is(err, backend.ErrNotFound):
			p.bad = true
			c.bad(name, backend.ErrNotFound)
			continue
		case err != nil:
			return errors.Join(err, g.Wait())
		case uint64(size) != p.length:
			p.bad = true
			c.bad(name, fmt.Errorf("%w: it has %d bytes and not %d", key.ErrDamaged, size, p.length))
			continue
		case !c.o.ReadData:
			continue
		}
		g.Go(func() error {
			err := c.readPack(ctx, id, p)
			if err != nil && isFinding(err) {
				p.bad = p.bad || len(p.badRec) == 0
			}
			return c.found(name, err)
		})
	}
	return g.Wait()
}

// keepNeeded forgets the packs that the point does not need. What of its list of
// files cannot be read is reported later.
func (c *verify) keepNeeded(ctx context.Context) error {
	needed := map[chunk.ID]*packState{}
	var locs []index.Location
	seen := map[chunk.ID]bool{}
	w := manifest.Walker{
		Reader: c.v.NewPages(c.index),
		Seen: func(page chunk.ID) bool {
			was := seen[page]
			seen[page] = true
			return was
		},
		Visit: func(ref manifest.Ref) (err error) {
			if locs, err = c.index.Find(ctx, ref.ID, locs[:0]); err != nil && !isFinding(err) {
				return err
			}
			for i := range locs {
				if p, ok := c.packs[locs[i].Pack]; ok {
					needed[locs[i].Pack] = p
				}
			}
			return nil
		},
		Damaged: func(_ []byte, _ chunk.ID, err error) error {
			if isFinding(err) {
				return nil
			}
			return err
		},
	}
	for _, p := range c.points() {
		for i := range p.Point.Sources {
			src := &p.Point.Sources[i]
			if src.Status == log.StatusFailed {
				continue
			}
			if err := w.Walk(ctx, src.Root); err != nil {
				return fmt.Errorf("find what the point needs: %w", err)
			}
		}
	}
	c.packs = needed
	return nil
}

// readPack reads one pack from end to end. A damaged record is noted, and the
// others are read all the same.
func (c *verify) readPack(ctx context.Context, id chunk.ID, p *packState) error {
	dir, err := pack.ReadDirectory(ctx, c.s.backend, c.v.Ring, p.typ, id, p.length)
	if err != nil {
		return err
	}
	o, err := pack.NewOpener(c.v.Ring, p.typ, id)
	if err != nil {
		return err
	}
	r, err := c.s.backend.Get(ctx, pack.Name(id), 0, int64(p.length))
	if err != nil {
		return err
	}
	defer r.Close()
	in := bufio.NewReaderSize(r, int(min(p.length, packReadBytes)))
	head := make([]byte, key.HeaderBytes)
	if err := readFull(in, head); err != nil {
		return err
	}
	if err := o.CheckHeader(head); err != nil {
		return err
	}
	if err := c.readRecords(in, o, &dir, p); err != nil {
		return err
	}
	c.bytes.Add(int64(p.length))
	c.progress(pack.Name(id))
	if n := len(p.badRec); n > 0 {
		return fmt.Errorf("%w: %d of %d records", key.ErrDamaged, n, len(dir.Records))
	}
	return nil
}

func (c *verify) readRecords(in io.Reader, o *pack.Opener, dir *pack.Directory, p *packState) error {
	dec, err := chunk.NewDecompressor()
	if err != nil {
		return err
	}
	hasher := chunk.NewHasher(c.v.Ring.ChunkID)
	if p.typ == key.TypeManifestPack {
		hasher = chunk.NewHasher(c.v.Ring.PageID)
	}
	var box, plain []byte
	for _, rec := range dir.Records {
		if err := readFull(in, grown(&box, int(rec.Stored))); err != nil {
			return err
		}
		out, err := o.OpenRecord(plain[:0], rec, box[:rec.Stored], dec)
		if err == nil {
			plain = out
			err = pack.CheckChunks(hasher, rec, out)
		}
		if err != nil {
			if p.badRec == nil {
				p.badRec = map[uint32]bool{}
			}
			p.badRec[rec.Number] = true
		}
	}
	return nil
}

func readFull(r io.Reader, p []byte) error {
	_, err := io.ReadFull(r, p)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it is too short", key.ErrDamaged)
	}
	return err
}
