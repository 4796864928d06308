package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/index"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// points are those that the check is about: all that can be restored, the soft
// deleted ones included.
func (c *verify) points() []log.PointInfo {
	if c.v == nil {
		return nil
	}
	all := c.v.Log.State().Points()
	if c.point == nil {
		return all
	}
	for _, p := range all {
		if p.Point.ID == *c.point {
			return []log.PointInfo{p}
		}
	}
	return nil
}

// errHurt ends the walk of a manifest at the first thing that is not whole.
var errHurt = errors.New("hurt")

// checkPoints checks that all that points name is found, in packs that are
// whole. Pages that points share are looked at once; where something is hurt,
// each point is gone through to name its files.
func (c *verify) checkPoints(ctx context.Context) error {
	pages := c.v.NewPages(c.index)
	seen := map[chunk.ID]bool{}
	for _, p := range c.points() {
		for i := range p.Point.Sources {
			src := &p.Point.Sources[i]
			if src.Status == log.StatusFailed {
				continue
			}
			whole, err := c.manifestWhole(ctx, pages, src.Root, seen)
			if err != nil {
				return err
			}
			if whole {
				continue
			}
			if err := c.nameHurt(ctx, pages, p.Point.ID, src); err != nil {
				return err
			}
		}
	}
	return nil
}

// manifestWhole tells whether all pages and chunks of a manifest can be had.
// seen holds pages below which all is whole.
func (c *verify) manifestWhole(ctx context.Context, pages *vault.Pages, root chunk.ID, seen map[chunk.ID]bool) (bool, error) {
	fresh := map[chunk.ID]bool{}
	var refs []manifest.Ref
	err := manifest.Pages(ctx, pages, root, func(id chunk.ID) bool {
		if seen[id] || fresh[id] {
			return true
		}
		fresh[id] = true
		return false
	}, func(ref manifest.Ref) error {
		refs = append(refs, ref)
		if len(refs) < refsAtOnce {
			return nil
		}
		return c.checkRefs(ctx, &refs)
	})
	if err == nil {
		err = c.checkRefs(ctx, &refs)
	}
	switch {
	case err == nil:
		for id := range fresh {
			seen[id] = true
		}
		return true, nil
	case errors.Is(err, errHurt), isFinding(err):
		return false, nil
	}
	return false, err
}

// refsAtOnce is how many references are looked up together.
const refsAtOnce = 8 << 10

// checkRefs looks references up in the order of the index, so that each block of
// it is read once, and empties the list. It returns errHurt where one is not whole.
func (c *verify) checkRefs(ctx context.Context, refs *[]manifest.Ref) error {
	slices.SortFunc(*refs, func(a, b manifest.Ref) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	for _, ref := range *refs {
		typ := key.TypeDataPack
		if ref.Page {
			typ = key.TypeManifestPack
		}
		if ok, err := c.available(ctx, ref.ID, typ); err != nil {
			return err
		} else if !ok {
			return errHurt
		}
	}
	*refs = (*refs)[:0]
	return nil
}

// available tells whether some place of a chunk or page is whole.
func (c *verify) available(ctx context.Context, id chunk.ID, typ uint8) (bool, error) {
	locs, err := c.index.Find(ctx, id, nil)
	if err != nil && !isFinding(err) {
		return false, err
	}
	// Where a run is damaged it is in none that can be read.
	for _, l := range locs {
		if l.Type == typ && c.placeWhole(&l) {
			return true, nil
		}
	}
	return false, nil
}

func (c *verify) placeWhole(l *index.Location) bool {
	p := c.packs[l.Pack]
	return p != nil && !p.bad && !p.badRec[l.Number]
}

// nameHurt names the files of one source of a point that cannot be restored
// whole.
func (c *verify) nameHurt(ctx context.Context, pages *vault.Pages, point log.PointID, src *log.Source) error {
	cur := manifest.NewCursor(pages, src.Root)
	var last []byte
	for {
		k, e, err := cur.Next(ctx)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && isFinding(err):
			to := cur.Resume()
			c.nameRange(point, src, last, to, err)
			if to == nil {
				return nil
			}
			continue
		case err != nil:
			return err
		}
		last = append(last[:0], k...)
		if why, err := c.entryHurt(ctx, pages, e); err != nil {
			return err
		} else if why != "" {
			c.nameFile(point, joined(src.Path, k), why)
		}
	}
}

// nameRange says which part of a list of files is lost with a page.
func (c *verify) nameRange(point log.PointID, src *log.Source, from, to []byte, err error) {
	text := "the list of files is damaged from here to the end: " + damageText(err)
	if to != nil && !bytes.Equal(from, to) {
		text = fmt.Sprintf("the list of files is damaged from here to %s: %s", joined(src.Path, to), damageText(err))
	}
	c.nameFile(point, joined(src.Path, from), text)
}

func (c *verify) nameFile(point log.PointID, path, why string) {
	c.hurt.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.damage) < MaxDamageReports {
		c.damage = append(c.damage, Damage{Point: point.String(), Path: path, Text: why})
	}
}

// entryHurt tells what of an entry cannot be had, or "".
func (c *verify) entryHurt(ctx context.Context, pages *vault.Pages, e *manifest.Entry) (string, error) {
	if !e.XattrRef.Hole() {
		if ok, err := c.available(ctx, e.XattrRef.ID, key.TypeDataPack); err != nil {
			return "", err
		} else if !ok {
			return "its attributes are lost", nil
		}
	}
	if e.Kind != manifest.KindFile {
		return "", nil
	}
	var lost uint64
	for x, err := range manifest.Extents(ctx, pages, e) {
		if err != nil {
			if isFinding(err) {
				return "its block table is damaged: " + damageText(err), nil
			}
			return "", err
		}
		if x.Hole() {
			continue
		}
		ok, err := c.available(ctx, x.ID, key.TypeDataPack)
		if err != nil {
			return "", err
		}
		if !ok {
			lost += x.Length
		}
	}
	if lost > 0 {
		return fmt.Sprintf("%d of %d bytes are lost", lost, e.Size), nil
	}
	return "", nil
}
