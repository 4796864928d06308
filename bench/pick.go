package main

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// quota says how much of the machine's files to take: at least files and bytes,
// but no more than most bytes.
type quota struct{ files, bytes, most int64 }

// picked is a choice of the machine's files.
type picked struct {
	paths   []string // absolute; a folder stands before its entries
	sources []string // the roots that they are from
	files   int64
	bytes   int64
}

// pick walks the roots in lexical order, one after the other, and takes files,
// folders and symlinks until the quota is met. What is missing is skipped.
func pick(roots []string, q quota) (picked, error) {
	var p picked
	for _, root := range roots {
		if p.meets(q) {
			break
		}
		if _, err := os.Stat(root); err != nil {
			continue
		}
		p.sources = append(p.sources, root)
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil // a folder that can't be listed is left out
			}
			return p.take(path, d, q)
		})
		if err != nil {
			return p, fmt.Errorf("pick from %s: %w", root, err)
		}
	}
	if p.files == 0 {
		return p, fmt.Errorf("pick from %s: nothing there", strings.Join(roots, ", "))
	}
	return p, nil
}

func (p *picked) meets(q quota) bool {
	return p.bytes >= q.most || (p.files >= q.files && p.bytes >= q.bytes)
}

// take adds one entry, or ends the walk.
func (p *picked) take(path string, d fs.DirEntry, q quota) error {
	if p.meets(q) {
		return fs.SkipAll
	}
	switch {
	case d.IsDir(), d.Type()&fs.ModeSymlink != 0:
	case d.Type().IsRegular():
		info, err := d.Info()
		if err != nil || p.bytes+info.Size() > q.most {
			return nil
		}
		p.files++
		p.bytes += info.Size()
	default:
		return nil
	}
	p.paths = append(p.paths, path)
	return nil
}

// copyTo copies what was picked below dst, under its full path, with all
// metadata, by tar: its copy doesn't depend on code that is judged here.
func (p picked) copyTo(ctx context.Context, dst string) error {
	const script = `set -eo pipefail
tar -C / --null --no-recursion --xattrs --xattrs-include='*' --acls --numeric-owner -T - -cf - |
tar -C "$1" --xattrs --xattrs-include='*' --acls --numeric-owner -xpf -`
	var list bytes.Buffer
	for _, path := range p.paths {
		list.WriteString(strings.TrimPrefix(path, "/"))
		list.WriteByte(0)
	}
	cmd := exec.CommandContext(ctx, "bash", "-c", script, "bash", dst)
	cmd.Stdin = &list
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("copy %d entries to %s: %w: %s", len(p.paths), dst, err, bytes.TrimSpace(out))
	}
	return nil
}
