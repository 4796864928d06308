package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// output is stdout. It is buffered, since a listing may have a million lines,
// but written through at once where somebody watches. It is safe for concurrent use.
type output struct {
	mu   sync.Mutex
	w    *bufio.Writer
	live bool
}

// outputBytes is the buffer: enough to make the cost of a write small.
const outputBytes = 64 << 10

func newOutput(w io.Writer) *output {
	_, tty := terminal(w)
	return &output{w: bufio.NewWriterSize(w, outputBytes), live: tty}
}

// Write implements [io.Writer].
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, err := o.w.Write(b)
	if err == nil && o.live {
		err = o.w.Flush()
	}
	if err != nil {
		return n, &outputError{err}
	}
	return n, nil
}

// Flush writes what is buffered.
func (o *output) Flush() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.w.Flush(); err != nil {
		return &outputError{err}
	}
	return nil
}

// outputError tells an error of stdout from all others.
type outputError struct{ err error }

func (e *outputError) Error() string { return "write output: " + e.err.Error() }
func (e *outputError) Unwrap() error { return e.err }

// fields are what a JSON line says.
type fields map[string]any

// line writes one JSON line: f, with "type" first.
func (o *output) line(kind string, f fields) error {
	if len(f) == 0 {
		_, err := fmt.Fprintf(o, "{\"type\":%q}\n", kind)
		return err
	}
	body, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	head := `{"type":` + strconv.Quote(kind) + ","
	_, err = o.Write([]byte(head + string(body[1:]) + "\n"))
	return err
}

// summary writes the last JSON line of a command.
func (a *app) summary(f fields) error { return a.out.line("summary", f) }

// say writes a line for people to stdout, unless they want none.
func (a *app) say(format string, args ...any) error {
	if a.quiet {
		return nil
	}
	_, err := fmt.Fprintf(a.out, format+"\n", args...)
	return err
}

// jsonText is raw text of a file system in JSON: as it is where it is UTF-8;
// what is not is escaped as by quote, since JSON can't hold it.
func jsonText(s string) string {
	if utf8.ValidString(s) && !strings.HasPrefix(s, `"`) {
		return s
	}
	return strconv.Quote(s)
}

// quote makes a name from a file system or a vault safe to print: as it is
// where it is printable text, else in Go's double-quoted form.
func quote(s string) string {
	if printable(s) && !strings.HasPrefix(s, `"`) {
		return s
	}
	return strconv.Quote(s)
}

func printable(s string) bool {
	for i, r := range s {
		if !unicode.IsPrint(r) || r == utf8.RuneError && !strings.HasPrefix(s[i:], string(utf8.RuneError)) {
			return false
		}
	}
	return true
}

// plain makes a message fit for one line of a terminal: what it quotes may be
// anybody's choice.
func plain(s string) string {
	s = strings.ReplaceAll(s, "\n", "; ")
	if printable(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if piece := s[:n]; printable(piece) {
			b.WriteString(piece)
		} else if r == utf8.RuneError {
			fmt.Fprintf(&b, `\x%02x`, s[0])
		} else {
			q := strconv.QuoteRune(r)
			b.WriteString(q[1 : len(q)-1])
		}
		s = s[n:]
	}
	return b.String()
}

// size formats a number of bytes for people.
func size(n int64) string {
	const unit = 1024
	if n < unit {
		return strconv.FormatInt(n, 10) + " B"
	}
	v, exp := float64(n)/unit, 0
	for v >= unit-0.05 && exp < 5 { // not "1024.0 KiB"
		v /= unit
		exp++
	}
	return fmt.Sprintf("%.1f %ciB", v, "KMGTPE"[exp])
}

// count formats a number with its noun: "1 file", "12,345 files".
func count(n int64, noun string) string {
	if n != 1 {
		if stem, ok := strings.CutSuffix(noun, "y"); ok {
			noun = stem + "ies"
		} else {
			noun += "s"
		}
	}
	return thousands(n) + " " + noun
}

func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	first := 0
	if n < 0 {
		first = 1
	}
	for i := len(s) - 3; i > first; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// clock formats a time of a point in the local zone.
func clock(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

// seconds rounds a duration for people.
func seconds(d time.Duration) string {
	unit := time.Second
	switch {
	case d < time.Second:
		unit = time.Millisecond
	case d < 10*time.Second:
		unit = 100 * time.Millisecond
	}
	return d.Round(unit).String()
}

// table aligns rows in columns.
func table(w io.Writer, rows [][]string) error {
	var width []int
	for _, r := range rows {
		for i, c := range r {
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], utf8.RuneCountInString(c))
		}
	}
	for _, r := range rows {
		var b strings.Builder
		for i, c := range r {
			b.WriteString(c)
			if i < len(r)-1 {
				b.WriteString(strings.Repeat(" ", width[i]-utf8.RuneCountInString(c)+2))
			}
		}
		if _, err := fmt.Fprintln(w, strings.TrimRight(b.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}
