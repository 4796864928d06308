package archtest

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/tharsis-backup/tharsis"

// rooms are the rooms from the top down: a package may import its own room and
// those below it. The packages of internal/ may be used by all.
var rooms = []string{"cmd", "service", "agent", "cache", "vault", "chunk"}

type goPackage struct {
	ImportPath, Dir, Name                          string
	Imports, TestImports, XTestImports             []string
	GoFiles, IgnoredGoFiles, TestGoFiles, CgoFiles []string
}

func packages(t *testing.T) (all []goPackage) {
	t.Helper()
	cmd := exec.Command("go", "list", "-json", "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// room is the place of a package's room in rooms, or -1 for one of no room.
func room(path string) int {
	rel := strings.TrimPrefix(strings.TrimPrefix(path, module), "/")
	first, _, _ := strings.Cut(rel, "/")
	for i, r := range rooms {
		if r == first {
			return i
		}
	}
	return -1
}

func isInternal(path string) bool { return strings.HasPrefix(path, module+"/internal/") }

// violation says what is wrong with an import, or "".
func violation(from, to string) string {
	if !strings.HasPrefix(to, module) {
		return ""
	}
	a, b := room(from), room(to)
	switch {
	case isInternal(to) || a < 0 && !isInternal(from):
		return ""
	case isInternal(from):
		return "internal packages serve all rooms, and know none"
	case b < 0:
		return "it is in no room"
	case b < a:
		return rooms[a] + " is below " + rooms[b]
	}
	return ""
}

func TestImportDirection(t *testing.T) {
	for _, p := range packages(t) {
		for _, to := range p.Imports {
			if why := violation(p.ImportPath, to); why != "" {
				t.Errorf("%s imports %s: %s", p.ImportPath, to, why)
			}
		}
		if len(p.CgoFiles) > 0 {
			t.Errorf("%s uses cgo", p.ImportPath)
		}
	}
}

// TestViolation shows that the check can fail.
func TestViolation(t *testing.T) {
	for _, c := range []struct {
		from, to string
		ok       bool
	}{
		{"/agent", "/vault/log", true}, {"/vault/log", "/agent", false}, {"/chunk", "/vault/key", false},
		{"/vault", "/internal/wire", true}, {"/internal/wire", "/vault/key", false}, {"/cmd/agent", "/chunk", true},
		{"/cache/journal", "/agent/home", false}, {"/bench", "/internal/treecmp", true},
	} {
		if got := violation(module+c.from, module+c.to) == ""; got != c.ok {
			t.Errorf("%s -> %s: allowed %v, want %v", c.from, c.to, got, c.ok)
		}
	}
}

// chunk is pure: no files, no network, no clock, no logger.
func TestChunkIsPure(t *testing.T) {
	for _, p := range packages(t) {
		if p.ImportPath != module+"/chunk" {
			continue
		}
		for _, bad := range []string{"os", "net", "time", "log", "log/slog", "path/filepath", "context"} {
			for _, to := range p.Imports {
				if to == bad {
					t.Errorf("chunk imports %s", bad)
				}
			}
		}
	}
}

func TestPackageDocs(t *testing.T) {
	for _, p := range packages(t) {
		docs := 0
		files := append(append([]string{}, p.GoFiles...), p.IgnoredGoFiles...)
		for _, name := range files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.ParseComments|parser.PackageClauseOnly)
			if err != nil {
				t.Fatal(err)
			}
			if f.Doc != nil && f.Name.Name == p.Name {
				docs++
				want := "Package " + p.Name + " "
				if p.Name == "main" {
					want = filepath.Base(p.Dir) + " "
				}
				if !strings.Contains(strings.ToLower(f.Doc.Text()), strings.ToLower(want)) {
					t.Errorf("%s: the doc of %s does not begin with %q", p.ImportPath, name, want)
				}
			}
		}
		if docs != 1 {
			t.Errorf("%s has %d package docs, want 1", p.ImportPath, docs)
		}
	}
}

// maxFileLines and maxFunctionLines are where a file or function holds a second idea.
const (
	maxFileLines     = 500
	maxFunctionLines = 80
)

func TestSizes(t *testing.T) {
	for _, p := range packages(t) {
		for _, name := range p.GoFiles {
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			if n := fset.File(f.Pos()).LineCount(); n > maxFileLines {
				t.Errorf("%s/%s has %d lines", p.ImportPath, name, n)
			}
			ast.Inspect(f, func(n ast.Node) bool {
				if fn, ok := n.(*ast.FuncDecl); ok {
					if n := fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line + 1; n > maxFunctionLines {
						t.Errorf("%s/%s: %s has %d lines", p.ImportPath, name, fn.Name.Name, n)
					}
				}
				return true
			})
		}
	}
}
