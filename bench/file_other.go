//go:build !linux

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

func linkCount(fs.FileInfo) uint64 { return 1 }

func copyOwner(string, fs.FileInfo) error { return nil }

func dataExtents(f *os.File, _ int64) ([]extent, error) {
	return nil, fmt.Errorf("find data of %s: %w", f.Name(), errors.ErrUnsupported)
}
