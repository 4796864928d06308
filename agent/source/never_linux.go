package source

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// never is what is not walked whatever the patterns say.
type never struct {
	paths [][]string // components below the root
	ids   []fileID
}

type fileID struct{ dev, ino uint64 }

// newNever resolves the paths; it refuses a root that is one of them or lies
// inside one.
func newNever(root string, paths []string) (*never, error) {
	n := &never{}
	for _, p := range paths {
		if !filepath.IsAbs(p) {
			return nil, fmt.Errorf("exclude %s always: not an absolute path", p)
		}
		p = filepath.Clean(p)
		if inside(root, p) {
			return nil, fmt.Errorf("%s is never backed up: it lies in %s", root, p)
		}
		if inside(p, root) {
			rel := strings.TrimPrefix(p[len(root):], "/")
			n.paths = append(n.paths, strings.Split(rel, "/"))
		}
		var st unix.Stat_t
		if unix.Stat(p, &st) == nil {
			n.ids = append(n.ids, fileID{st.Dev, st.Ino})
		}
	}
	if len(n.ids) == 0 {
		return n, nil
	}
	// The root may also lie inside one by another path.
	for _, dir := range []string{root, realPath(root)} {
		for ; ; dir = filepath.Dir(dir) {
			var st unix.Stat_t
			if unix.Lstat(dir, &st) == nil && n.has(&st) {
				return nil, fmt.Errorf("%s is never backed up: it lies in %s", root, dir)
			}
			if dir == "/" {
				break
			}
		}
	}
	return n, nil
}

// realPath resolves the symlinks of the folders above path.
func realPath(path string) string {
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return path
	}
	return filepath.Join(dir, filepath.Base(path))
}

// inside tells whether path is dir or lies below it, by their names.
func inside(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+string(os.PathSeparator))
}

func (n *never) has(st *unix.Stat_t) bool {
	return len(n.ids) > 0 && slices.Contains(n.ids, fileID{st.Dev, st.Ino})
}

// namesIn appends to buf the names of the folder that are not walked.
func (n *never) namesIn(d *Dir, buf []string) []string {
	buf = buf[:0]
	for _, p := range n.paths {
		if len(p)-1 == d.depth && slices.Equal(p[:d.depth], d.components(nil)) {
			buf = append(buf, p[d.depth])
		}
	}
	return buf
}
