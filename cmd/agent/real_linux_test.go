package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tharsis-backup/tharsis/internal/treecmp"
)

// realAgent is a home, a vault and a source for an agent that runs as a process of
// its own, under whatever keeps it short.
type realAgent struct {
	t    testing.TB
	dir  string // holds all of it
	src  string
	want string // a copy of the source, as the last edit left it
}

// newRealAgent makes a source and a vault that the home holds the key of.
func newRealAgent(t testing.TB, dir string) *realAgent {
	t.Helper()
	r := &realAgent{t: t, dir: dir, src: filepath.Join(dir, "src"), want: filepath.Join(dir, "want")}
	if err := os.MkdirAll(r.src, 0o755); err != nil {
		t.Fatal(err)
	}
	r.must("init", "--vault", filepath.Join(dir, "vault"))
	return r
}

// command is the agent with these arguments, behind the words of under.
func (r *realAgent) command(under []string, args ...string) *exec.Cmd {
	path, err := exec.LookPath("agent")
	if err != nil {
		r.t.Fatal(err)
	}
	words := append(slices.Clone(under), append([]string{path, "--quiet"}, args...)...)
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Env = append(os.Environ(), "THARSIS_HOME="+filepath.Join(r.dir, "home"), "THARSIS_PASSPHRASE=correct horse battery staple")
	return cmd
}

// run runs the agent and returns its exit code and what it said.
func (r *realAgent) run(under []string, args ...string) (code int, said string) {
	var out bytes.Buffer
	cmd := r.command(under, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		r.t.Fatalf("%v: %v", cmd.Args, err)
	}
	return cmd.ProcessState.ExitCode(), out.String()
}

// must runs the agent with nothing in its way.
func (r *realAgent) must(args ...string) {
	r.t.Helper()
	if code, said := r.run(nil, args...); code != 0 {
		r.t.Fatalf("agent %s: exit %d: %s", strings.Join(args, " "), code, said)
	}
}

// write makes or changes a file of the source.
func (r *realAgent) write(name string, data []byte) {
	r.t.Helper()
	path := filepath.Join(r.src, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o644)); err != nil {
		r.t.Fatal(err)
	}
}

// fill makes so many small files, of which no two are alike.
func (r *realAgent) fill(name string, files int) {
	r.t.Helper()
	for i := range files {
		r.write(fmt.Sprintf("%s/%02d/%04d.txt", name, i/100, i), bytes.Repeat(fmt.Appendf(nil, "%s, file %d\n", name, i), 1+i%40))
	}
}

// noise is data that does not compress, the same for each seed.
func noise(seed uint64, n int) []byte {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	b := make([]byte, n)
	rand.NewChaCha8(key).Read(b)
	return b
}

// keep copies the source, to compare with.
func (r *realAgent) keep(name string) string {
	r.t.Helper()
	to := filepath.Join(r.dir, name)
	r.copy(r.src, to)
	return to
}

// copy makes to a copy of from, as it is.
func (r *realAgent) copy(from, to string) {
	r.t.Helper()
	if err := os.RemoveAll(to); err != nil {
		r.t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		r.t.Fatalf("copy %s: %v: %s", from, err, out)
	}
}

// restores restores a point with nothing in the way, and compares it.
func (r *realAgent) restores(point, want string) error {
	target := filepath.Join(r.dir, "target")
	defer os.RemoveAll(target)
	if code, said := r.run(nil, "restore", "--point", point, "--target", target); code != 0 {
		return fmt.Errorf("restore %s: exit %d: %s", point, code, said)
	}
	return sameTree(want, filepath.Join(target, r.src))
}

func sameTree(want, got string) error {
	diffs, err := treecmp.Compare(want, got, treecmp.Options{Max: 5})
	if err == nil && len(diffs) > 0 {
		err = fmt.Errorf("differs: %v", diffs)
	}
	return err
}

var pointID = regexp.MustCompile(`"point":"([0-9a-f]{32})"`)

// point is the ID of the only point.
func (r *realAgent) point() string {
	r.t.Helper()
	code, said := r.run(nil, "points", "--json")
	ids := pointID.FindAllStringSubmatch(said, -1)
	if code != 0 || len(ids) != 1 {
		r.t.Fatalf("points: exit %d: %s", code, said)
	}
	return ids[0][1]
}

// memoryDir is a folder in memory where the system has one: some tests wait for the
// disk thousands of times.
func memoryDir(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "tharsis-real-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// needs ends the test where a tool is missing: on a developer's machine by
// skipping it.
func needs(t testing.TB, tool string) string {
	t.Helper()
	path, err := exec.LookPath(tool)
	if err != nil {
		lacking(t, err.Error())
	}
	return path
}

// lacking ends the test since something is missing here that CI has to have.
func lacking(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("THARSIS_CI") != "" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// all tells whether every case of an enumeration is to be run.
func all() bool { return os.Getenv("THARSIS_ALL") != "" }
