//go:build linux

package main

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// treeFiles is how many entries a tree has at most: enough to share segments and
// pages, few enough for an emulated machine.
const treeFiles = 24

// node is a file or a symbolic link of a tree.
type node struct {
	content []byte
	target  string // not "": a link
	mode    fs.FileMode
	mtime   time.Time
	inPlace bool // how it is changed: in place, or by a rename over it
}

// treeAt is the tree with its number of state, by path. It is a function of the
// seed and the state alone. From one state to the next about a fifth of the entries
// change: content, mode, kind, or whether they are there.
func treeAt(seed uint64, state int) map[string]node {
	tree := map[string]node{}
	for i := range treeFiles {
		changed := 0
		for s := state; s > 0; s-- {
			if random(seed, i, s, "changed").IntN(5) == 0 {
				changed = s
				break
			}
		}
		r := random(seed, i, changed, "node")
		if r.IntN(6) == 0 {
			continue // not there
		}
		n := node{
			mode: 0o600 | fs.FileMode(r.IntN(64)), inPlace: r.IntN(2) == 0,
			mtime: time.Unix(1_000_000_000+int64(changed)*1000+int64(i), int64(r.IntN(1e9))),
		}
		path := fmt.Sprintf("d%d/f%d", i%4, i)
		if r.IntN(8) == 0 {
			n.target = fmt.Sprintf("../d%d/%d", r.IntN(4), r.IntN(1000))
		} else {
			n.content = content(r)
		}
		tree[path] = n
	}
	return tree
}

// random is a stream of its own for each use.
func random(seed uint64, i, state int, use string) *rand.Rand {
	h := fnv.New64a()
	fmt.Fprint(h, seed, " ", i, " ", state, " ", use)
	return rand.New(rand.NewPCG(seed, h.Sum64()))
}

// content is mostly a small file, seldom an empty or a larger one, half of it of
// few letters.
func content(r *rand.Rand) []byte {
	size := r.IntN(6000)
	switch r.IntN(12) {
	case 0:
		size = 0
	case 1:
		size = r.IntN(200_000)
	}
	b := make([]byte, size)
	letters := 256
	if r.IntN(2) == 0 {
		letters = 4
	}
	for i := range b {
		b[i] = byte(r.IntN(letters))
	}
	return b
}

// apply turns the folder, whatever is in it, into the tree. What is as it should
// be is left alone, and nothing is synced.
func apply(dir string, tree map[string]node) error {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		if n, ok := tree[rel]; ok && (n.target != "") == (d.Type() == fs.ModeSymlink) {
			return nil
		}
		return os.Remove(path)
	})
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	for rel, n := range tree {
		path := filepath.Join(dir, rel)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := n.make(path); err != nil {
			return err
		}
	}
	return nil
}

// make makes the entry at a path where there is none, or one of its type.
func (n node) make(path string) error {
	if n.target != "" {
		os.Remove(path)
		if err := os.Symlink(n.target, path); err != nil {
			return err
		}
		t := unix.NsecToTimespec(n.mtime.UnixNano())
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode() == n.mode && info.ModTime().Equal(n.mtime) {
		if is, err := os.ReadFile(path); err == nil && bytes.Equal(is, n.content) {
			return nil
		}
	}
	to := path
	if !n.inPlace {
		to = path + ".new"
	}
	if err := os.WriteFile(to, n.content, 0o600); err != nil {
		return err
	}
	if err := os.Chmod(to, n.mode); err != nil {
		return err
	}
	if err := os.Chtimes(to, n.mtime, n.mtime); err != nil {
		return err
	}
	return os.Rename(to, path)
}
