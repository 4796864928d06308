package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// The small files: their number, folders and largest size.
const (
	smallFiles   = 200_000
	smallPerDir  = 100
	smallMaxSize = 4 << 10
	smallSeed    = 200
)

// smallKinds are the endings of the files' names.
var smallKinds = []string{"txt", "json", "go", "md", "html", "conf", "log", "eml"}

// buildSmall makes many small files: real text cut from the tree's files, and
// one in six of random bytes.
func buildSmall(ctx context.Context, c *corpus, tree string, scale float64) error {
	text, err := newTextSource(tree)
	if err != nil {
		return err
	}
	fill := newFiller(text, smallSeed)
	for i := range max(1, int(smallFiles*scale)) {
		if i%smallPerDir == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if err := writeSmall(c.dir, i, fill); err != nil {
			return err
		}
	}
	c.info.Sources = []string{tree}
	c.info.Notes = fmt.Sprintf("The text files were used up %d times.", text.rounds)
	return nil
}

// writeSmall writes the i-th file, and its folder before the folder's first.
func writeSmall(root string, i int, fill *filler) error {
	leaf := i / smallPerDir
	dir := filepath.Join(root, fmt.Sprintf("area-%02d", leaf/50), fmt.Sprintf("folder-%04d", leaf))
	if i%smallPerDir == 0 {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	name := fmt.Sprintf("%s-%06d.%s", []string{"note", "report", "item", "draft"}[fill.rng.IntN(4)],
		i, smallKinds[fill.rng.IntN(len(smallKinds))])
	b, err := fill.make(fill.rng.IntN(smallMaxSize + 1))
	if err != nil {
		return err
	}
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, b, 0o644); err != nil {
		return err
	}
	// Any time within three years from the start of 2023.
	mtime := time.Unix(1_672_531_200, fill.rng.Int64N(3*365*24*int64(time.Hour)))
	return os.Chtimes(path, mtime, mtime)
}
