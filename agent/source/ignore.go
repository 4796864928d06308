package source

import (
	"fmt"
	"os"
	"strings"
)

// maxExcludeFile bounds a file of patterns named by the user, read whole.
const maxExcludeFile = 16 << 20

// pattern is one line of gitignore.
type pattern struct {
	negate  bool
	dirOnly bool
	path    bool // matched against the path, else against the last name
	globs   []glob
}

// parsePattern compiles a pattern; ok is false for one that is empty or matches
// nothing.
func parsePattern(line string) (p pattern, ok bool) {
	line, negate := strings.CutPrefix(line, "!")
	line, dirOnly := strings.CutSuffix(line, "/")
	p = pattern{negate: negate, dirOnly: dirOnly, path: strings.Contains(line, "/")}
	line = strings.TrimPrefix(line, "/")
	if line == "" {
		return p, false
	}
	p.globs, ok = compileGlobs(line)
	return p, ok
}

// fileLine cleans a line of a file of patterns: one that is given by itself may
// start with '#' and end in spaces. A comment becomes empty.
func fileLine(line string) string {
	if strings.HasPrefix(line, "#") {
		return ""
	}
	return trimSpaces(strings.TrimSuffix(line, "\r"))
}

// trimSpaces cuts trailing spaces that no backslash protects.
func trimSpaces(s string) string {
	end := 0
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' {
			i++
			end = min(i+1, len(s))
		} else if s[i] != ' ' {
			end = i + 1
		}
	}
	return s[:end]
}

// parsePatterns compiles the text of an ignore file.
func parsePatterns(text string) []pattern {
	var ps []pattern
	text = strings.TrimPrefix(text, "\xef\xbb\xbf")
	for line := range strings.SplitSeq(text, "\n") {
		if p, ok := parsePattern(fileLine(line)); ok {
			ps = append(ps, p)
		}
	}
	return ps
}

func (p *pattern) match(path []string, dir bool) bool {
	if p.dirOnly && !dir {
		return false
	}
	if p.path {
		return matchPath(p.globs, path)
	}
	return p.globs[0].anyDepth || p.globs[0].match(path[len(path)-1])
}

// rules is a list of patterns with the lists that it goes before. Nil has none.
type rules struct {
	patterns []pattern
	depth    int // how many components the list's folder has
	up       *rules
	count    int // patterns of this list and those above it
}

// decide finds the pattern of this one list that decides on path, which is not
// empty and given by components from the root.
func (r *rules) decide(path []string, dir bool) (excluded, decided bool) {
	for i := len(r.patterns) - 1; i >= 0; i-- {
		if p := &r.patterns[i]; p.match(path[r.depth:], dir) {
			return !p.negate, true
		}
	}
	return false, false
}

// ruleBook is what decides about one folder's names: the user's list, which
// goes first, and the ignore files from the deepest up.
type ruleBook struct {
	top   *rules
	files *rules
}

func (b ruleBook) empty() bool { return b.top == nil && b.files == nil }

// excluded decides on path, given by components from the root.
func (b ruleBook) excluded(path []string, dir bool) bool {
	if b.top != nil {
		if out, decided := b.top.decide(path, dir); decided {
			return out
		}
	}
	for r := b.files; r != nil; r = r.up {
		if out, decided := r.decide(path, dir); decided {
			return out
		}
	}
	return false
}

// userRules reads the exclude files and compiles them with the patterns given.
func userRules(root string, o *Options) (*rules, error) {
	var text strings.Builder
	for _, name := range o.ExcludeFiles {
		info, err := os.Stat(name)
		if err != nil {
			return nil, fmt.Errorf("read exclude file: %w", err)
		}
		if info.Size() > maxExcludeFile {
			return nil, fmt.Errorf("read exclude file %s: over %d bytes", name, maxExcludeFile)
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read exclude file: %w", err)
		}
		text.WriteString(strings.TrimPrefix(string(b), "\xef\xbb\xbf"))
		text.WriteByte('\n')
	}
	var ps []pattern
	for line := range strings.SplitSeq(text.String(), "\n") {
		ps = appendUserPattern(ps, root, fileLine(line))
	}
	for _, line := range o.Excludes {
		ps = appendUserPattern(ps, root, line)
	}
	if len(ps) == 0 {
		return nil, nil
	}
	return &rules{patterns: ps}, nil
}

// appendUserPattern compiles a line that may name paths absolutely: where it
// starts with the root's path, which need not be a valid pattern, that is cut.
// The root itself can't be excluded.
func appendUserPattern(ps []pattern, root, line string) []pattern {
	sign := ""
	if strings.HasPrefix(line, "!") {
		sign, line = "!", line[1:]
	}
	if rest, found := strings.CutPrefix(line, strings.TrimSuffix(root, "/")); found {
		switch {
		case rest == "":
			return ps
		case rest[0] == '/':
			line = rest
		}
	}
	if p, ok := parsePattern(sign + line); ok {
		ps = append(ps, p)
	}
	return ps
}
