package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// undoLog is a folder that holds the edited files as they were, by the number
// of their edit, and plan.json, which is written before the first edit. So a
// killed run's edits are undone by the next one. Reverting twice does no harm.
type undoLog struct {
	dir, undo string
	plan      undoPlan
}

// undoPlan is plan.json. Names are bytes, which JSON strings can't hold.
type undoPlan struct {
	Edits   []undoEdit   `json:"edits"`
	Folders []undoFolder `json:"folders"`
}

type undoEdit struct {
	Path  []byte `json:"path"`
	Added bool   `json:"added,omitempty"`
}

// undoFolder is a folder in which something is edited, and its time before.
type undoFolder struct {
	Path []byte    `json:"path"`
	Time time.Time `json:"time"`
}

// newUndoLog writes the plan for the edits of dir.
func newUndoLog(dir, undo string, edits []edit) (*undoLog, error) {
	l := &undoLog{dir: dir, undo: undo}
	seen := map[string]bool{}
	for _, ed := range edits {
		l.plan.Edits = append(l.plan.Edits, undoEdit{Path: []byte(ed.path), Added: ed.kind == added})
		parent := filepath.Dir(ed.path)
		if seen[parent] {
			continue
		}
		seen[parent] = true
		info, err := os.Stat(filepath.Join(dir, parent))
		if err != nil {
			return nil, err
		}
		l.plan.Folders = append(l.plan.Folders, undoFolder{Path: []byte(parent), Time: info.ModTime()})
	}
	raw, err := json.Marshal(l.plan)
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(undo, 0o700); err != nil {
		return nil, err
	}
	return l, os.WriteFile(filepath.Join(undo, "plan.json"), raw, 0o600)
}

// openUndoLog reads the plan; the log is nil where nothing has to be undone.
func openUndoLog(dir, undo string) (*undoLog, error) {
	raw, err := os.ReadFile(filepath.Join(undo, "plan.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, os.RemoveAll(undo)
	}
	if err != nil {
		return nil, err
	}
	l := &undoLog{dir: dir, undo: undo}
	if err := json.Unmarshal(raw, &l.plan); err != nil {
		return nil, fmt.Errorf("read plan of edits: %w", err)
	}
	return l, nil
}

// saved is where the file of the i-th edit is kept.
func (l *undoLog) saved(i int) string { return filepath.Join(l.undo, strconv.Itoa(i)) }

// revert puts everything back and removes the log.
func (l *undoLog) revert() error {
	for i, ed := range l.plan.Edits {
		path := filepath.Join(l.dir, string(ed.Path))
		if ed.Added {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("undo edits: %w", err)
			}
			continue
		}
		// What isn't there wasn't edited yet, or is back already.
		if err := os.Rename(l.saved(i), path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("undo edits: %w", err)
		}
	}
	for _, f := range l.plan.Folders {
		if err := os.Chtimes(filepath.Join(l.dir, string(f.Path)), f.Time, f.Time); err != nil {
			return fmt.Errorf("undo edits: %w", err)
		}
	}
	return os.RemoveAll(l.undo)
}
