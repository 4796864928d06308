package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync/atomic"

	"github.com/tharsis-backup/tharsis/agent/target"
	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// make restores an entry that is not a folder: at once, or, where it has
// content, by the window.
func (r *restore) make(ctx context.Context, dir *target.Dir, name, path string, e *manifest.Entry) error {
	if e.LinkKey != 0 && dir.Linked(name, e) {
		r.skipped.Add(1)
		return nil
	}
	xattrs := r.xattrs(ctx, path, e)
	same, err := r.there(ctx, dir, name, path, e, xattrs)
	if same || err != nil {
		return err
	}
	done := func(out target.Outcome, err error) { r.outcome(path, out, err) }
	if e.LinkKey != 0 && dir.Link(name, e, done) {
		return nil
	}
	if e.Kind != manifest.KindFile {
		out, err := dir.Make(name, e, xattrs)
		r.outcome(path, out, err)
		return nil
	}
	f, out, err := dir.Create(name, e)
	if f == nil {
		r.outcome(path, out, err)
		return nil
	}
	return r.plan.file(ctx, &restoreFile{r: r, f: f, path: path, xattrs: xattrs}, e)
}

// there tells whether the entry is in the target already with equal content.
// Its metadata is then set again, and it counts as skipped.
func (r *restore) there(ctx context.Context, dir *target.Dir, name, path string, e *manifest.Entry, xattrs []manifest.Xattr) (bool, error) {
	x, err := dir.Existing(name)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			r.fail(path, err)
			return true, nil
		}
		return false, nil
	}
	defer x.Close()
	if !x.Like(e) {
		return false, nil
	}
	if e.Kind == manifest.KindFile {
		same, err := r.sameContent(ctx, x, e)
		if err != nil || !same {
			return false, err
		}
	}
	if err := x.SetMeta(e, xattrs); err != nil {
		r.fail(path, err)
		return true, nil
	}
	r.skipped.Add(1)
	r.kept.Add(int64(e.Size))
	return true, nil
}

// sameContent compares what is in the target with the chunk IDs: the vault's
// content need not be read. A file that cannot be read is not the same.
func (r *restore) sameContent(ctx context.Context, x *target.Existing, e *manifest.Entry) (bool, error) {
	var off int64
	for ext, err := range manifest.Extents(ctx, r.v.pages, e) {
		if err != nil {
			if errors.Is(err, key.ErrDamaged) {
				return false, nil
			}
			return false, err
		}
		if err := ctx.Err(); err != nil {
			return false, err
		}
		ok := false
		if ext.Hole() {
			ok = r.zeroAt(x, off, ext.Length)
		} else {
			ok = r.chunkAt(x, off, ext)
		}
		if !ok {
			return false, nil
		}
		off += int64(ext.Length)
	}
	return true, nil
}

func (r *restore) chunkAt(x *target.Existing, off int64, ext manifest.Extent) bool {
	if ext.Length > chunk.MaxChunk {
		return false
	}
	buf := r.plan.compareBuffer(int(ext.Length))
	n, err := x.ReadAt(buf, off)
	if err != nil && !errors.Is(err, io.EOF) || n != len(buf) {
		return false
	}
	return r.plan.hasher.Sum(buf) == ext.ID
}

// zeroAt tells whether a range reads as zeros. Of a terabyte of hole that is a
// hole there too, nothing is read.
func (r *restore) zeroAt(x *target.Existing, off int64, length uint64) bool {
	buf := r.plan.compareBuffer(len(zeros))
	for end := off + int64(length); ; {
		at, err := x.NextData(off)
		if errors.Is(err, io.EOF) || err == nil && at >= end {
			return true
		}
		if err != nil {
			return false
		}
		n := int(min(end-at, int64(len(buf))))
		m, err := x.ReadAt(buf[:n], at)
		if err != nil && !errors.Is(err, io.EOF) || m != n || string(buf[:n]) != string(zeros[:n]) {
			return false
		}
		off = at + int64(n)
	}
}

// xattrs are an entry's attributes. Where their chunk cannot be read they are
// missing from what is restored, which is a failure to name.
func (r *restore) xattrs(ctx context.Context, path string, e *manifest.Entry) []manifest.Xattr {
	if r.root == nil {
		return nil
	}
	set := e.Xattrs
	var err error
	if !e.XattrRef.Hole() {
		set, err = r.v.chunk(ctx, e.XattrRef)
	}
	var out []manifest.Xattr
	if err == nil {
		out, err = manifest.DecodeXattrs(nil, append([]byte(nil), set...))
	}
	if err != nil {
		r.fail(path, fmt.Errorf("extended attributes: %w", err))
		return nil
	}
	return out
}

// chunk reads one small chunk by itself.
func (v *view) chunk(ctx context.Context, ext manifest.Extent) ([]byte, error) {
	s, err := v.s.vault.NewScratch()
	if err != nil {
		return nil, err
	}
	b, err := v.s.vault.NewBlobs().Chunk(ctx, v.index, ext.ID, s, nil)
	if err == nil && uint64(len(b)) != ext.Length {
		err = damagedExtent(ext)
	}
	return b, err
}

func damagedExtent(ext manifest.Extent) error {
	return fmt.Errorf("%w: chunk %s has another length than its file says", key.ErrDamaged, ext.ID.Short())
}

// restoreFile is a file whose content is on its way.
type restoreFile struct {
	r      *restore
	f      *target.File
	path   string
	xattrs []manifest.Xattr
	// left counts the pieces that are not written, and one for the walk while it
	// may add more. Whoever takes the last one ends the file.
	left   atomic.Int32
	failed atomic.Pointer[error]
}

// fail makes the file end as a failure.
func (f *restoreFile) fail(err error) { f.failed.CompareAndSwap(nil, &err) }

// done takes n pieces away.
func (f *restoreFile) done(n int32) {
	if f.left.Add(-n) == 0 {
		f.end()
	}
}

// end completes the file, or removes it where it failed.
func (f *restoreFile) end() {
	if err := f.failed.Load(); err != nil {
		f.f.Abort()
		f.r.outcome(f.path, 0, *err)
		return
	}
	out, err := f.f.Commit(f.xattrs)
	f.r.outcome(f.path, out, err)
}
