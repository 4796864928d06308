package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// The corpora. The tree comes first: the text of the others is cut from it.
const (
	corpusTree  = "tree"
	corpusSmall = "small"
	corpusImage = "image"
)

var corpusNames = []string{corpusTree, corpusSmall, corpusImage}

// corpus is a folder that is backed up. It is made once, from the files of the
// machine, and is the same at each run: edits are undone.
type corpus struct {
	dir    string // what the tools are given
	info   corpusInfo
	editor editor
}

// corpusInfo stands beside a corpus that is complete, as NAME.json.
type corpusInfo struct {
	Name    string    `json:"name"`
	Scale   float64   `json:"scale"`
	Sources []string  `json:"sources"` // what of the machine it is made of
	Files   int64     `json:"files"`
	Bytes   int64     `json:"bytes"` // sum of the files' sizes
	Notes   string    `json:"notes,omitempty"`
	Built   time.Time `json:"built"`
}

// editor changes 1 % of a corpus, and undoes it.
type editor interface {
	// apply makes the changes that belong to a seed and tells what it did.
	apply(seed uint64, text *textSource) (string, error)
	// revert undoes a whole or a half apply, also one of a killed run.
	revert() error
}

// openCorpora makes what is missing of the wanted corpora, and undoes the edits
// that a killed run left.
func openCorpora(ctx context.Context, o options) ([]*corpus, error) {
	base := filepath.Join(o.work, "scale-"+strconv.FormatFloat(o.scale, 'g', -1, 64))
	var wanted []*corpus
	for _, name := range corpusNames {
		want := slices.Contains(o.corpora, name)
		if !want && name != corpusTree {
			continue
		}
		c, err := openCorpus(ctx, base, name, o.scale)
		if err != nil {
			return nil, fmt.Errorf("corpus %s: %w", name, err)
		}
		if want {
			wanted = append(wanted, c)
		}
	}
	return wanted, nil
}

// openCorpus returns the corpus below base, and makes it where it isn't whole.
func openCorpus(ctx context.Context, base, name string, scale float64) (*corpus, error) {
	c := &corpus{dir: filepath.Join(base, name)}
	undo := filepath.Join(base, name+".undo")
	if name == corpusImage {
		c.editor = &imageEditor{file: filepath.Join(c.dir, imageName), undo: undo}
	} else {
		c.editor = &treeEditor{dir: c.dir, undo: undo}
	}
	infoFile := filepath.Join(base, name+".json")
	raw, err := os.ReadFile(infoFile)
	if err == nil {
		if err := json.Unmarshal(raw, &c.info); err != nil {
			return nil, fmt.Errorf("read %s: %w", infoFile, err)
		}
		return c, c.editor.revert()
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	logf("making corpus %s in %s", name, c.dir)
	for _, old := range []string{c.dir, undo} {
		if err := os.RemoveAll(old); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return nil, err
	}
	if err := c.build(ctx, base, name, scale); err != nil {
		return nil, err
	}
	raw, err = json.MarshalIndent(c.info, "", "  ")
	if err != nil {
		return nil, err
	}
	return c, os.WriteFile(infoFile, raw, 0o644)
}

// build fills the empty folder of a corpus.
func (c *corpus) build(ctx context.Context, base, name string, scale float64) error {
	c.info = corpusInfo{Name: name, Scale: scale, Built: time.Now().UTC().Truncate(time.Second)}
	var err error
	switch name {
	case corpusTree:
		err = buildTree(ctx, c, scale)
	case corpusSmall:
		err = buildSmall(ctx, c, filepath.Join(base, corpusTree), scale)
	case corpusImage:
		err = buildImage(ctx, c, base, scale)
	}
	if err != nil {
		return err
	}
	c.info.Files, c.info.Bytes, err = countTree(c.dir)
	logf("corpus %s: %d files, %.0f MB", name, c.info.Files, float64(c.info.Bytes)/1e6)
	return err
}

// countTree counts the regular files below dir and their bytes.
func countTree(dir string) (files, bytes int64, err error) {
	err = walkFiles(dir, func(_ string, info fs.FileInfo) error {
		files++
		bytes += info.Size()
		return nil
	})
	return files, bytes, err
}

// walkFiles calls f for each regular file below dir, in lexical order.
func walkFiles(dir string, f func(path string, info fs.FileInfo) error) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return f(path, info)
	})
}
