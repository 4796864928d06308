package main

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// editShare is the part of a corpus that is edited between two backups.
const editShare = 0.01

// editKind is what happens to one file.
type editKind int

// Of ten edits one removes a file, one adds one, and the others change one.
const (
	removed editKind = iota
	added
	appended
	overwritten
	inserted
)

var editKinds = [10]editKind{
	removed, added, appended, appended, appended, overwritten, overwritten, overwritten, inserted, inserted,
}

// edit is one planned change.
type edit struct {
	path string // relative to the corpus; of added, the new file
	kind editKind
}

// planEdits chooses 1 % of the files, at least one, by the seed alone. The
// result is sorted by path.
func planEdits(files []string, seed uint64) []edit {
	n := min(len(files), max(1, int(float64(len(files))*editShare)))
	order := newRand(seed).Perm(len(files))[:n]
	edits := make([]edit, n)
	for i, at := range order {
		edits[i] = edit{path: files[at], kind: editKinds[i%len(editKinds)]}
		if edits[i].kind == added {
			edits[i].path += ".new"
		}
	}
	slices.SortFunc(edits, func(a, b edit) int { return strings.Compare(a.path, b.path) })
	return edits
}

// treeEditor edits a folder of files. What it changes is moved to the undo
// folder first, so that a revert brings back the very same files.
type treeEditor struct{ dir, undo string }

// editMax leaves larger files alone, since changed ones are copied in memory.
const editMax = 64 << 20

func (e *treeEditor) apply(seed uint64, text *textSource) (string, error) {
	var files []string
	err := walkFiles(e.dir, func(path string, info fs.FileInfo) error {
		rel, err := filepath.Rel(e.dir, path)
		if info.Size() <= editMax && linkCount(info) == 1 {
			files = append(files, rel)
		}
		return err
	})
	if err != nil {
		return "", err
	}
	edits := planEdits(files, seed)
	log, err := newUndoLog(e.dir, e.undo, edits)
	if err != nil {
		return "", err
	}
	text.seek(seed)
	fill := newFiller(text, seed)
	for i, ed := range edits {
		if err := e.applyOne(ed, log.saved(i), fill); err != nil {
			return "", fmt.Errorf("edit %q: %w", ed.path, err)
		}
	}
	return fmt.Sprintf("%d of %d files", len(edits), len(files)), nil
}

// applyOne moves the old file away and writes the new one.
func (e *treeEditor) applyOne(ed edit, saved string, fill *filler) error {
	path := filepath.Join(e.dir, ed.path)
	if ed.kind == added {
		b, err := fill.make(fill.rng.IntN(16 << 10))
		if err != nil {
			return err
		}
		return os.WriteFile(path, b, 0o644)
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := os.Rename(path, saved); err != nil || ed.kind == removed {
		return err
	}
	b, err := change(old, ed.kind, fill)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, b, info.Mode().Perm()); err != nil {
		return err
	}
	return copyOwner(path, info)
}

// change returns an altered copy of a file's bytes.
func change(old []byte, kind editKind, fill *filler) ([]byte, error) {
	piece, err := fill.make(1 + fill.rng.IntN(4<<10))
	if err != nil {
		return nil, err
	}
	switch at := position(fill.rng, len(old)); kind {
	case overwritten:
		fresh := slices.Clone(old)
		if n := copy(fresh[at:], piece); n == 0 {
			fresh = append(fresh, piece...)
		}
		return fresh, nil
	case inserted:
		return slices.Insert(slices.Clone(old), at, piece...), nil
	default:
		return append(slices.Clone(old), piece...), nil
	}
}

func position(rng *rand.Rand, size int) int { return rng.IntN(size + 1) }

func (e *treeEditor) revert() error {
	log, err := openUndoLog(e.dir, e.undo)
	if err != nil || log == nil {
		return err
	}
	return log.revert()
}

// settle waits until all edits lie further back than the 2 s within which a
// careful tool distrusts a file's times and reads it again: the measured run
// would else pay for the benchmark's haste.
func settle() { time.Sleep(3 * time.Second) }
