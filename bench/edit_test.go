package main

import (
	"fmt"
	"slices"
	"testing"
)

func TestPlanEditsGoesByTheSeedAlone(t *testing.T) {
	var files []string
	for i := range 5000 {
		files = append(files, fmt.Sprintf("dir-%d/file-%d", i%7, i))
	}
	plan := planEdits(files, 1)
	if !slices.Equal(plan, planEdits(files, 1)) {
		t.Error("the same seed gives other edits")
	}
	if slices.Equal(plan, planEdits(files, 2)) {
		t.Error("another seed gives the same edits")
	}
	if len(plan) != 50 {
		t.Errorf("%d edits of 5000 files, want 50", len(plan))
	}
	seen, kinds := map[string]bool{}, map[editKind]int{}
	for _, ed := range plan {
		if seen[ed.path] {
			t.Errorf("%s is edited twice", ed.path)
		}
		seen[ed.path] = true
		kinds[ed.kind]++
	}
	if kinds[removed] != 5 || kinds[added] != 5 || kinds[appended] != 15 {
		t.Errorf("kinds of edits: %v", kinds)
	}
	if one := planEdits(files[:1], 1); len(one) != 1 {
		t.Errorf("%d edits of one file", len(one))
	}
}

func TestPlanBlocks(t *testing.T) {
	const size = 256 << 20
	data := []extent{{0, 40 << 20}, {100 << 20, 60 << 20}}
	plan := planBlocks(data, size, 1)
	if !slices.Equal(plan, planBlocks(data, size, 1)) {
		t.Error("the same seed gives other blocks")
	}
	var sum, end int64
	for _, x := range plan {
		inData := slices.ContainsFunc(data, func(d extent) bool { return x.Off >= d.Off && x.Off+x.Len <= d.Off+d.Len })
		if x.Off < end || !inData || x.Off%blockSize != 0 || x.Len > clusterMax*blockSize {
			t.Errorf("bad cluster %+v after %d", x, end)
		}
		sum, end = sum+x.Len, x.Off+x.Len
	}
	if want := int64(size / 100 / blockSize * blockSize); sum != want {
		t.Errorf("%d bytes, want %d", sum, want)
	}
	if none := planBlocks(nil, size, 1); len(none) != 0 {
		t.Errorf("blocks of an image without data: %v", none)
	}
}
