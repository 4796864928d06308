package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1<<20 - 1: "1.0 MiB", 1 << 20: "1.0 MiB",
		5 << 30: "5.0 GiB", 1 << 40: "1.0 TiB", 1 << 50: "1.0 PiB", math.MaxInt64: "8.0 EiB",
	} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestCount(t *testing.T) {
	for want, got := range map[string]string{
		"1 file": count(1, "file"), "0 files": count(0, "file"), "1,000 files": count(1000, "file"),
		"2 entries": count(2, "entry"), "1 entry": count(1, "entry"), "-1,234,567": thousands(-1234567),
		"-123": thousands(-123), "999": thousands(999), "12,345,678": thousands(12345678),
		"-9,223,372,036,854,775,808": thousands(math.MinInt64),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestSeconds(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 12345 * time.Microsecond: "12ms", 1234 * time.Millisecond: "1.2s", 61500 * time.Millisecond: "1m2s", 25 * time.Hour: "25h0m0s",
	} {
		if got := seconds(d); got != want {
			t.Errorf("seconds(%v) = %q, want %q", d, got, want)
		}
	}
}

// hostile are names that would disturb a terminal, a log or a parser.
var hostile = []string{
	"/a\nb", "/a\tb", "/\x1b[31mred", "/latin-\xe9", "/nul\x00", "/\u202eleft", "/\u200bzero", `"/quoted"`, "/a\u00a0b", "/\xff\xfe",
}

func TestQuote(t *testing.T) {
	for _, s := range []string{"/a", "/a b", "/käse/日本", `/a\b`, `/a"b`, "/\ufffd", ""} {
		if got := quote(s); got != s {
			t.Errorf("quote(%q) = %q", s, got)
		}
	}
	for _, s := range hostile {
		q := quote(s)
		back, err := strconv.Unquote(q)
		if err != nil || back != s {
			t.Errorf("quote(%q) = %q, back %q, %v", s, q, back, err)
		}
	}
}

func FuzzQuote(f *testing.F) {
	for _, s := range hostile {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		q := quote(s)
		back, err := q, error(nil)
		if strings.HasPrefix(q, `"`) {
			back, err = strconv.Unquote(q)
		}
		if err != nil || back != s {
			t.Errorf("quote(%q) = %q, which reads as %q, %v", s, q, back, err)
		}
		for _, shown := range []string{q, plain(s), plain(plain(s))} {
			for _, r := range shown {
				if !unicode.IsPrint(r) || !utf8.ValidString(shown) {
					t.Fatalf("%q is shown as %q", s, shown)
				}
			}
		}
	})
}

func TestPlain(t *testing.T) {
	for s, want := range map[string]string{
		"read /a: denied": "read /a: denied", "one\ntwo": "one; two", "\x1b[2J": `\x1b[2J`, "\xe9 é": `\xe9 é`, "a\rb": `a\rb`,
	} {
		if got := plain(s); got != want {
			t.Errorf("plain(%q) = %q, want %q", s, got, want)
		}
	}
}

func TestModeText(t *testing.T) {
	for _, test := range []struct {
		kind string
		mode uint32
		want string
	}{
		{"file", 0o644, "-rw-r--r--"}, {"dir", 0o1777, "drwxrwxrwt"}, {"file", 0o4755, "-rwsr-xr-x"}, {"file", 0o6644, "-rwSr-Sr--"},
		{"dir", 0o1000, "d--------T"}, {"symlink", 0o777, "lrwxrwxrwx"}, {"fifo", 0o600, "prw-------"}, {"char", 0o660, "crw-rw----"},
	} {
		if got := modeText(test.kind, test.mode); got != test.want {
			t.Errorf("%s %o: %q, want %q", test.kind, test.mode, got, test.want)
		}
	}
}

func TestTable(t *testing.T) {
	var b bytes.Buffer
	if err := table(&b, [][]string{{"A", "LONG"}, {"käse", "x", "z"}, {"b", ""}}); err != nil {
		t.Fatal(err)
	}
	if want := "A     LONG\nkäse  x     z\nb\n"; b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

func TestJSONLine(t *testing.T) {
	var b bytes.Buffer
	o := newOutput(&b)
	for _, f := range []fields{nil, {"path": jsonText("/a\xff"), "n": 1}} {
		if err := o.line("x", f); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.Flush(); err != nil {
		t.Fatal(err)
	}
	if want := "{\"type\":\"x\"}\n{\"type\":\"x\",\"n\":1,\"path\":\"\\\"/a\\\\xff\\\"\"}\n"; b.String() != want {
		t.Errorf("got %s", b.String())
	}
	for l := range strings.Lines(b.String()) {
		if !json.Valid([]byte(l)) {
			t.Errorf("not JSON: %s", l)
		}
	}
}

// fullDisk takes nothing.
type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

func TestOutputError(t *testing.T) {
	o := newOutput(fullDisk{})
	o.Write([]byte("x"))
	err := o.Flush()
	var ours *outputError
	if !errors.As(err, &ours) || !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("%v", err)
	}
}
