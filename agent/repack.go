package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"syscall"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/index"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
	"github.com/tharsis-backup/tharsis/vault/manifest"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// publishBytes is after how much a repack makes what it wrote part of the vault, so
// that one that is killed has not worked in vain.
const publishBytes = 1 << 30

// repack writes the needed rest of packs anew of which most is dead, so that they
// can be condemned, and what only packs still have that are on their way out. The
// order is that of the newest manifests, so that what is restored together lies
// together.
func (p *prune) repack(ctx context.Context) error {
	from := p.candidates()
	if len(from) == 0 {
		return nil
	}
	if p.s.full {
		p.noRoom()
		return nil
	}
	r, err := p.newRepacker(ctx, from)
	if err != nil {
		return err
	}
	defer r.w.Close()
	if err := r.run(ctx); errors.Is(err, syscall.ENOSPC) {
		r.drop(ctx)
		p.noRoom()
		return p.recount(ctx)
	} else if err != nil {
		return fmt.Errorf("write packs anew: %w", err)
	}
	for id := range from {
		p.moved[id] = struct{}{}
		p.res.Repacked++
		p.res.RepackedBytes += int64(p.use[id].length)
	}
	return p.recount(ctx)
}

// noRoom says that a store without room is not made smaller by writing to it: what is
// wholly dead still goes.
func (p *prune) noRoom() {
	p.s.note(Note{Info, "", "there is no room to write packs anew; those that nothing needs still go"})
}

// repacker copies chunks and pages out of packs.
type repacker struct {
	p    *prune
	from map[chunk.ID]struct{}
	w    *vault.Writer
	ws   *vault.Workspace
	read *vault.RecordReader

	locs    []index.Location
	segment []byte
	chunks  []pack.Chunk
	mu      sync.Mutex       // guards fresh, while the writer stores
	fresh   []pack.Directory // stored and not yet read back
	told    int64            // w.Stored when the log was last told
}

func (p *prune) newRepacker(ctx context.Context, from map[chunk.ID]struct{}) (r *repacker, err error) {
	r = &repacker{p: p, from: from}
	if r.ws, err = vault.NewWorkspace(); err != nil {
		return nil, fmt.Errorf("prepare compressor: %w", err)
	}
	if r.read, err = p.s.vault.NewRecordReader(); err != nil {
		return nil, err
	}
	// What it has is looked at before; of its own chunks the writer knows.
	never := func(context.Context, chunk.ID) (bool, error) { return false, nil }
	r.w = p.s.vault.NewWriter(ctx, never, vault.WriterOptions{
		SpoolDir: p.s.cache.SpoolDir(), Copied: p.s.keepCopy, Log: p.s.log,
		Stored: r.stored, PackBytes: uint64(p.s.env.sized(pack.DefaultTarget)),
	})
	return r, nil
}

func (r *repacker) run(ctx context.Context) error {
	if err := r.inOrder(ctx); err != nil {
		return err
	}
	for _, id := range slices.Collect(maps.Keys(r.from)) {
		if err := r.rest(ctx, id); err != nil {
			return err
		}
	}
	if err := r.store(ctx); err != nil {
		return err
	}
	if r.p.res.WrittenBytes = r.w.Stored.Load(); r.p.res.WrittenBytes == 0 {
		clear(r.from) // nothing of it could be read
		return nil
	}
	return r.publish(ctx, func(run []chunk.ID) log.Body {
		return &log.Repack{Adds: run, Replaced: r.replaced()}
	})
}

// replaced are the packs that were copied from and that the log still trusts.
func (r *repacker) replaced() (ids []chunk.ID) {
	st := r.p.s.vault.Log.State()
	for id := range r.from {
		if st.Usable(id) && len(ids) < maxNamed {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, chunk.ID.Compare)
	return ids
}

// inOrder copies what the newest manifest of each source needs, in its order.
func (r *repacker) inOrder(ctx context.Context) error {
	seen := index.NewLive(r.p.index.Members()...)
	w := manifest.Walker{
		Reader: r.p.pages,
		Seen: func(page chunk.ID) (bool, error) {
			_, before, err := seen.Mark(ctx, page)
			return before, err
		},
		Visit: func(ref manifest.Ref) error { return r.copy(ctx, ref.ID) },
	}
	for _, root := range r.newest() {
		if err := w.Walk(ctx, root); err != nil {
			return err
		}
	}
	return r.flush(ctx)
}

// newest are the roots of the newest manifest of each source.
func (r *repacker) newest() (roots []chunk.ID) {
	done := map[log.SourceID]bool{}
	points := r.p.s.vault.Log.State().Points()
	for _, point := range slices.Backward(points) {
		for i := range point.Point.Sources {
			src := &point.Point.Sources[i]
			if src.Status == log.StatusFailed || done[src.ID] {
				continue
			}
			done[src.ID] = true
			roots = append(roots, src.Root)
		}
	}
	return roots
}

// rest copies what is needed of a pack and was not copied yet: it stands in older
// points only.
func (r *repacker) rest(ctx context.Context, id chunk.ID) error {
	u := r.p.use[id]
	dir, err := r.p.directory(ctx, id, u)
	if isFinding(err) {
		if !u.last { // else what it had is lost, unless it comes back
			r.spoil(id, err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	if err := r.p.eachNeeded(ctx, &dir, func(c chunk.ID) error { return r.copy(ctx, c) }); err != nil {
		return err
	}
	return r.flush(ctx)
}

// copy copies a needed chunk or page if the copy that is kept is in a pack that goes.
func (r *repacker) copy(ctx context.Context, id chunk.ID) (err error) {
	if r.locs, err = r.p.index.Find(ctx, id, r.locs[:0]); err != nil {
		return err
	}
	kept := r.p.taken(r.locs)
	if kept >= 0 {
		if _, goes := r.from[r.locs[kept].Pack]; !goes {
			return nil
		}
		r.locs[0], r.locs[kept] = r.locs[kept], r.locs[0]
	}
	if known, err := r.w.Known(ctx, id); known || err != nil {
		return err
	}
	data, typ, err := r.read.Chunk(ctx, r.locs, id)
	if isFinding(err) {
		if kept >= 0 {
			r.spoil(r.locs[0].Pack, err)
		}
		return nil // else no pack that is trusted has it, and the others only what cannot be read
	}
	if err != nil {
		return err
	}
	if _, err := r.w.Claim(ctx, id); err != nil {
		return err
	}
	return r.add(ctx, typ, id, data)
}

// spoil leaves a pack as it is: something that is needed of it cannot be read.
func (r *repacker) spoil(id chunk.ID, err error) {
	r.p.s.note(Note{Info, "", "pack " + id.Short() + " is damaged and stays as it is; see: agent verify --read-data"})
	r.p.s.log.Warn("leave a damaged pack as it is", "pack_id", id.Short(), "err", err)
	delete(r.from, id)
}

// add stores a chunk, small ones grouped.
func (r *repacker) add(ctx context.Context, typ uint8, id chunk.ID, data []byte) error {
	c := pack.Chunk{ID: id, Length: uint32(len(data))}
	if typ == key.TypeManifestPack || len(data) >= r.p.s.env.sized(aloneBytes) {
		if err := r.w.AddRecord(ctx, r.ws, typ, data, []pack.Chunk{c}); err != nil {
			return err
		}
		return r.publishSome(ctx)
	}
	r.segment = append(r.segment, data...)
	if r.chunks = append(r.chunks, c); len(r.segment) < r.p.s.env.sized(segmentBytes) {
		return nil
	}
	if err := r.flush(ctx); err != nil {
		return err
	}
	return r.publishSome(ctx)
}

func (r *repacker) flush(ctx context.Context) error {
	if len(r.chunks) == 0 {
		return nil
	}
	err := r.w.AddRecord(ctx, r.ws, key.TypeDataPack, r.segment, r.chunks)
	r.segment, r.chunks = r.segment[:0], r.chunks[:0]
	return err
}

// publishSome makes what was written a part of the vault from time to time.
func (r *repacker) publishSome(ctx context.Context) error {
	r.p.progress("repack", r.w.Stored.Load(), 0)
	if r.w.Stored.Load()-r.told < publishBytes {
		return nil
	}
	if err := r.publish(ctx, func(run []chunk.ID) log.Body { return &log.Index{Adds: run} }); err != nil {
		return err
	}
	return r.p.index.Refresh(ctx)
}

// store stores what is open.
func (r *repacker) store(ctx context.Context) error {
	if err := r.flush(ctx); err != nil {
		return err
	}
	return r.w.Flush()
}

// publish stores what is open, reads it back, and names it in the log.
func (r *repacker) publish(ctx context.Context, entry func(runs []chunk.ID) log.Body) error {
	if err := r.store(ctx); err != nil {
		return err
	}
	for _, dir := range r.fresh {
		if err := r.p.s.direct.CheckPack(ctx, dir); err != nil {
			return fmt.Errorf("read back pack %s: %w", dir.ID.Short(), err)
		}
		r.p.written[dir.ID] = struct{}{}
	}
	r.fresh = nil
	run, ok, err := r.w.WriteIndex(r.p.s.keepCopy)
	if err != nil {
		return err
	}
	var runs []chunk.ID
	if ok {
		runs = []chunk.ID{run}
	}
	_, err = r.p.s.vault.Log.Append(ctx, r.p.admin, func(st *log.State) (log.Body, error) {
		lost := slices.ContainsFunc(runs, st.RunGone)
		for id := range r.p.written {
			lost = lost || !st.Usable(id)
		}
		if lost {
			return nil, errMoved
		}
		return entry(runs), nil
	})
	if err != nil {
		return err
	}
	r.w.Indexed()
	r.told = r.w.Stored.Load()
	return nil
}

// drop deletes what was stored and is named by no entry: nobody else knows it.
func (r *repacker) drop(ctx context.Context) {
	for _, dir := range r.fresh {
		if err := r.p.s.backend.Delete(ctx, pack.Name(dir.ID)); err != nil {
			r.p.s.log.Warn("delete a pack that came to nothing", "err", err)
		}
	}
	r.fresh = nil
}

// stored notes a pack to be read back. Uploads run side by side.
func (r *repacker) stored(dir pack.Directory) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fresh = append(r.fresh, dir)
	return nil
}
