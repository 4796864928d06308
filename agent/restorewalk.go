package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/tharsis-backup/tharsis/agent/target"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// restoreWalk goes through one source's manifest and makes what it says.
type restoreWalk struct {
	r   *restore
	src *log.Source

	above []*target.Dir // folders above the source
	stack []folder      // folders of the source on the way to the current entry
}

// folder is an open folder of the walk; one that is only on the way is made
// when something in it is.
type folder struct {
	key    []byte
	name   string
	dir    *target.Dir
	entry  *manifest.Entry // to be made yet
	xattrs []manifest.Xattr
	plain  bool // not asked for itself: only a way to what is
}

func (w *restoreWalk) run(ctx context.Context) error {
	if err := w.enterAbove(); err != nil {
		return err
	}
	defer w.leaveAll()
	for _, start := range w.r.pick.starts(w.src) {
		w.r.pick.under = false
		if err := w.runFrom(ctx, start); err != nil {
			return err
		}
	}
	return nil
}

// enterAbove makes the folders above the source, whose metadata no point knows.
func (w *restoreWalk) enterAbove() error {
	if w.r.root == nil {
		return nil
	}
	dir := w.r.root.Top()
	parts := splitPath(w.src.Path)
	for _, name := range parts[:max(len(parts)-1, 0)] {
		next, _, err := dir.Enter(name, nil, nil)
		if err != nil {
			return fmt.Errorf("make the folders above %s: %w", w.src.Path, err)
		}
		if next == nil {
			return fmt.Errorf("make the folders above %s: %s is in the way and is not a folder", w.src.Path, name)
		}
		w.above = append(w.above, next)
		dir = next
	}
	return nil
}

func splitPath(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}

// base is the folder that the source's root is an entry of.
func (w *restoreWalk) base() *target.Dir {
	if n := len(w.above); n > 0 {
		return w.above[n-1]
	}
	if w.r.root == nil {
		return nil
	}
	return w.r.root.Top()
}

func (w *restoreWalk) leaveAll() {
	w.pop(0)
	for _, d := range slices.Backward(w.above) {
		d.Leave()
	}
	w.above = nil
}

// pop leaves folders until n are left.
func (w *restoreWalk) pop(n int) {
	for len(w.stack) > n {
		f := w.stack[len(w.stack)-1]
		if f.dir != nil {
			f.dir.Leave()
		}
		w.stack = w.stack[:len(w.stack)-1]
	}
}

// runFrom restores the entry at start and all below it.
func (w *restoreWalk) runFrom(ctx context.Context, start []byte) error {
	if err := w.way(ctx, start); err != nil {
		return err
	}
	c := manifest.NewCursor(w.r.v.pages, w.src.Root)
	c.CheckParents()
	if len(start) > 0 { // else it stands there, and damage is for Next to meet
		err := c.Seek(ctx, start)
		if errors.Is(err, key.ErrDamaged) {
			w.lost(err, start, c.Resume())
		} else if err != nil {
			return err
		}
	}
	last := slices.Clone(start)
	for {
		if err := w.r.stopped(ctx); err != nil {
			return err
		}
		k, e, err := c.Next(ctx)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, key.ErrDamaged):
			w.lost(err, last, c.Resume())
			continue
		case err != nil:
			return err
		}
		if !bytes.Equal(k, start) && len(start) > 0 && !manifest.Below(k, start) {
			return nil
		}
		last = append(last[:0], k...)
		skip, err := w.entry(ctx, k, e)
		if err != nil {
			return err
		}
		if skip && e.Kind == manifest.KindDir {
			if err := c.SkipSubtree(ctx); errors.Is(err, key.ErrDamaged) {
				w.lost(err, last, c.Resume())
			} else if err != nil {
				return err
			}
		}
	}
}

// lost reports damage to the manifest; what is missing by it, between two keys,
// cannot be named.
func (w *restoreWalk) lost(err error, from, to []byte) {
	w.r.failed.Add(1)
	if w.r.lost == nil {
		w.r.lost = err
	}
	w.r.v.s.note(Note{Failure, joined(w.src.Path, from), lostRange(w.src.Path, from, to) +
		", and what stands there is not restored (an earlier point may have it): " + damageText(err)})
}

// way puts the folders above start on the stack.
func (w *restoreWalk) way(ctx context.Context, start []byte) error {
	w.pop(0)
	var above [][]byte
	for k, ok := manifest.Parent(start); ok; k, ok = manifest.Parent(k) {
		above = append(above, k)
	}
	for _, k := range slices.Backward(above) {
		e, err := manifest.Get(ctx, w.r.v.pages, w.src.Root, k)
		if errors.Is(err, key.ErrDamaged) {
			e = &lostFolder
		} else if err != nil {
			return err
		}
		w.push(ctx, k, e, true)
	}
	return nil
}

// lostFolder stands for a folder whose entry is lost with a page of the manifest,
// while entries in it are not. It is made without metadata.
var lostFolder = manifest.Entry{Kind: manifest.KindDir}

// bridge puts the folders above an entry on the stack that were lost. It returns
// false where one of them is to be left out.
func (w *restoreWalk) bridge(ctx context.Context, key []byte) bool {
	var above [][]byte
	for k, ok := manifest.Parent(key); ok; k, ok = manifest.Parent(k) {
		if n := len(w.stack); n > 0 && bytes.Equal(w.stack[n-1].key, k) {
			break
		}
		above = append(above, k)
	}
	for _, k := range slices.Backward(above) {
		if w.r.pick.judge(joined(w.src.Path, k), k, true) == leaveOut {
			return false
		}
		w.push(ctx, k, &lostFolder, true)
	}
	return true
}

// name is what an entry is called in its folder.
func (w *restoreWalk) name(key []byte) string {
	if len(key) > 0 {
		return string(manifest.Name(key))
	}
	if parts := splitPath(w.src.Path); len(parts) > 0 {
		return parts[len(parts)-1]
	}
	return "" // the root of the file system
}

// push puts a folder on the stack, to be made when it is needed.
func (w *restoreWalk) push(ctx context.Context, key []byte, e *manifest.Entry, plain bool) {
	f := folder{key: slices.Clone(key), name: w.name(key), entry: e.Clone(), plain: plain}
	if !plain {
		f.xattrs = w.r.xattrs(ctx, joined(w.src.Path, key), e)
	}
	w.stack = append(w.stack, f)
}

// entry restores one entry. skip tells that what is below it is left out.
func (w *restoreWalk) entry(ctx context.Context, key []byte, e *manifest.Entry) (skip bool, err error) {
	for len(w.stack) > 0 && !manifest.Below(key, w.stack[len(w.stack)-1].key) {
		w.pop(len(w.stack) - 1)
	}
	if !w.bridge(ctx, key) {
		return false, nil
	}
	path := joined(w.src.Path, key)
	w.r.report(path)
	switch w.r.pick.judge(path, key, e.Kind == manifest.KindDir) {
	case leaveOut:
		return true, nil
	case onTheWay:
		w.push(ctx, key, e, true)
		return false, nil
	}
	if w.r.root == nil {
		w.r.restored.Add(1)
		w.r.bytes.Add(int64(e.Size))
		return false, nil
	}
	if e.Kind == manifest.KindDir {
		w.push(ctx, key, e, false)
		_, kept := w.open()
		return kept, nil
	}
	dir, kept := w.open()
	if kept || dir == nil {
		return true, nil
	}
	w.r.files.Add(1)
	return false, w.r.make(ctx, dir, w.name(key), path, e)
}

// open makes the folders of the stack that are not made yet and returns the
// innermost. kept tells that one could not be made, or is to be left out.
func (w *restoreWalk) open() (dir *target.Dir, kept bool) {
	dir = w.base()
	for i := range w.stack {
		f := &w.stack[i]
		if f.dir == nil && f.entry != nil {
			if !w.makeFolder(dir, f) {
				return nil, true
			}
		}
		if f.dir == nil {
			return nil, true
		}
		dir = f.dir
	}
	return dir, false
}

func (w *restoreWalk) makeFolder(parent *target.Dir, f *folder) bool {
	e := f.entry
	f.entry = nil
	path := joined(w.src.Path, f.key)
	if f.name == "" {
		f.dir = w.r.root.Top()
		if !f.plain {
			f.dir.Describe(e, f.xattrs)
			w.r.restored.Add(1)
		}
		return true
	}
	if e.Kind != manifest.KindDir {
		w.r.fail(path, fmt.Errorf("%w: it holds entries and is not a folder", key.ErrDamaged))
		return false
	}
	if f.plain {
		e = nil
	}
	d, out, err := parent.Enter(f.name, e, f.xattrs)
	if !f.plain || err != nil {
		w.r.outcome(path, out, err)
	}
	f.dir = d
	return d != nil
}
