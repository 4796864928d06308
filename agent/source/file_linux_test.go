package source

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// unprivileged runs the test again as a user who is not root.
func unprivileged(t *testing.T) {
	t.Helper()
	dir, err := os.MkdirTemp("", "source")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	os.Chmod(dir, 0o777|os.ModeSticky)
	exe, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(dir+"/test", exe, 0o755)
	}
	if err != nil {
		t.Skip(err)
	}
	cmd := exec.Command(dir+"/test", "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TMPDIR="+dir, "GOCOVERDIR=")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS")) {
		t.Errorf("as nobody: %v\n%s", err, out)
	}
}

// openFile walks dir and opens one file of it.
func openFile(t *testing.T, dir, name string) (*File, step) {
	t.Helper()
	tree := openTree(t, dir, Options{}, defaultLimits)
	s := upTo(t, tree, name)
	f, err := s.dir.Open(s.name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f, s
}

func TestFileRead(t *testing.T) {
	dir := t.TempDir()
	old := time.Unix(-1000, 5)
	text := bytes.Repeat([]byte("0123456789"), 1000)
	os.WriteFile(dir+"/f", text, 0o640)
	os.Chtimes(dir+"/f", old, old)
	f, s := openFile(t, dir, "f")
	if fmt.Sprint(f.Opened()) != fmt.Sprint(s.entry) {
		t.Errorf("opened %+v\nlisted %+v", f.Opened(), s.entry)
	}
	if e, err := f.Stat(); err != nil || fmt.Sprint(e) != fmt.Sprint(s.entry) {
		t.Errorf("stat %+v\nlisted %+v", e, s.entry)
	}
	if s.entry.MTime != (manifest.Time{Sec: -1000, Nsec: 5}) {
		t.Errorf("mtime %+v", s.entry.MTime)
	}
	got, err := io.ReadAll(f)
	if err != nil || !bytes.Equal(got, text) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
	buf := make([]byte, 20)
	if n, err := f.ReadAt(buf, 9990); n != 10 || err != io.EOF || string(buf[:n]) != "0123456789" {
		t.Errorf("read at: %d, %v, %q", n, err, buf[:n])
	}
	var st unix.Stat_t
	unix.Stat(dir+"/f", &st)
	if st.Atim.Sec != -1000 {
		t.Errorf("reading set the access time to %d", st.Atim.Sec)
	}
	os.WriteFile(dir+"/f", []byte("short"), 0o640)
	if e, err := f.Stat(); err != nil || e.Size != 5 || f.Opened().Size != 10000 {
		t.Errorf("after a change: %d, %v", e.Size, err)
	}
}

// TestOpenRefuses: only what is a regular file is opened.
func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	makeTree(t, dir, "f=x", "d/")
	os.Symlink("f", dir+"/link")
	unix.Mkfifo(dir+"/fifo", 0o600)
	socket(t, dir+"/sock")
	tree := openTree(t, dir, Options{}, defaultLimits)
	d := upTo(t, tree, "f").dir
	for _, name := range []string{"d", "link", "fifo", "sock"} {
		if _, err := d.Open(name); !errors.Is(err, ErrReplaced) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := d.Open("missing"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestHoles(t *testing.T) {
	dir := t.TempDir()
	const mib = 1 << 20
	file, err := os.Create(dir + "/f")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	file.WriteAt(make([]byte, 4096), 3*mib)
	file.WriteAt([]byte("end"), 8*mib)
	if err := file.Truncate(1 << 40); err != nil {
		t.Skip(err)
	}
	os.WriteFile(dir+"/plain", make([]byte, mib), 0o600)
	os.WriteFile(dir+"/empty", nil, 0o600)

	f, _ := openFile(t, dir, "f")
	data := 0
	for off := int64(0); ; {
		start, end, err := f.NextData(off)
		if err == io.EOF {
			break
		}
		if err != nil || start < off || end <= start {
			t.Fatalf("from %d: %d to %d, %v", off, start, end, err)
		}
		if start > 3*mib && start < 8*mib-64<<10 {
			t.Errorf("data at %d", start)
		}
		data += int(end - start)
		off = end
	}
	if data == 0 || data > 4*mib {
		t.Skipf("the file system keeps no holes: %d bytes of data", data)
	}
	plain, _ := openFile(t, dir, "plain")
	if start, end, err := plain.NextData(5); start != 5 || end != mib || err != nil {
		t.Errorf("%d to %d, %v", start, end, err)
	}
	empty, _ := openFile(t, dir, "empty")
	if _, _, err := empty.NextData(0); err != io.EOF {
		t.Error(err)
	}
	os.WriteFile(dir+"/empty", make([]byte, 3*mib), 0o600) // since it was opened
	if start, end, err := empty.NextData(mib); start != mib || end != 3*mib || err != nil {
		t.Errorf("grown: %d to %d, %v", start, end, err)
	}
	os.Truncate(dir+"/empty", mib)
	if start, end, err := empty.NextData(2 * mib); start != mib || end != mib || err != io.EOF {
		t.Errorf("shrunk: %d to %d, %v", start, end, err)
	}
}

func TestXattrs(t *testing.T) {
	dir := t.TempDir()
	makeTree(t, dir, "f=x", "none", "d/")
	os.Symlink("f", dir+"/link")
	unix.Mkfifo(dir+"/fifo", 0o600)
	big := bytes.Repeat([]byte("v"), 2000)
	for name, value := range map[string][]byte{"user.b": []byte("1\x00\xff"), "user.a": big, "user.empty": nil} {
		for _, file := range []string{"f", "d"} {
			if err := unix.Setxattr(dir+"/"+file, name, value, 0); err != nil {
				t.Skipf("no attributes here: %v", err)
			}
		}
	}
	trusted := unix.Lsetxattr(dir+"/link", "trusted.l", []byte("link"), 0) == nil &&
		unix.Lsetxattr(dir+"/fifo", "trusted.l", []byte("fifo"), 0) == nil
	f, s := openFile(t, dir, "f")
	check := func(name string, kind manifest.Kind, want string) {
		t.Helper()
		xs, err := s.dir.Xattrs(name, kind)
		if got := render(xs); err != nil || got != want {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
	want := fmt.Sprintf("user.a=%q user.b=%q user.empty=\"\" ", big, "1\x00\xff")
	check("f", manifest.KindFile, want)
	check("d", manifest.KindDir, want)
	check("none", manifest.KindFile, "")
	if trusted {
		check("link", manifest.KindSymlink, `trusted.l="link" `)
		check("fifo", manifest.KindFIFO, `trusted.l="fifo" `)
	}
	if xs, err := f.Xattrs(); err != nil || render(xs) != want {
		t.Errorf("by descriptor: %s, %v", render(xs), err)
	}
	if _, err := s.dir.Xattrs("missing", manifest.KindFile); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func render(xs []manifest.Xattr) string {
	var b strings.Builder
	for _, x := range xs {
		if !strings.HasPrefix(x.Name, "security.") { // the system's own
			fmt.Fprintf(&b, "%s=%q ", x.Name, x.Value)
		}
	}
	return b.String()
}

func TestOwners(t *testing.T) {
	calls := 0
	o := newOwners(func(id string) (string, error) {
		calls++
		if id == "7" {
			return "", errors.New("no such user")
		}
		return "u" + id, nil
	})
	for range 3 {
		if o.name(4294967295) != "u4294967295" || o.name(7) != "" {
			t.Error("wrong names")
		}
	}
	if calls != 2 {
		t.Errorf("%d lookups", calls)
	}
}
