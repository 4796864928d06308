package source

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// makeTree makes files, or folders where the path ends in a slash.
func makeTree(t *testing.T, root string, paths ...string) {
	t.Helper()
	for _, p := range paths {
		path, text, _ := strings.Cut(p, "=")
		if err := os.MkdirAll(filepath.Dir(root+"/"+path), 0o700); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(path, "/") {
			continue
		}
		if err := os.WriteFile(root+"/"+path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// paths returns the relative paths of a walk, without the root.
func paths(steps []step) []string {
	var all []string
	for _, s := range steps[1:] {
		all = append(all, strings.ReplaceAll(s.key, "\x00", "/"))
	}
	return all
}

func wantPaths(t *testing.T, steps []step, want string) {
	t.Helper()
	if got := strings.Join(paths(steps), " "); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

func TestIgnoreFiles(t *testing.T) {
	root := t.TempDir()
	makeTree(t, root, ".tharsisignore=*.o\n/d/x\n", "a.o", "a.c", "d/x", "d/y", "d/z.o", "d/e/x",
		"d/.tharsisignore=!z.o\n/y\n", "f/.tharsisignore/", "g/.tharsisignore="+strings.Repeat("#\n", maxIgnoreFile), "g/a.o", "skip/me")
	wantPaths(t, walk(t, root, Options{Excludes: []string{"skip"}}, defaultLimits),
		".tharsisignore a.c d d/.tharsisignore d/e d/e/x d/z.o f f/.tharsisignore g g/.tharsisignore")
	wantPaths(t, walk(t, root, Options{IgnoreFileName: ".no", Excludes: []string{root + "/d", "g/", "skip", ".t*", "f"}}, defaultLimits), "a.c a.o")
	list := filepath.Join(t.TempDir(), "list")
	os.WriteFile(list, []byte("# all\n*\n!/d\n"+root+"/d/e\n"), 0o600)
	wantPaths(t, walk(t, root, Options{ExcludeFiles: []string{list}, Excludes: []string{"!y", "!.tharsisignore"}}, defaultLimits),
		".tharsisignore d d/.tharsisignore d/y")
	if _, err := Open(root, Options{ExcludeFiles: []string{list + "x"}}); err == nil {
		t.Error("a missing exclude file is not noticed")
	}
}

func TestCacheTag(t *testing.T) {
	root := t.TempDir()
	makeTree(t, root, "c/CACHEDIR.TAG="+cacheSignature+"\nmore", "c/A", "c/d/e", "c/z", "n/CACHEDIR.TAG=Signature: no", "n/a",
		"s/CACHEDIR.TAG=Sig", "s/a", "d/CACHEDIR.TAG/", "d/a")
	for _, l := range []limits{defaultLimits, {batch: 1, names: 1, nameBytes: 1000}} {
		wantPaths(t, walk(t, root, Options{}, l),
			"c c/CACHEDIR.TAG d d/CACHEDIR.TAG d/a n n/CACHEDIR.TAG n/a s s/CACHEDIR.TAG s/a")
	}
}

func TestAlwaysExclude(t *testing.T) {
	root := t.TempDir()
	makeTree(t, root, "vault/x", "v/w/vault/x", "home/k", "a/home/k")
	os.Symlink(root+"/v", root+"/other")
	o := Options{
		AlwaysExclude: []string{root + "/other/w", root + "/home/", root + "/later"},
		Excludes:      []string{"!w", "!home"},
	}
	tree := openTree(t, root, o, defaultLimits)
	wantPaths(t, rest(t, tree), "a a/home a/home/k other v vault vault/x")
	os.Mkdir(root+"/later", 0o700)
	wantPaths(t, walk(t, root, o, defaultLimits), "a a/home a/home/k other v vault vault/x")
	for _, r := range []string{"/home", "/v/w", "/v/w/vault", "/other/w/vault", "/later"} {
		if _, err := Open(root+r, o); err == nil {
			t.Errorf("%s was opened", r)
		}
	}
	if _, err := Open(root, Options{AlwaysExclude: []string{"relative"}}); err == nil {
		t.Error("a relative path is taken")
	}
}

// TestExcludesAsGit compares with what git would not ignore.
func TestExcludesAsGit(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
	for range 8 {
		seed := rand.Uint64()
		rnd := rand.New(rand.NewPCG(seed, 2))
		root := filepath.Join(t.TempDir(), "root")
		var o Options
		o.IgnoreFileName = ".gitignore"
		names := []string{"a", "b", "ab", "a b", "é", "#a", "!a", "-", "]", "a\xffb", ".a"}
		for range 40 {
			var p []string
			for range 1 + rnd.IntN(4) {
				p = append(p, names[rnd.IntN(len(names))])
			}
			path := filepath.Join(root, filepath.Join(p...))
			os.MkdirAll(filepath.Dir(path), 0o700)
			os.WriteFile(path, nil, 0o600)
		}
		var ignore []string
		patterns := func() (s string) {
			for range 1 + rnd.IntN(4) {
				s += randomPattern(rnd) + "\n"
			}
			return s
		}
		ignore = append(ignore, ".gitignore:"+patterns())
		for _, d := range []string{"a", "ab", "a/b"} {
			text := patterns()
			if os.WriteFile(filepath.Join(root, d, ".gitignore"), []byte(text), 0o600) == nil {
				ignore = append(ignore, d+":"+text)
			}
		}
		os.WriteFile(root+"/.gitignore", []byte(strings.TrimPrefix(ignore[0], ".gitignore:")), 0o600)
		args := []string{"ls-files", "-z", "--others", "--exclude-per-directory=.gitignore"}
		for range rnd.IntN(3) {
			p := randomPattern(rnd)
			o.Excludes = append(o.Excludes, p)
			args = append(args, "--exclude="+p)
		}
		want := gitFiles(t, root, args)
		var got []string
		for _, s := range walk(t, root, o, defaultLimits) {
			if s.entry.Kind == manifest.KindFile {
				got = append(got, strings.ReplaceAll(s.key, "\x00", "/"))
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("seed %d, excludes %q, files %q:\n got %q\nwant %q", seed, o.Excludes, ignore, got, want)
		}
	}
}

func gitFiles(t *testing.T, root string, args []string) []string {
	t.Helper()
	git := filepath.Join(t.TempDir(), "git")
	run := func(args ...string) []byte {
		cmd := exec.Command("git", append([]string{"--git-dir=" + git, "--work-tree=" + root}, args...)...)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(fmt.Errorf("git %q: %w: %s", args, err, stderr.String()))
		}
		return out
	}
	run("init", "-q")
	out := strings.TrimSuffix(string(run(args...)), "\x00")
	if out == "" {
		return nil
	}
	files := strings.Split(out, "\x00")
	slices.Sort(files)
	return files
}

// TestExcludedFolderOutOfFile turns a file into a folder that a pattern leaves out,
// between the folder's listing and the look at the name.
func TestExcludedFolderOutOfFile(t *testing.T) {
	root := t.TempDir()
	makeTree(t, root, "a=x", "private=x", "z=x")
	swap := func(s Step) {
		if s.Op == OpListed && s.Path == root {
			os.Remove(root + "/private")
			makeTree(t, root, "private/secret=x")
		}
	}
	wantPaths(t, walk(t, root, Options{Excludes: []string{"private/"}, Hook: swap}, defaultLimits), "a z")
}
