package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/manifest"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// A backup survives a vault that lost something. What it needs of earlier points
// and cannot be read is no reason to store nothing: the job starts over and
// salvages. Then it passes over index runs that are damaged and over pages of its
// bases that are, takes no page over from a base, and stores every page again that
// cannot be read from the vault itself. What was lost with a page are the
// entries that cannot be read from the source either, so the point has a warning.

// salvages tells whether a job that ended with an error starts over, to salvage.
// It does so once.
func (s *Session) salvages(err error) bool {
	if s.salvage || !errors.Is(err, key.ErrDamaged) {
		return false
	}
	s.salvage = true
	return true
}

// warnSalvage tells of it, in the job that salvages.
func (j *job) warnSalvage() {
	if j.s.salvage {
		j.warn("", "something of the vault that this machine's newest point needs is damaged: its list of files is made anew from what is there, and what cannot be read now may be missing in it; see: agent verify")
	}
}

// known tells whether a chunk or page need not be stored: the vault has it in a
// usable pack. A job that salvages believes it of a page only after reading it.
func (j *job) known(ctx context.Context, id chunk.ID) (bool, error) {
	ok, err := j.index.Usable(ctx, id)
	if !ok || err != nil || !j.s.salvage {
		return ok, err
	}
	locs, err := j.index.Find(ctx, id, nil)
	if err != nil || len(locs) == 0 {
		return false, err
	}
	if locs[0].Type != key.TypeManifestPack {
		return true, nil
	}
	_, err = j.direct.Page(ctx, id)
	if errors.Is(err, key.ErrDamaged) {
		return false, nil
	}
	return err == nil, err
}

// rescuer copies content from packs that lost trust. It is used seldom, so one
// goroutine at a time will do.
type rescuer struct {
	mu      sync.Mutex // guards the rest, and is held while it is used
	scratch *vault.Scratch
	blobs   *vault.Blobs
	ws      *vault.Workspace
	pages   *pageWriter
}

func (r *rescuer) open(j *job) (err error) {
	if r.scratch != nil {
		return nil
	}
	if r.ws, err = vault.NewWorkspace(); err != nil {
		return fmt.Errorf("prepare compressor: %w", err)
	}
	r.blobs, r.pages = j.s.vault.NewBlobs(), j.pages()
	r.scratch, err = j.s.vault.NewScratch()
	return err
}

// rescue makes an entry of the base, whose file cannot be read any more, one that
// a new point may refer to: what of its content lies in packs that lost trust is
// copied from there. It returns false where that cannot be had.
func (j *job) rescue(ctx context.Context, e *manifest.Entry) (bool, error) {
	if j.unusable == 0 && !j.s.salvage || j.o.DryRun {
		return true, nil
	}
	r := &j.rescuer
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.open(j)
	if err == nil && !e.XattrRef.Hole() {
		err = r.copy(ctx, j, e.XattrRef)
	}
	if err == nil {
		err = r.content(ctx, j, e)
	}
	if errors.Is(err, key.ErrDamaged) {
		return false, nil
	}
	return err == nil, err
}

// content copies what is needed of a file's chunks, and the pages of its block table.
func (r *rescuer) content(ctx context.Context, j *job, e *manifest.Entry) error {
	out := manifest.NewContentWriter(r.pages)
	for x, err := range manifest.Extents(ctx, j.read, e) {
		if err != nil {
			return err
		}
		if !x.Hole() {
			if err := r.copy(ctx, j, x); err != nil {
				return err
			}
		}
		if err := out.Add(ctx, x); err != nil {
			return err
		}
	}
	if e.Table.IsZero() {
		return nil
	}
	again := e.Clone()
	if err := out.Finish(ctx, again); err != nil {
		return err
	}
	if again.Table != e.Table {
		return fmt.Errorf("%w: block table %s is not what its extents make", key.ErrDamaged, e.Table.Short())
	}
	return nil
}

// copy stores a chunk again, unless it lies in a usable pack. It is claimed only
// when it was read: who claims a chunk must store it.
func (r *rescuer) copy(ctx context.Context, j *job, x manifest.Extent) error {
	if ok, err := j.writer.Known(ctx, x.ID); ok || err != nil {
		return err
	}
	data, err := r.blobs.Chunk(ctx, j.index, x.ID, r.scratch, nil)
	if err != nil {
		return err
	}
	if uint64(len(data)) != x.Length {
		return damagedExtent(x)
	}
	if known, err := j.writer.Claim(ctx, x.ID); known || err != nil {
		return err
	}
	return j.writer.AddRecord(ctx, r.ws, key.TypeDataPack, data, []pack.Chunk{{ID: x.ID, Length: uint32(len(data))}})
}

// retable stores the pages of a block table again where they are in no usable
// pack. It returns false where they cannot be read.
func (j *job) retable(ctx context.Context, e *manifest.Entry) (bool, error) {
	r := &j.rescuer
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.open(j)
	if err == nil {
		err = r.content(ctx, j, e)
	}
	if errors.Is(err, key.ErrDamaged) {
		return false, nil
	}
	return err == nil, err
}

// lostText is what is said of an entry that rescue could do nothing for.
const lostText = "cannot be read now, and what the vault had of it is lost or about to be deleted: it is missing in this point"
