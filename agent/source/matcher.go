package source

import (
	"fmt"
	"strings"
)

// Matcher matches absolute paths of a point by patterns as in Options, for
// commands that choose entries: a pattern without a slash is for names, one with
// a slash for paths from the root of the file system. It is safe for concurrent use.
type Matcher struct{ list rules }

// NewMatcher compiles patterns. It is an error if one matches nothing.
func NewMatcher(patterns ...string) (*Matcher, error) {
	m := &Matcher{}
	for _, text := range patterns {
		p, ok := parsePattern(text)
		if !ok {
			return nil, fmt.Errorf("pattern %q matches nothing", text)
		}
		m.list.patterns = append(m.list.patterns, p)
	}
	return m, nil
}

// Match tells whether the last pattern that matches path is not a negated one.
func (m *Matcher) Match(path string, dir bool) bool {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	if parts[0] == "" {
		return false
	}
	matched, _ := m.list.decide(parts, dir)
	return matched
}
