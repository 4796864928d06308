//go:build linux

package main

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// scriptCommands are what the stories have beyond testscript's own commands.
var scriptCommands = map[string]func(*testscript.TestScript, bool, []string){
	"exits":   exitsCmd,
	"line":    lineCmd,
	"fields":  fieldsCmd,
	"keep":    keepCmd,
	"private": privateCmd,
	"mode":    modeCmd,
	"spoil":   spoilCmd,
	"setbyte": setByteCmd,
	"give":    giveCmd,
	"waitfor": waitForCmd,
	"mtime":   mtimeCmd,
	"random":  randomCmd,
	"same":    sameCmd,
}

// exits CODE COMMAND ARGS...: the command ends with this exit code.
func exitsCmd(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var ee *exec.ExitError
	if errors.As(err, &ee) {
		got = ee.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want || neg {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// jsonLines are the lines of stdout of a type; "last" is the last line.
func jsonLines(ts *testscript.TestScript, kind string) (found []map[string]any) {
	text := strings.TrimSuffix(ts.ReadFile("stdout"), "\n")
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		var m map[string]any
		if err := json.Unmarshal([]byte(l), &m); err != nil {
			ts.Fatalf("line %d of stdout is not JSON: %v: %s", i+1, err, l)
		}
		if !strings.HasPrefix(l, `{"type":"`) {
			ts.Fatalf("line %d has no type in front: %s", i+1, l)
		}
		if m["type"] == kind {
			found = append(found, m)
		}
		if (m["type"] == "summary") != (i == len(lines)-1) {
			ts.Fatalf("the summary is not the last line, or not the only one:\n%s", text)
		}
	}
	return found
}

func value(m map[string]any, name string) string {
	v, ok := m[name]
	if !ok {
		return "<missing>"
	}
	if s, ok := v.(string); ok {
		return s
	}
	b, _ := json.Marshal(v)
	return string(b)
}

// line TYPE [FIELD=REGEXP...]: stdout has a JSON line of this type whose fields match.
func lineCmd(ts *testscript.TestScript, neg bool, args []string) {
	all := jsonLines(ts, args[0])
	hit := slices.ContainsFunc(all, func(m map[string]any) bool {
		for _, a := range args[1:] {
			name, pattern, _ := strings.Cut(a, "=")
			if !regexp.MustCompile("^(?:" + pattern + ")$").MatchString(value(m, name)) {
				return false
			}
		}
		return true
	})
	if hit == neg {
		ts.Fatalf("%d lines of type %s, match %v:\n%s", len(all), args[0], hit, ts.ReadFile("stdout"))
	}
}

// fields NAME...: the summary has these fields and no others.
func fieldsCmd(ts *testscript.TestScript, neg bool, args []string) {
	got := []string{}
	for k := range jsonLines(ts, "summary")[0] {
		if k != "type" {
			got = append(got, k)
		}
	}
	slices.Sort(got)
	slices.Sort(args)
	if !slices.Equal(got, args) || neg {
		ts.Fatalf("fields %v, want %v", got, args)
	}
}

// keep VARIABLE TYPE FIELD: remembers a field of the last JSON line of this type.
func keepCmd(ts *testscript.TestScript, _ bool, args []string) {
	all := jsonLines(ts, args[1])
	if len(all) == 0 {
		ts.Fatalf("no line of type %s", args[1])
	}
	ts.Setenv(args[0], value(all[len(all)-1], args[2]))
}

// private DIR: nobody else can get at anything below it.
func privateCmd(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(filepath.WalkDir(ts.MkAbs(args[0]), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		}
		if info.Mode().Perm() != want {
			return fmt.Errorf("%s has mode %v, want %v", path, info.Mode().Perm(), want)
		}
		return nil
	}))
}

// mode OCTAL FILE: the file's mode.
func modeCmd(ts *testscript.TestScript, neg bool, args []string) {
	info, err := os.Lstat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := fmt.Sprintf("%04o", info.Mode().Perm()); (got != args[0]) != neg {
		ts.Fatalf("%s has mode %s", args[1], got)
	}
}

// glob gives the files of a pattern; there must be some.
func glob(ts *testscript.TestScript, pattern string) []string {
	files, err := filepath.Glob(ts.MkAbs(pattern))
	ts.Check(err)
	if len(files) == 0 {
		ts.Fatalf("no file %s", pattern)
	}
	return files
}

// spoil GLOB: flips a bit in the middle of each file.
func spoilCmd(ts *testscript.TestScript, _ bool, args []string) {
	for _, f := range glob(ts, args[0]) {
		b, err := os.ReadFile(f)
		ts.Check(err)
		b[len(b)/2] ^= 4
		ts.Check(os.WriteFile(f, b, 0o600))
	}
}

// setbyte GLOB OFFSET HEX: writes bytes into the files.
func setByteCmd(ts *testscript.TestScript, _ bool, args []string) {
	at, err := strconv.Atoi(args[1])
	ts.Check(err)
	with, err := hex.DecodeString(args[2])
	ts.Check(err)
	for _, f := range glob(ts, args[0]) {
		b, err := os.ReadFile(f)
		ts.Check(err)
		copy(b[at:], with)
		ts.Check(os.WriteFile(f, b, 0o600))
	}
}

// give PATH...: all below belongs to the user of agent-nobody.
func giveCmd(ts *testscript.TestScript, _ bool, args []string) {
	if os.Geteuid() != 0 {
		return
	}
	for _, root := range args {
		ts.Check(filepath.WalkDir(ts.MkAbs(root), func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return os.Lchown(path, nobodyID, nobodyID)
		}))
	}
}

// waitFor bounds how long a story waits for another process, which normally
// takes no time at all.
const waitFor = time.Minute

// waitfor FILE: waits until the file is there.
func waitForCmd(ts *testscript.TestScript, _ bool, args []string) {
	for end := time.Now().Add(waitFor); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(ts.MkAbs(args[0])); err == nil {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("%s did not come", args[0])
		}
	}
}

// mtime TIME FILE...: sets when the files were changed.
func mtimeCmd(ts *testscript.TestScript, _ bool, args []string) {
	at, err := time.Parse(time.RFC3339, args[0])
	ts.Check(err)
	for _, f := range args[1:] {
		ts.Check(os.Chtimes(ts.MkAbs(f), at, at))
	}
}

// random FILE BYTES SEED: writes content that no compressor shrinks.
func randomCmd(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	seed, err := strconv.ParseUint(args[2], 10, 64)
	ts.Check(err)
	b := make([]byte, n)
	for i := range b {
		seed = seed*6364136223846793005 + 1442695040888963407
		b[i] = byte(seed >> 56)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o644))
}

// same DIR DIR: the two folders hold the same names, modes, times and content.
func sameCmd(ts *testscript.TestScript, neg bool, args []string) {
	a, b := snapshot(ts, args[0]), snapshot(ts, args[1])
	if (a == b) == neg {
		ts.Fatalf("%s:\n%s\n%s:\n%s", args[0], a, args[1], b)
	}
}

func snapshot(ts *testscript.TestScript, dir string) string {
	var b strings.Builder
	root := ts.MkAbs(dir)
	ts.Check(filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		fmt.Fprintf(&b, "%q %v %d", rel, info.Mode(), info.ModTime().UnixNano())
		switch {
		case info.Mode().IsRegular():
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %q", content)
		case info.Mode()&fs.ModeSymlink != 0:
			to, _ := os.Readlink(path)
			fmt.Fprintf(&b, " -> %q", to)
		}
		b.WriteByte('\n')
		return nil
	}))
	return b.String()
}
