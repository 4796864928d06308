package location

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/tharsis-backup/tharsis/vault/backend"
)

func TestParse(t *testing.T) {
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.VolumeName(wd) + string(filepath.Separator)
	for in, want := range map[string]string{
		"vault":             filepath.Join(wd, "vault"),
		".":                 wd,
		"./s3://x":          filepath.Join(wd, "s3:", "x"),
		"a/file:///x":       filepath.Join(wd, "a", "file:", "x"),
		"../vault/":         filepath.Join(filepath.Dir(wd), "vault"),
		"~/vault":           filepath.Join(wd, "~", "vault"),
		"/srv//vault/":      filepath.Join(root, "srv", "vault"),
		"/a b%20c?d#e":      filepath.Join(root, "a b%20c?d#e"),
		"/":                 root,
		"1s3://x":           filepath.Join(wd, "1s3:", "x"),
		"ä://x":             filepath.Join(wd, "ä:", "x"),
		"-s://x":            filepath.Join(wd, "-s:", "x"),
		"://x":              filepath.Join(wd, ":", "x"),
		"files:x":           filepath.Join(wd, "files:x"),
		"file:///srv/vault": filepath.Join(root, "srv", "vault"),
		"FILE:///srv/vault": filepath.Join(root, "srv", "vault"),
		"file:///":          root,

		"file://localhost/a":      filepath.Join(root, "a"),
		"file:///a%20b%3Fc%25%23": filepath.Join(root, "a b?c%#"),
		"file:///a+b":             filepath.Join(root, "a+b"),
	} {
		if runtime.GOOS == "windows" && strings.Contains(want[2:], ":") {
			continue
		}
		got, err := Parse(in)
		if err != nil || got != (Location{SchemeFile, want}) {
			t.Errorf("%q: got %+v, %v, want %q", in, got, err, want)
		}
		checkParse(t, in)
	}
}

func TestParseErrors(t *testing.T) {
	for in, want := range map[string]string{
		"":                        "empty",
		"s3://bucket/x":           "scheme \"s3\" is not supported, give a folder's path or file:///path",
		"SFTP://u:p@host/x":       "scheme \"sftp\"",
		"a+b-c.d://":              "scheme \"a+b-c.d\"",
		"file:/srv":               "write file:///path",
		"file:srv":                "write file:///path",
		"file://":                 "no path",
		"file://localhost":        "no path",
		"file:///a?b":             "written as %3F",
		"file:///a#b":             "written as %23",
		"file:///a%2":             "invalid URL escape",
		"file:///a%00b":           "NUL",
		"a\x00b":                  "NUL",
		strings.Repeat("a", 1e5):  "at most",
		"file://server/share/dir": "has to be mounted",
	} {
		if runtime.GOOS == "windows" && strings.HasPrefix(in, "file://server") {
			continue
		}
		if got, err := Parse(in); err == nil || !strings.Contains(err.Error(), want) || got != (Location{}) {
			t.Errorf("%.50q: got %+v, %v, want %q", in, got, err, want)
		}
	}
}

// TestFilePathWindows runs on every system.
func TestFilePathWindows(t *testing.T) {
	for in, want := range map[string]string{
		"/C:/vault/x":    `C:\vault\x`,
		"/C:":            `C:\`,
		"/c%3A/a%20b":    `c:\a b`,
		"localhost/C:/x": `C:\x`,
		"server/share/x": `\\server\share\x`,
		"/vault":         `\vault`,
	} {
		if got, err := filePath(in, true); err != nil || got != want {
			t.Errorf("file://%s: got %q, %v, want %q", in, got, err, want)
		}
	}
	for _, in := range []string{`C:\x`, "C:/x", "C://x", "c:x"} {
		if scheme, _, ok := cutScheme(in); ok {
			t.Errorf("%s has the scheme %q", in, scheme)
		}
	}
}

// checkParse wants what was parsed to be absolute, clean, and the same again
// from its own string.
func checkParse(t *testing.T, s string) {
	l, err := Parse(s)
	if err != nil {
		return
	}
	if l.Scheme != SchemeFile || !filepath.IsAbs(l.Path) || filepath.Clean(l.Path) != l.Path {
		t.Errorf("%q: not canonical: %+v", s, l)
	}
	if again, err := Parse(l.String()); err != nil || again != l {
		t.Errorf("%q: again: %+v, %v, want %+v", s, again, err, l)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"", "vault", "/a", "file:///a", "file://localhost/a%20b", "s3://x", "C:\\x", "file:///C:/x", "a/../..", "file:x", "//",
	} {
		f.Add(s)
	}
	f.Fuzz(checkParse)
}

func TestOpen(t *testing.T) {
	ctx := t.Context()
	dir := filepath.Join(t.TempDir(), "a", "vault")
	l, err := Parse("file://" + urlPath(dir))
	if err != nil || l.Path != dir {
		t.Fatal(l, err)
	}
	if _, err := Open(ctx, l); !errors.Is(err, backend.ErrNotFound) {
		t.Errorf("open of nothing: %v", err)
	}
	if _, err := os.Lstat(filepath.Dir(dir)); err == nil {
		t.Error("open made a folder")
	}
	for i, how := range []func(context.Context, Location) (backend.Backend, error){Create, Open, Create} {
		b, err := how(ctx, l)
		if err != nil {
			t.Fatal(err)
		}
		err = backend.PutBytes(ctx, b, "config", []byte("x"))
		if i == 0 && err != nil || i > 0 && !errors.Is(err, backend.ErrExists) {
			t.Errorf("put %d: %v", i, err)
		}
		b.Close()
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := Create(cancelled, Location{SchemeFile, dir + "2"}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := Open(ctx, Location{"s3", "x"}); err == nil || !strings.Contains(err.Error(), "s3") {
		t.Errorf("another scheme: %v", err)
	}
}

// urlPath is the path part of a file URL.
func urlPath(path string) string {
	path = filepath.ToSlash(path)
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	return strings.ReplaceAll(path, "%", "%25")
}
