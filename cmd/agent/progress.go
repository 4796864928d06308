package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/tharsis-backup/tharsis/agent"
)

// How often progress is shown, without a terminal and with --json.
const (
	logEvery  = 10 * time.Second
	jsonEvery = time.Second
)

// reporter shows notes and progress: a bar on a terminal, plain lines in a log,
// JSON lines with --json; with --quiet only warnings and failures.
type reporter struct {
	app *app

	mu   sync.Mutex // guards the rest
	bar  *progressbar.ProgressBar
	last time.Time
}

func (a *app) reporter() *reporter { return &reporter{app: a, last: time.Now()} }

// terminal returns w as a file where it is a terminal.
func terminal(w any) (*os.File, bool) {
	f, ok := w.(*os.File)
	return f, ok && term.IsTerminal(int(f.Fd()))
}

var severityWords = map[agent.Severity]string{agent.Info: "note", agent.Warning: "warning", agent.Failure: "error"}

// Note implements part of [agent.Reporter].
func (r *reporter) Note(n agent.Note) {
	if r.app.quiet && n.Severity == agent.Info {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	word := severityWords[n.Severity]
	if r.app.json {
		r.app.out.line("note", fields{"severity": word, "path": jsonText(n.Path), "text": n.Text})
		r.app.out.Flush()
		return
	}
	if r.bar != nil {
		r.bar.Clear()
	}
	if n.Path == "" {
		fmt.Fprintf(r.app.err, "%s: %s\n", word, plain(n.Text))
	} else {
		fmt.Fprintf(r.app.err, "%s: %s: %s\n", word, quote(n.Path), plain(n.Text))
	}
}

// Progress implements part of [agent.Reporter].
func (r *reporter) Progress(p agent.Progress) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch _, tty := terminal(r.app.err); {
	case r.app.quiet:
	case r.app.json:
		if r.due(jsonEvery) {
			r.app.out.line("progress", fields{
				"phase": p.Phase, "files": p.Files, "bytes": p.Bytes,
				"total_files": p.TotalFiles, "total_bytes": p.TotalBytes, "current": jsonText(p.Current),
			})
			r.app.out.Flush()
		}
	case tty:
		r.draw(p)
	case r.due(logEvery):
		fmt.Fprintln(r.app.err, progressLine(p))
	}
}

func (r *reporter) due(every time.Duration) bool {
	if time.Since(r.last) < every {
		return false
	}
	r.last = time.Now()
	return true
}

// phases are what the engine's phases are called here, and what they count.
var phases = map[string][2]string{
	"scan": {"looking", "file"}, "read": {"reading", "file"}, "commit": {"finishing", "file"},
	"restore": {"restoring", "file"}, "verify": {"checking", "object"},
	"mark": {"looking for what is needed", "page"}, "repack": {"writing anew", "pack"},
}

func counted(p agent.Progress) string {
	words, ok := phases[p.Phase]
	if !ok {
		words = [2]string{p.Phase, "file"}
	}
	return words[0] + ": " + count(p.Files, words[1])
}

// progressLine says how far a job is in a log.
func progressLine(p agent.Progress) string {
	s := counted(p) + ", " + size(p.Bytes)
	if p.TotalBytes > 0 {
		s += " of " + size(p.TotalBytes)
	}
	return s
}

// currentRunes is how much of a file's name stands beside the bar.
const currentRunes = 24

// draw moves the bar. Once the total is known it shows a part and the time that
// is left, and till then what was done and how fast.
func (r *reporter) draw(p agent.Progress) {
	if r.bar == nil {
		r.bar = progressbar.NewOptions64(-1,
			progressbar.OptionSetWriter(r.app.err),
			progressbar.OptionShowBytes(true),
			progressbar.OptionUseIECUnits(true),
			progressbar.OptionShowCount(),
			progressbar.OptionSetPredictTime(true),
			progressbar.OptionUseANSICodes(true),
			progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionSetWidth(20),
			progressbar.OptionSpinnerType(9),
		)
	}
	if p.TotalBytes > 0 && r.bar.GetMax64() != p.TotalBytes {
		r.bar.ChangeMax64(p.TotalBytes)
	}
	r.bar.Describe(counted(p) + shortName(p))
	if p.TotalBytes > 0 {
		p.Bytes = min(p.Bytes, p.TotalBytes-1) // the job says when it is done, not the bar
	}
	r.bar.Set64(p.Bytes)
}

// shortName is the name of the file in work, or its end, to go behind what was counted.
func shortName(p agent.Progress) string {
	if p.Current == "" || p.Phase == "verify" {
		return ""
	}
	name := quote(filepath.Base(p.Current))
	if n := utf8.RuneCountInString(name); n > currentRunes {
		runes := []rune(name)
		name = "…" + string(runes[n-currentRunes+1:])
	}
	return ", " + name
}

// done removes the bar.
func (r *reporter) done() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.bar != nil {
		r.bar.Clear()
		r.bar = nil
	}
}
