package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// packReadBytes is how much of a pack a check reads at once.
const packReadBytes = 1 << 20

// packDepth is how far a check looks into a pack.
type packDepth uint8

const (
	depthLength    packDepth = iota // whether it is there, with its length
	depthDirectory                  // also its directory, against the index
	depthData                       // every byte
)

// packState is what a check knows of a pack.
type packState struct {
	typ    uint8
	length uint64
	rows   []packRows // what each run says of it, where they are compared
	depth  packDepth

	wrong    error           // what is wrong with the object, nil where nothing is known
	absent   bool            // it is missing, or has another length
	bad      bool            // nothing of it can be read, or it was swept
	noRows   bool            // its directory cannot be read: its records are found by the index's rows
	badRec   map[uint32]bool // damaged records, by number
	disputed *pack.Directory // where a run says otherwise: what is right
	needed   bool            // something of it that points need is nowhere else whole
}

// checkPacks checks that every pack that an index run names is there, unless it
// was swept, and looks into as many as it is asked to. For one point it is about
// the packs that the point needs.
func (c *verify) checkPacks(ctx context.Context) error {
	if c.point != nil {
		if err := c.keepNeeded(ctx); err != nil {
			return err
		}
	}
	var sound []chunk.ID
	for id, p := range c.packs {
		if c.v.Log.State().Swept(id) {
			p.bad = true
			continue
		}
		c.reads.know(id, p.length)
		ok, err := c.checkLength(ctx, id, p)
		if err != nil {
			return err
		}
		if ok {
			sound = append(sound, id)
		}
	}
	c.chooseDepth(sound)
	if err := c.lookInto(ctx, sound); err != nil {
		return err
	}
	return c.readByRows(ctx, sound)
}

// checkLength tells whether a pack is there with the length that a run gives it.
func (c *verify) checkLength(ctx context.Context, id chunk.ID, p *packState) (bool, error) {
	name := pack.Name(id)
	c.object(name)
	size, err := c.size(ctx, name)
	switch {
	case errors.Is(err, backend.ErrNotFound):
		p.absent, p.bad, p.wrong = true, true, backend.ErrNotFound
		return false, nil
	case err != nil:
		return false, err
	}
	for i := range p.rows {
		if r := &p.rows[i]; r.length == uint64(size) {
			p.typ, p.length = r.typ, r.length
		}
	}
	if uint64(size) != p.length {
		p.absent, p.bad, p.wrong = true, true, fmt.Errorf("%w: it has %d bytes and not %d", key.ErrDamaged, size, p.length)
		return false, nil
	}
	return true, nil
}

// chooseDepth decides how far each pack is looked into. Those in quarantine are
// always read, as something is known to be wrong with them.
func (c *verify) chooseDepth(sound []chunk.ID) {
	for _, id := range sound {
		p := c.packs[id]
		p.depth = c.depth
		if c.quarantined[id] {
			p.depth = depthData
		}
	}
	if c.o.Sample == 0 {
		return
	}
	for _, id := range c.reads.choose(c.packs, sound, c.o.Sample) {
		c.packs[id].depth = depthData
	}
}

// lookInto looks into packs, several at a time. What it finds is noted, and only
// errors that say nothing about the vault end it.
func (c *verify) lookInto(ctx context.Context, ids []chunk.ID) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(min(max(runtime.GOMAXPROCS(0), 2), maxWorkers))
	for _, id := range ids {
		p := c.packs[id]
		if p.depth == depthLength {
			continue
		}
		g.Go(func() error {
			err := c.readPack(ctx, id, p)
			if err != nil && !isFinding(err) {
				return fmt.Errorf("check %s: %w", pack.Name(id), err)
			}
			p.wrong = err
			if p.depth == depthData {
				c.reads.done(id, err == nil)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return c.reportWrong()
}

// readPack reads the directory of a pack, or the pack from end to end. A damaged
// record is noted, and the others are read all the same.
func (c *verify) readPack(ctx context.Context, id chunk.ID, p *packState) error {
	dir, err := pack.ReadDirectory(ctx, c.s.backend, c.v.Ring, p.typ, id, p.length)
	if err != nil {
		p.noRows = isFinding(err)
		return err
	}
	if c.summer != nil {
		c.compareRows(p, &dir)
	}
	if p.depth < depthData {
		c.progress(pack.Name(id))
		return nil
	}
	return c.readContent(ctx, &dir, p)
}

// readContent reads the records that a directory tells of.
func (c *verify) readContent(ctx context.Context, dir *pack.Directory, p *packState) error {
	o, err := pack.NewOpener(c.v.Ring, dir.Type, dir.ID)
	if err != nil {
		return err
	}
	r, err := c.s.backend.Get(ctx, pack.Name(dir.ID), 0, int64(p.length))
	if err != nil {
		p.bad = isFinding(err)
		return err
	}
	defer r.Close()
	in := bufio.NewReaderSize(r, int(min(p.length, packReadBytes)))
	if err := c.readRecords(in, o, dir, p); err != nil {
		p.bad = isFinding(err)
		return err
	}
	c.bytes.Add(int64(p.length))
	c.progress(pack.Name(dir.ID))
	if n := len(p.badRec); n > 0 {
		return fmt.Errorf("%w: %d of %d records", key.ErrDamaged, n, len(dir.Records))
	}
	return nil
}

// rowsAtOnce bounds the packs whose rows are taken from the index together.
const rowsAtOnce = 64

// readByRows reads the records of packs whose directories are damaged as a restore
// does: by the index. What it finds whole there is not lost.
func (c *verify) readByRows(ctx context.Context, ids []chunk.ID) error {
	ids = slices.DeleteFunc(slices.Clone(ids), func(id chunk.ID) bool {
		p := c.packs[id]
		return !p.noRows || p.depth < depthData
	})
	for part := range slices.Chunk(ids, rowsAtOnce) {
		for _, id := range part {
			c.packs[id].bad = true
		}
		for _, r := range c.runs {
			if !r.live || r.run == nil {
				continue
			}
			dirs, err := r.run.Salvage(ctx, func(id chunk.ID) bool { return slices.Contains(part, id) && c.packs[id].bad })
			if err != nil {
				return fmt.Errorf("read index run %s: %w", r.id.Short(), err)
			}
			for i := range dirs {
				if err := c.readRows(ctx, &dirs[i]); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// readRows reads what an index run says of a pack.
func (c *verify) readRows(ctx context.Context, dir *pack.Directory) error {
	p := c.packs[dir.ID]
	p.bad = false
	if err := c.readContent(ctx, dir, p); err != nil && !isFinding(err) {
		return fmt.Errorf("check %s: %w", pack.Name(dir.ID), err)
	}
	p.disputed = dir
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
	at := uint32(0)
	for _, rec := range dir.Records {
		if _, err := io.CopyN(io.Discard, in, int64(rec.Offset-at)); err != nil {
			return shortRead(err)
		}
		if _, err := io.ReadFull(in, grown(&box, int(rec.Stored))); err != nil {
			return shortRead(err)
		}
		at = rec.Offset + rec.Stored
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

func shortRead(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it is too short", key.ErrDamaged)
	}
	return err
}
