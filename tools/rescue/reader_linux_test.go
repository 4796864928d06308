package rescue

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tharsis-backup/tharsis/internal/treecmp"
	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/backend/local"
	"github.com/tharsis-backup/tharsis/vault/key"
)

// passphrase is that of all vaults here.
const passphrase = "correct horse battery staple"

// shared is a folder for what all tests use; TestMain removes it.
var shared string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "tharsis-rescue-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		shared = dir
		defer removeAll(dir)
		return m.Run()
	}())
}

// findPython is a Python 3 that has the modules which rescue.py needs.
var findPython = sync.OnceValues(func() (string, error) {
	var errs []error
	for _, name := range []string{"python3", "/usr/bin/python3"} {
		out, err := exec.Command(name, "-B", "-c", "import cryptography, argon2, zstandard").CombinedOutput()
		if err == nil {
			return name, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(out)))
	}
	return "", errors.Join(errs...)
})

// needPython skips the test where there is no such Python, and fails it in CI.
func needPython(t *testing.T) string {
	t.Helper()
	python, err := findPython()
	if err == nil {
		return python
	}
	if os.Getenv("THARSIS_CI") != "" {
		t.Fatal(err)
	}
	t.Skip(err)
	return ""
}

// result is how a command ended.
type result struct {
	code        int
	out, errors string
}

func (r result) String() string { return fmt.Sprintf("exit %d\n%s%s", r.code, r.out, r.errors) }

func command(t *testing.T, env []string, name string, args ...string) result {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(cleanEnv(), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// cleanEnv is the environment without a developer's own vault.
func cleanEnv() (env []string) {
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "THARSIS_") {
			env = append(env, v)
		}
	}
	return env
}

// rescue runs rescue.py with the passphrase in the environment.
func rescue(t *testing.T, args ...string) result {
	t.Helper()
	return command(t, []string{"THARSIS_PASSPHRASE=" + passphrase}, needPython(t), append([]string{"-B", "rescue.py"}, args...)...)
}

// buildAgent builds the agent once for all tests.
var buildAgent = sync.OnceValues(func() (string, error) {
	file := filepath.Join(shared, "agent")
	out, err := exec.Command("go", "build", "-o", file, "../../cmd/agent").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build ./cmd/agent: %w: %s", err, out)
	}
	return file, nil
})

// cheapKDF makes a passphrase cheap to try; all of its parameters differ.
var cheapKDF = key.KDFParams{Time: 2, MemoryKiB: 64, Lanes: 4}

// machine is an agent with a home and a vault.
type machine struct {
	t               *testing.T
	dir             string
	vault, recovery string // the vault's folder, the file of its recovery key
}

func newMachine(t *testing.T) *machine {
	dir := quickDir(t)
	m := &machine{t: t, dir: dir, vault: filepath.Join(dir, "vault"), recovery: filepath.Join(dir, "recovery")}
	createVault(t, m.vault, m.recovery)
	return m
}

// quickDir is a folder in memory where the system has one: the agent waits for
// the disk often.
func quickDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "tharsis-rescue-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// createVault makes a vault and writes its recovery key to a file.
func createVault(t *testing.T, dir, recovery string) (*local.Backend, key.VaultID, key.Secrets) {
	t.Helper()
	b, err := local.Create(dir, local.Options{})
	noErr(t, err)
	t.Cleanup(func() { b.Close() })
	with, err := key.NewPassphrase([]byte(passphrase))
	noErr(t, err)
	spare, err := key.NewRecoveryKey(rand.Reader)
	noErr(t, err)
	id, secrets, err := vault.Create(t.Context(), b, vault.CreateOptions{Passphrase: with, Recovery: spare, KDF: cheapKDF})
	noErr(t, err)
	noErr(t, os.WriteFile(recovery, []byte(spare.String()+"\n"), 0o600))
	return b, id, secrets
}

// agent runs the agent, and ends the test if it does not exit with code.
func (m *machine) agent(code int, args ...string) result {
	m.t.Helper()
	file, err := buildAgent()
	if err != nil {
		m.t.Fatal(err)
	}
	env := []string{"THARSIS_HOME=" + filepath.Join(m.dir, "home"), "THARSIS_PASSPHRASE=" + passphrase}
	res := command(m.t, env, file, append(args, "--vault", m.vault)...)
	if res.code != code {
		m.t.Fatalf("agent %q: want exit %d, got %v", args, code, res)
	}
	return res
}

// backup makes a point and returns its ID.
func (m *machine) backup(paths ...string) string {
	m.t.Helper()
	out := m.agent(0, append([]string{"backup-now"}, paths...)...).out
	_, rest, ok := strings.Cut(out, "\npoint ")
	if !ok || len(rest) < 32 {
		m.t.Fatalf("backup-now names no point: %s", out)
	}
	return rest[:32]
}

// restore restores a point with the agent.
func (m *machine) restore(point string) string {
	m.t.Helper()
	target := m.target()
	m.agent(0, "restore", "--point", point, "--target", target)
	return target
}

// rescue restores a point with rescue.py and the recovery key, which costs no
// Argon2id, and wants the exit code.
func (m *machine) rescue(code int, point string, more ...string) (target string, res result) {
	m.t.Helper()
	target = m.target()
	args := []string{"--recovery-key-file", m.recovery, m.vault, "restore", point, target}
	if res = rescue(m.t, append(args, more...)...); res.code != code {
		m.t.Fatalf("restore %s: want exit %d, got %v", point, code, res)
	}
	return target, res
}

// target is a folder that is not there yet.
func (m *machine) target() string {
	dir, err := os.MkdirTemp(shared, "target-")
	noErr(m.t, err)
	m.t.Cleanup(func() { removeAll(dir) })
	return filepath.Join(dir, "t")
}

// copied is the machine with a copy of its vault, to be damaged.
func (m *machine) copied(t *testing.T) *machine {
	c := &machine{t: t, dir: quickDir(t), recovery: m.recovery}
	c.vault = filepath.Join(c.dir, "vault")
	noErr(t, os.CopyFS(c.vault, os.DirFS(m.vault)))
	return c
}

// same compares two trees in everything.
func same(t *testing.T, a, b string) {
	t.Helper()
	var stats treecmp.Stats
	diffs, err := treecmp.Compare(a, b, treecmp.Options{Max: 20, Stats: &stats})
	noErr(t, err)
	for _, d := range diffs {
		t.Errorf("%s | %s: %v", a, b, d)
	}
	if stats.Entries == 0 {
		t.Errorf("%s | %s: nothing was compared", a, b)
	}
}

func noErr(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// removeAll removes also what its owner may not write to.
func removeAll(dir string) {
	exec.Command("chmod", "-R", "u+rwx", dir).Run()
	os.RemoveAll(dir)
}
