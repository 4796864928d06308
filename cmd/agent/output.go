package main

import (
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

// jsonPath is a path in JSON: as text where it is valid UTF-8; a path of other
// bytes is escaped as by quote, since JSON cannot hold it.
func jsonPath(p string) string {
	if utf8.ValidString(p) {
		return p
	}
	return quote(p)
}

// lines writes JSON lines to w. It is safe for concurrent use.
type lines struct {
	mu sync.Mutex
	w  io.Writer
}

// write writes one line: fields with "type" first.
func (l *lines) write(kind string, fields map[string]any) error {
	body, err := json.Marshal(fields)
	if err != nil {
		return err
	}
	head := `{"type":` + strconv.Quote(kind)
	if len(fields) > 0 {
		head += ","
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err = io.WriteString(l.w, head+string(body[1:])+"\n")
	return err
}

// quote makes a path safe to print: as it is where it is printable text, else
// in Go's double-quoted form.
func quote(p string) string {
	for _, r := range p {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return strconv.Quote(p)
		}
	}
	return p
}

// size formats a number of bytes for people.
func size(n int64) string {
	const unit = 1024
	if n < unit {
		return strconv.FormatInt(n, 10) + " B"
	}
	v, exp := float64(n)/unit, 0
	for v >= unit && exp < 4 {
		v /= unit
		exp++
	}
	return fmt.Sprintf("%.1f %ciB", v, "KMGTP"[exp])
}

// count formats a number with its noun: "1 file", "12,345 files".
func count(n int64, noun string) string {
	if n != 1 {
		if noun == "entry" {
			noun = "entries"
		} else {
			noun += "s"
		}
	}
	return thousands(n) + " " + noun
}

func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	if n < 0 {
		return "-" + thousands(-n)
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// clock formats a time of a point in the local zone.
func clock(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

// seconds rounds a duration for people.
func seconds(d time.Duration) string { return d.Round(100 * time.Millisecond).String() }

// table aligns rows in columns.
func table(w io.Writer, rows [][]string) {
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
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}
