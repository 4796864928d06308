package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	blockSize = 4 << 10
	// clusterMax is the largest number of neighbouring blocks that change
	// together, as they do where a file in the image is written.
	clusterMax = 64
)

// extent is a part of a file, in bytes.
type extent struct {
	Off int64 `json:"off"`
	Len int64 `json:"len"`
}

// planBlocks chooses clusters of blocks, 1 % of all blocks of a file of the
// given size, within its data and without overlaps, by the seed alone. The
// result is sorted.
func planBlocks(data []extent, size int64, seed uint64) []extent {
	rng := newRand(seed)
	want := max(1, int64(float64(size/blockSize)*editShare))
	taken := map[int64]bool{}
	var plan []extent
	// Where data is short, overlaps come often: then fewer blocks will do.
	for tries := 0; want > 0 && tries < 100_000; tries++ {
		n := min(want, 1+rng.Int64N(clusterMax))
		at, ok := randomBlock(rng, data, n)
		if !ok || !take(taken, at, n) {
			continue
		}
		plan = append(plan, extent{Off: at * blockSize, Len: n * blockSize})
		want -= n
	}
	slices.SortFunc(plan, func(a, b extent) int { return cmp.Compare(a.Off, b.Off) })
	return plan
}

// randomBlock is a block from which n blocks lie within one extent of data. Each
// block of data is as likely as the others.
func randomBlock(rng *rand.Rand, data []extent, n int64) (int64, bool) {
	var all int64
	for _, e := range data {
		all += e.Len / blockSize
	}
	if all == 0 {
		return 0, false
	}
	at := rng.Int64N(all)
	for _, e := range data {
		if blocks := e.Len / blockSize; at >= blocks {
			at -= blocks
			continue
		}
		return e.Off/blockSize + at, at+n <= e.Len/blockSize
	}
	return 0, false
}

// take marks n blocks, unless one of them is taken.
func take(taken map[int64]bool, at, n int64) bool {
	for i := at; i < at+n; i++ {
		if taken[i] {
			return false
		}
	}
	for i := at; i < at+n; i++ {
		taken[i] = true
	}
	return true
}

// imageEditor overwrites blocks of a file in place. The undo folder holds the
// blocks as they were, one after the other, and then plan.json.
type imageEditor struct{ file, undo string }

// imagePlan is its plan.json.
type imagePlan struct {
	Time    time.Time `json:"time"`
	Extents []extent  `json:"extents"`
}

func (e *imageEditor) apply(seed uint64, text *textSource) (string, error) {
	f, err := os.OpenFile(e.file, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	data, err := dataExtents(f, info.Size())
	if err != nil {
		return "", err
	}
	plan := imagePlan{Time: info.ModTime(), Extents: planBlocks(data, info.Size(), seed)}
	if err := e.save(f, plan); err != nil {
		return "", fmt.Errorf("save blocks: %w", err)
	}
	text.seek(seed)
	fill := newFiller(text, seed)
	var sum int64
	for _, x := range plan.Extents {
		b, err := fill.make(int(x.Len))
		if err != nil {
			return "", err
		}
		if _, err := f.WriteAt(b, x.Off); err != nil {
			return "", err
		}
		sum += x.Len
	}
	return fmt.Sprintf("%d blocks in %d places", sum/blockSize, len(plan.Extents)), f.Close()
}

// save keeps the blocks that will be overwritten.
func (e *imageEditor) save(f *os.File, plan imagePlan) error {
	if err := os.Mkdir(e.undo, 0o700); err != nil {
		return err
	}
	out, err := os.Create(filepath.Join(e.undo, "blocks"))
	if err != nil {
		return err
	}
	defer out.Close()
	for _, x := range plan.Extents {
		if _, err := io.Copy(out, io.NewSectionReader(f, x.Off, x.Len)); err != nil {
			return err
		}
	}
	if err := out.Close(); err != nil {
		return err
	}
	raw, err := json.Marshal(plan)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(e.undo, "plan.json"), raw, 0o600)
}

func (e *imageEditor) revert() error {
	raw, err := os.ReadFile(filepath.Join(e.undo, "plan.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return os.RemoveAll(e.undo)
	}
	if err != nil {
		return err
	}
	var plan imagePlan
	if err := json.Unmarshal(raw, &plan); err != nil {
		return fmt.Errorf("read plan of edits: %w", err)
	}
	if err := e.putBack(plan.Extents); err != nil {
		return fmt.Errorf("undo edits: %w", err)
	}
	if err := os.Chtimes(e.file, plan.Time, plan.Time); err != nil {
		return err
	}
	return os.RemoveAll(e.undo)
}

// putBack writes the kept blocks to where they were.
func (e *imageEditor) putBack(extents []extent) error {
	saved, err := os.Open(filepath.Join(e.undo, "blocks"))
	if err != nil {
		return err
	}
	defer saved.Close()
	f, err := os.OpenFile(e.file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, x := range extents {
		if _, err := io.CopyN(io.NewOffsetWriter(f, x.Off), saved, x.Len); err != nil {
			return err
		}
	}
	return f.Close()
}
