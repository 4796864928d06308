package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// changers are the functions of package os that change a file system. In the rooms
// that keep anybody's data only package disk may call them, so that there is no
// such call that a test can't make fail.
var changers = []string{
	"Chmod", "Create", "CreateTemp", "Link", "Mkdir", "MkdirAll", "MkdirTemp", "OpenFile",
	"Remove", "RemoveAll", "Rename", "Symlink", "Truncate", "WriteFile",
}

// TestChangesPassTheSeam looks for calls that go around package disk.
func TestChangesPassTheSeam(t *testing.T) {
	seen := 0
	for _, p := range packages(t) {
		if r := room(p.ImportPath); !(r >= 1 || strings.HasSuffix(p.ImportPath, "/internal/durable")) {
			continue
		}
		for _, name := range p.GoFiles {
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			seen++
			ast.Inspect(f, func(n ast.Node) bool {
				if call := changer(n); call != "" {
					t.Errorf("%s: os.%s goes around package disk", fset.Position(n.Pos()), call)
				}
				return true
			})
		}
	}
	if seen < 50 {
		t.Errorf("only %d files were looked at", seen)
	}
}

// changer names the function where n calls one of the changers, less an OpenFile
// to read.
func changer(n ast.Node) string {
	call, ok := n.(*ast.CallExpr)
	if !ok {
		return ""
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	if x, ok := sel.X.(*ast.Ident); !ok || x.Name != "os" || !slices.Contains(changers, sel.Sel.Name) {
		return ""
	}
	if sel.Sel.Name == "OpenFile" && readOnly(call.Args[1]) {
		return ""
	}
	return sel.Sel.Name
}

// readOnly tells whether flags have os.O_RDONLY and none that changes anything.
func readOnly(flags ast.Expr) (yes bool) {
	bad := false
	ast.Inspect(flags, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok {
			yes = yes || id.Name == "O_RDONLY"
			bad = bad || slices.Contains([]string{"O_WRONLY", "O_RDWR", "O_CREATE", "O_TRUNC", "O_APPEND"}, id.Name)
		}
		return true
	})
	return yes && !bad
}

// TestChangerIsSeen shows that the check can fail.
func TestChangerIsSeen(t *testing.T) {
	for text, want := range map[string]string{
		"os.Remove(p)": "Remove", "os.Open(p)": "", "disk.Remove(p)": "",
		"os.OpenFile(p, os.O_RDONLY|syscall.O_NONBLOCK, 0)": "", "os.OpenFile(p, os.O_RDONLY|os.O_CREATE, 0)": "OpenFile",
		"os.OpenFile(p, flags, 0)": "OpenFile",
	} {
		e, err := parser.ParseExpr(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := changer(e); got != want {
			t.Errorf("%s: %q", text, got)
		}
	}
}
