package source

import "strings"

// A glob is one component of a pattern, compiled: it matches names byte by
// byte, as git's does, since names need not be UTF-8. It can't fail and takes
// time in proportion to pattern times name at most.
type glob struct {
	anyDepth bool   // "**": any number of components
	literal  string // when tokens is nil
	tokens   []token
}

// token matches one byte, or a run of bytes where it is a star.
type token struct {
	kind tokenKind
	b    byte
	set  *byteSet
}

type tokenKind uint8

const (
	oneByte tokenKind = iota
	anyByte
	inSet
	star
)

// byteSet is the bytes that a bracket expression matches.
type byteSet [4]uint64

func (s *byteSet) add(b byte)      { s[b>>6] |= 1 << (b & 63) }
func (s *byteSet) has(b byte) bool { return s[b>>6]&(1<<(b&63)) != 0 }

func (t *token) match(b byte) bool {
	switch t.kind {
	case oneByte:
		return t.b == b
	case inSet:
		return t.set.has(b)
	}
	return true
}

// match tells whether g, which is not anyDepth, matches all of name.
func (g *glob) match(name string) bool {
	if g.tokens == nil {
		return g.literal == name
	}
	// A star takes as little as it can; on a mismatch the last one takes one
	// byte more. Earlier stars never need to be tried again.
	p, n, back, from := 0, 0, -1, 0
	for n < len(name) {
		switch {
		case p < len(g.tokens) && g.tokens[p].kind == star:
			back, from = p, n
			p++
		case p < len(g.tokens) && g.tokens[p].match(name[n]):
			p, n = p+1, n+1
		case back >= 0:
			from++
			p, n = back+1, from
		default:
			return false
		}
	}
	for p < len(g.tokens) && g.tokens[p].kind == star {
		p++
	}
	return p == len(g.tokens)
}

// matchPath tells whether the globs match the whole path. A "**" at the end
// stands for at least one component, elsewhere for none or more.
func matchPath(globs []glob, path []string) bool {
	p, n, back, from := 0, 0, -1, 0
	for n < len(path) {
		switch {
		case p < len(globs) && globs[p].anyDepth:
			back, from = p, n
			p++
			if p == len(globs) {
				return true
			}
		case p < len(globs) && globs[p].match(path[n]):
			p, n = p+1, n+1
		case back >= 0:
			from++
			p, n = back+1, from
		default:
			return false
		}
	}
	return p == len(globs)
}

// compileGlobs splits a pattern at its slashes and compiles each component. ok
// is false for a pattern that git defines to match nothing: one that ends in a
// backslash or within a bracket.
func compileGlobs(s string) (globs []glob, ok bool) {
	var g []token
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case '/':
			globs, g = append(globs, newGlob(g)), nil
		case '?':
			g = append(g, token{kind: anyByte})
		case '*':
			g = append(g, token{kind: star})
		case '[':
			set, n := parseSet(s[i+1:])
			if n == 0 {
				return nil, false
			}
			g = append(g, token{kind: inSet, set: set})
			i += n
		case '\\':
			i++
			if i == len(s) {
				return nil, false
			}
			if s[i] == '/' {
				globs, g = append(globs, newGlob(g)), nil
				continue
			}
			g = append(g, token{b: s[i]})
		default:
			g = append(g, token{b: c})
		}
	}
	return append(globs, newGlob(g)), true
}

// newGlob recognizes "**", joins stars and finds the names without wildcards,
// which are most patterns.
func newGlob(tokens []token) glob {
	var lit strings.Builder
	stars, plain := 0, true
	kept := tokens[:0]
	for i, t := range tokens {
		if t.kind == star {
			stars++
			if i > 0 && tokens[i-1].kind == star {
				continue
			}
		}
		plain = plain && t.kind == oneByte
		lit.WriteByte(t.b)
		kept = append(kept, t)
	}
	switch {
	case stars >= 2 && stars == len(tokens):
		return glob{anyDepth: true}
	case plain:
		return glob{literal: lit.String()}
	}
	return glob{tokens: kept}
}

// parseSet reads a bracket expression from after its '[' and returns how many
// bytes it took with its ']', 0 where it is malformed.
func parseSet(s string) (*byteSet, int) {
	var set byteSet
	i := 0
	negated := i < len(s) && (s[i] == '!' || s[i] == '^')
	if negated {
		i++
	}
	// prev is the low end that a following '-' makes a range of; 0 is none.
	for prev, first := byte(0), true; ; first = false {
		if i == len(s) {
			return nil, 0
		}
		c := s[i]
		switch {
		case c == ']' && !first:
			if negated {
				for j := range set {
					set[j] = ^set[j]
				}
			}
			return &set, i + 1
		case c == '-' && prev != 0 && i+1 < len(s) && s[i+1] != ']':
			hi, n := unescape(s[i+1:])
			if n == 0 {
				return nil, 0
			}
			for b := int(prev); b <= int(hi); b++ {
				set.add(byte(b))
			}
			prev, i = 0, i+1+n
			continue
		case c == '[' && i+1 < len(s) && s[i+1] == ':':
			n, ok := set.addClass(s[i+2:])
			if !ok {
				return nil, 0
			}
			if n > 0 {
				prev, i = 0, i+2+n
				continue
			}
		}
		c, n := unescape(s[i:])
		if n == 0 {
			return nil, 0
		}
		set.add(c)
		prev, i = c, i+n
	}
}

// unescape reads one byte of a bracket expression, perhaps after a backslash.
func unescape(s string) (byte, int) {
	if s[0] != '\\' {
		return s[0], 1
	}
	if len(s) == 1 {
		return 0, 0
	}
	return s[1], 2
}

// addClass adds a class such as alpha from after its "[:" and returns how many
// bytes it took with its ":]"; 0 means that it is no class but a plain '['.
func (s *byteSet) addClass(rest string) (n int, ok bool) {
	end := strings.IndexByte(rest, ']')
	if end < 0 {
		return 0, false
	}
	if end == 0 || rest[end-1] != ':' {
		return 0, true
	}
	in := classes[rest[:end-1]]
	if in == nil {
		return 0, false
	}
	for b := range 128 {
		if in(byte(b)) {
			s.add(byte(b))
		}
	}
	return end + 1, true
}

func digit(b byte) bool { return '0' <= b && b <= '9' }
func upper(b byte) bool { return 'A' <= b && b <= 'Z' }
func lower(b byte) bool { return 'a' <= b && b <= 'z' }
func graph(b byte) bool { return '!' <= b && b <= '~' }

// classes are the named classes, in the C locale.
var classes = map[string]func(byte) bool{
	"alnum": func(b byte) bool { return digit(b) || upper(b) || lower(b) },
	"alpha": func(b byte) bool { return upper(b) || lower(b) },
	"blank": func(b byte) bool { return b == ' ' || b == '\t' },
	"cntrl": func(b byte) bool { return b < ' ' || b == 0x7f },
	"digit": digit,
	"graph": graph,
	"lower": lower,
	"print": func(b byte) bool { return graph(b) || b == ' ' },
	"punct": func(b byte) bool { return graph(b) && !digit(b) && !upper(b) && !lower(b) },
	"space": func(b byte) bool { return b == ' ' || '\t' <= b && b <= '\r' },
	"upper": upper,
	"xdigit": func(b byte) bool {
		return digit(b) || 'a' <= b && b <= 'f' || 'A' <= b && b <= 'F'
	},
}
