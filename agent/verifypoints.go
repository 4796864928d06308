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

// manifestRef is a manifest that a check goes through.
type manifestRef struct {
	point      log.PointID
	unfinished bool // of a PARTIAL: what it has is kept for the job's next try
	src        *log.Source
}

func (c *verify) manifests() (all []manifestRef) {
	for _, p := range c.points() {
		for i := range p.Point.Sources {
			if src := &p.Point.Sources[i]; src.Status != log.StatusFailed {
				all = append(all, manifestRef{point: p.Point.ID, src: src})
			}
		}
	}
	if c.point != nil {
		return all
	}
	for _, p := range c.v.Log.State().Partials() {
		all = append(all, manifestRef{p.Point.ID, true, p.Source})
	}
	return all
}

// lostCount is what of the points cannot be had. A file counts once for each point
// that has it.
type lostCount struct {
	points  map[log.PointID]bool // of which something is hurt
	files   int64
	bytes   int64 // of files' content, as far as it is known
	nowhere int64 // references that the index has no place for
}

// errHurt ends the walk of a manifest at the first thing that is not whole.
var errHurt = errors.New("hurt")

// checkPoints checks that all that points and unfinished jobs name is found, in
// packs that are whole. Pages that points share are looked at once; where something
// is hurt, each point is gone through to name its files.
func (c *verify) checkPoints(ctx context.Context) error {
	pages := c.v.NewPages(c.index)
	seen := map[chunk.ID]bool{}
	c.lost = lostCount{points: map[log.PointID]bool{}}
	for _, m := range c.manifests() {
		whole, err := c.manifestWhole(ctx, pages, m.src.Root, seen)
		if err != nil {
			return err
		}
		if whole {
			continue
		}
		c.lost.points[m.point] = true
		if err := c.nameHurt(ctx, pages, m); err != nil {
			return err
		}
		if err := c.markNeeded(ctx, pages, m.src.Root, seen); err != nil {
			return err
		}
	}
	return nil
}

// markNeeded goes through a manifest that is hurt once more, to find all packs that
// it lacks something of: its pages were not all looked up.
func (c *verify) markNeeded(ctx context.Context, pages *vault.Pages, root chunk.ID, whole map[chunk.ID]bool) error {
	been := map[chunk.ID]bool{}
	w := manifest.Walker{
		Reader: pages,
		Seen: func(page chunk.ID) bool {
			was := whole[page] || been[page]
			been[page] = true
			return was
		},
		Visit: func(ref manifest.Ref) error {
			_, err := c.available(ctx, ref.ID, refType(ref))
			return err
		},
		Damaged: func(_ []byte, _ chunk.ID, err error) error {
			if isFinding(err) {
				return nil
			}
			return err
		},
	}
	return w.Walk(ctx, root)
}

func refType(ref manifest.Ref) uint8 {
	if ref.Page {
		return key.TypeManifestPack
	}
	return key.TypeDataPack
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
		if ok, err := c.available(ctx, ref.ID, refType(ref)); err != nil {
			return err
		} else if !ok {
			return errHurt
		}
	}
	*refs = (*refs)[:0]
	return nil
}

// available tells whether some place of a chunk or page is whole. Where none is,
// the packs that should have it are needed.
func (c *verify) available(ctx context.Context, id chunk.ID, typ uint8) (bool, error) {
	locs, err := c.index.Find(ctx, id, nil)
	if err != nil && !isFinding(err) {
		return false, err
	}
	// Where a run is damaged it is in none that can be read.
	for i := range locs {
		if l := &locs[i]; l.Type == typ && c.placeWhole(l, id) {
			return true, nil
		}
	}
	for i := range locs {
		if p := c.packs[locs[i].Pack]; p != nil {
			p.needed = true
		}
	}
	if len(locs) == 0 {
		c.lost.nowhere++
	}
	return false, nil
}

func (c *verify) placeWhole(l *index.Location, id chunk.ID) bool {
	p := c.packs[l.Pack]
	return p != nil && !p.bad && !p.badRec[l.Number] && (p.disputed == nil || l.Says(p.disputed, id))
}

// nameHurt names the files of one source of a point that cannot be restored
// whole.
func (c *verify) nameHurt(ctx context.Context, pages *vault.Pages, m manifestRef) error {
	cur := manifest.NewCursor(pages, m.src.Root)
	var last []byte
	for {
		k, e, err := cur.Next(ctx)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && isFinding(err):
			to := cur.Resume()
			c.nameFile(m, joined(m.src.Path, last), lostRange(m.src.Path, last, to)+": "+damageText(err), 0)
			if to == nil {
				return nil
			}
			continue
		case err != nil:
			return err
		}
		last = append(last[:0], k...)
		if why, lost, err := c.entryHurt(ctx, pages, e); err != nil {
			return err
		} else if why != "" {
			c.nameFile(m, joined(m.src.Path, k), why, lost)
		}
	}
}

// lostRange says which part of a list of files is lost with a page of it: what is
// behind from and before to, or up to the end where that is nil.
func lostRange(path string, from, to []byte) string {
	if to == nil {
		return "the list of files is damaged from here to the end"
	}
	if bytes.Equal(from, to) {
		return "the list of files is damaged from here on"
	}
	return "the list of files is damaged from here to " + joined(path, to)
}

func (c *verify) nameFile(m manifestRef, path, why string, lost uint64) {
	c.lost.files++
	c.lost.bytes += int64(lost)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.damage) < MaxDamageReports {
		c.damage = append(c.damage, Damage{Point: m.point.String(), Unfinished: m.unfinished, Path: path, Text: why})
	}
}

// entryHurt tells what of an entry cannot be had, or "", and how many bytes of
// content that is.
func (c *verify) entryHurt(ctx context.Context, pages *vault.Pages, e *manifest.Entry) (why string, lost uint64, err error) {
	if !e.XattrRef.Hole() {
		if ok, err := c.available(ctx, e.XattrRef.ID, key.TypeDataPack); err != nil {
			return "", 0, err
		} else if !ok {
			why = "its attributes are lost"
		}
	}
	if e.Kind != manifest.KindFile {
		return why, 0, nil
	}
	for x, err := range manifest.Extents(ctx, pages, e) {
		if err != nil {
			if isFinding(err) {
				return "its block table is damaged: " + damageText(err), e.Size, nil
			}
			return "", 0, err
		}
		if x.Hole() {
			continue
		}
		ok, err := c.available(ctx, x.ID, key.TypeDataPack)
		if err != nil {
			return "", 0, err
		}
		if !ok {
			lost += x.Length
		}
	}
	if lost > 0 {
		return fmt.Sprintf("%d of %d bytes are lost", lost, e.Size), lost, nil
	}
	return why, 0, nil
}
