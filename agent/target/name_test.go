package target

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestCheckName(t *testing.T) {
	for _, bad := range []string{"", ".", "..", "/", "a/b", "/etc", "../x", "a\x00", "\x00", strings.Repeat("a", 256)} {
		if checkName(bad) == nil {
			t.Errorf("%q is allowed", bad)
		}
	}
	for _, good := range []string{"a", "...", "..a", " ", "\n", "\xff\xfe", "a\\b", "C:", strings.Repeat("a", 255)} {
		if err := checkName(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
}

func TestCopyName(t *testing.T) {
	const s = " (restored 2026-11-23 14-05)"
	long := strings.Repeat("é", 127) // 254 bytes
	for _, c := range []struct {
		name, want string
		n          int
		folder     bool
	}{
		{"a.txt", "a" + s + ".txt", 1, false},
		{"a.txt", "a" + s + " 2.txt", 2, false},
		{"a.txt", "a.txt" + s, 1, true},
		{"a", "a" + s, 1, false},
		{".bashrc", ".bashrc" + s, 1, false},
		{"a.", "a." + s, 1, false},
		{"a.tar.gz", "a.tar" + s + ".gz", 1, false},
		{"a." + strings.Repeat("x", 40), "a." + strings.Repeat("x", 40) + s, 1, false},
		{long, strings.Repeat("é", (255-len(s))/2) + s, 1, false},
	} {
		if got := copyName(c.name, s, c.n, c.folder); got != c.want {
			t.Errorf("copy %d of %q is %q, want %q", c.n, c.name, got, c.want)
		}
	}
	// Whatever the name, the copy's is one that is allowed.
	for _, unit := range []string{"a", "é", "世", "😀", "\x80", "\xff.", "."} {
		for n := 1; n*len(unit) <= maxName; n++ {
			name := strings.Repeat(unit, n)
			if checkName(name) != nil {
				continue
			}
			for _, i := range []int{1, maxCopies} {
				got := copyName(name, strings.Repeat("s", maxSuffix), i, false)
				if err := checkName(got); err != nil || got == name {
					t.Fatalf("copy %d of %q is %q: %v", i, name, got, err)
				}
				if utf8.ValidString(name) && !utf8.ValidString(got) {
					t.Fatalf("copy of %q is cut within a character: %q", name, got)
				}
			}
		}
	}
}

func TestErrorQuotes(t *testing.T) {
	err := (&Error{Op: "write", Path: "/t/a\n\x1b[31m\xff", Err: errSize}).Error()
	if strings.ContainsAny(err, "\n\x1b") || strings.Contains(err, "\xff") {
		t.Errorf("%q has raw bytes of the name", err)
	}
}
