package source

import (
	"math/rand/v2"
	"strings"
	"testing"
)

func TestPatterns(t *testing.T) {
	cases := []struct {
		patterns string // one a line
		path     string // with a slash at its end for a folder
		want     bool
	}{
		{"", "a", false},
		{"# a comment\n\n  \n", "# a comment", false},
		{`\#a`, "#a", true},
		{`\!a`, "!a", true},
		{"a  ", "a", true},
		{`a\ `, "a ", true},
		{`a\  `, "a ", true},
		{"a\r\n", "a", true},
		{"\xef\xbb\xbfa", "a", true},
		{"a", "x/y/a", true},
		{"a/", "a", false},
		{"a/", "x/a/", true},
		{"/a", "a", true},
		{"/a", "x/a", false},
		{"x/a", "x/a", true},
		{"x/a", "y/x/a", false},
		{"x/a/", "x/a/", true},
		{"*.o", "x/y.o", true},
		{"*.o", ".o", true},
		{"*.o", "y.oo", false},
		{"x/*", "x/a", true},
		{"x/*", "x/a/b", false},
		{"x/*/b", "x/a/b", true},
		{"**/a", "a", true},
		{"**/a", "x/y/a", true},
		{"a/**", "a/", false},
		{"a/**", "a/b/c", true},
		{"a/**/b", "a/b", true},
		{"a/**/b", "a/x/y/b", true},
		{"a/**/b", "a/x/y/bb", false},
		{"**", "x", true},
		{"**/", "x", false},
		{"**/", "y/x/", true},
		{"a**b", "axxb", true},
		{"a/x**", "a/x/b", false},
		{"/", "a", false},
		{"a?c", "abc", true},
		{"a?c", "a/c", false},
		{"?", "\xff", true},
		{"?", "é", false}, // two bytes
		{"[a-c]x", "bx", true},
		{"[!a-c]x", "bx", false},
		{"[^a-c]x", "\xffx", true},
		{"[]a]", "]", true},
		{"[a-]", "-", true},
		{`[\]a]`, "]", true},
		{`[a-\c]`, "b", true},
		{"[[:digit:]]", "7", true},
		{"[![:alpha:]_]", "_", false},
		{"[[:nonsense:]]", "n", false},
		{"[[:x]", ":", true},
		{"[a", "[a", false},
		{`a\`, "a", false},
		{`\a`, "a", true},
		{"{a,b}", "a", false},
		{"{a,b}", "{a,b}", true},
		{"\xff*", "\xff\xfe", true},
		{"\ufffd", "\xff", false},
		{"*\n!keep", "keep", false},
		{"!keep\n*", "keep", true},
		{"*\n!/x/", "x/", false},
		{strings.Repeat("*a", 60) + "b", strings.Repeat("a", 200), false}, // and at once
	}
	for _, c := range cases {
		dir := strings.HasSuffix(c.path, "/")
		path := strings.Split(strings.TrimSuffix(c.path, "/"), "/")
		book := ruleBook{files: &rules{patterns: parsePatterns(c.patterns)}}
		if got := book.excluded(path, dir); got != c.want {
			t.Errorf("%q on %q: %v", c.patterns, c.path, got)
		}
	}
}

func TestUserPatterns(t *testing.T) {
	cases := []struct {
		root, pattern, path string
		want                bool
	}{
		{"/src", "/src/a", "a", true},
		{"/src", "/src/a", "src/a", false},
		{"/src", "/a", "a", true},
		{"/src", "/srca", "a", false},
		{"/src", "/other/a", "a", false},
		{"/src", "!/src/a", "a", false},
		{"/[x]", "/[x]/*.o", "a.o", true},
		{"/", "/a", "a", true},
		{"/src", "a", "x/a", true},
		{"/src", "/src", "src", false},
		{"/src", "/src/", "src", false},
	}
	for _, c := range cases {
		r := &rules{patterns: appendUserPattern(nil, c.root, c.pattern)}
		if got := (ruleBook{top: r}).excluded(strings.Split(c.path, "/"), false); got != c.want {
			t.Errorf("root %q, %q on %q: %v", c.root, c.pattern, c.path, got)
		}
	}
}

func TestListsGoBeforeOthers(t *testing.T) {
	line := func(s string) []pattern { return parsePatterns(s) }
	outer := &rules{patterns: line("a\n!b\nc")}
	inner := &rules{patterns: line("!a\n/b"), depth: 1, up: outer}
	book := ruleBook{files: inner}
	for path, want := range map[string]bool{"x/a": false, "x/b": true, "x/c": true, "x/d": false, "x/y/b": false} {
		if got := book.excluded(strings.Split(path, "/"), false); got != want {
			t.Errorf("%s: %v", path, got)
		}
	}
	book.top = &rules{patterns: line("x/a\n!c")}
	for path, want := range map[string]bool{"x/a": true, "x/b": true, "x/c": false} {
		if got := book.excluded(strings.Split(path, "/"), false); got != want {
			t.Errorf("with a user's list, %s: %v", path, got)
		}
	}
}

// FuzzPatterns checks that no pattern panics or takes long, and that a negated
// one decides as the plain one does.
func FuzzPatterns(f *testing.F) {
	f.Add("a/**/b[!x-z]\\*", "a/b")
	f.Add("[[:alpha:]-]]", "-]")
	f.Fuzz(func(t *testing.T, line, path string) {
		p, ok := parsePattern(line)
		n, nok := parsePattern("!" + line)
		if strings.HasPrefix(line, "!") || path == "" {
			return
		}
		parts := strings.Split(path, "/")
		if ok != nok || ok && p.match(parts, true) != n.match(parts, true) {
			t.Fatalf("%q: plain %v, negated %v", line, ok, nok)
		}
	})
}

// randomPattern makes patterns out of what has a meaning in them.
func randomPattern(rnd *rand.Rand) string {
	parts := []string{
		"a", "b", "ab", "*", "**", "?", "/", "/", "**/", "/**", "[ab]", "[!a]", "[a-b]", "\\a", "!", "#", " ", ".",
		"[", "]", "-", "\\", "[[:alpha:]]", "[]-a]", "***",
	}
	var b strings.Builder
	for range 1 + rnd.IntN(4) {
		b.WriteString(parts[rnd.IntN(len(parts))])
	}
	return b.String()
}
