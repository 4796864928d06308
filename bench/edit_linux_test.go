package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/tharsis-backup/tharsis/internal/treecmp"
)

// makeCorpora fills a folder with a tree of text and an image with holes.
func makeCorpora(t *testing.T) (tree, image string) {
	t.Helper()
	base := t.TempDir()
	tree, image = filepath.Join(base, "tree"), filepath.Join(base, "image")
	for i := range 400 {
		path := filepath.Join(tree, fmt.Sprint(i%9), fmt.Sprintf("file \xff %d", i))
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, fmt.Appendf(nil, "text number %d\n", i*i), 0o640))
	}
	must(t, os.Mkdir(image, 0o755))
	f, err := os.Create(filepath.Join(image, imageName))
	must(t, err)
	defer f.Close()
	b := make([]byte, 4<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(b)
	_, err = f.WriteAt(b, 1<<20)
	must(t, err)
	must(t, f.Truncate(16<<20))
	return tree, image
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func copyTree(t *testing.T, dir string) string {
	t.Helper()
	twin := filepath.Join(t.TempDir(), "twin")
	must(t, os.Mkdir(twin, 0o755))
	p, err := pick([]string{dir}, quota{files: 1 << 40, bytes: 1 << 40, most: 1 << 40})
	must(t, err)
	must(t, p.copyTo(context.Background(), twin))
	return filepath.Join(twin, dir)
}

func different(t *testing.T, a, b string, ignore treecmp.Aspect) int {
	t.Helper()
	diffs, err := treecmp.Compare(a, b, treecmp.Options{Ignore: ignore})
	must(t, err)
	return len(diffs)
}

// Edits are the same at each time, change something, and are undone exactly,
// also where they were only begun.
func TestEditAndRevert(t *testing.T) {
	tree, image := makeCorpora(t)
	undo := filepath.Join(t.TempDir(), "undo")
	for _, c := range []struct {
		dir    string
		editor editor
	}{
		{tree, &treeEditor{dir: tree, undo: undo}},
		{image, &imageEditor{file: filepath.Join(image, imageName), undo: undo}},
	} {
		before := copyTree(t, c.dir)
		var edited [2]string
		for i := range edited {
			text, err := newTextSource(tree)
			must(t, err)
			_, err = c.editor.apply(7, text)
			must(t, err)
			edited[i] = copyTree(t, c.dir)
			if different(t, before, c.dir, treecmp.Times|treecmp.DirTimes) == 0 {
				t.Errorf("%s: nothing was edited", c.dir)
			}
			must(t, c.editor.revert())
			must(t, c.editor.revert())
			if n := different(t, before, c.dir, 0); n > 0 {
				t.Errorf("%s: %d differences after the revert", c.dir, n)
			}
		}
		if n := different(t, edited[0], edited[1], treecmp.Times|treecmp.DirTimes); n > 0 {
			t.Errorf("%s: the same seed gave %d differences", c.dir, n)
		}
	}
}

// The launcher tells time, memory and exit code of what it runs.
func TestMeasure(t *testing.T) {
	u, err := measure(t.Context(), command{argv: []string{"sh", "-c", "echo oops >&2; exit 3"}}, os.Environ())
	if err == nil || u.Exit != 3 {
		t.Errorf("got %+v, %v", u, err)
	}
	u, err = measure(t.Context(), command{argv: []string{"true"}}, os.Environ())
	if err != nil || u.Wall <= 0 || u.Peak < 100<<10 || u.Peak > 64<<20 {
		t.Errorf("got %+v, %v", u, err)
	}
	if _, err := measure(t.Context(), command{argv: []string{"/no/such"}}, os.Environ()); err == nil {
		t.Error("a program that isn't there could be measured")
	}
}

// TestMain makes the test binary a launcher too.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == launchWord {
		os.Exit(launch(os.Args[2:]))
	}
	os.Exit(m.Run())
}
