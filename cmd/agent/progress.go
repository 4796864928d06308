package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/tharsis-backup/tharsis/agent"
)

// logEvery is how often a job without a terminal says how far it is.
const logEvery = 10 * time.Second

// reporter shows notes and progress: a bar on a terminal, plain lines in a log,
// JSON lines with --json; with --quiet only warnings and failures.
type reporter struct {
	app   *app
	lines *lines

	mu   sync.Mutex // guards the rest
	bar  *progressbar.ProgressBar
	last time.Time
}

func (a *app) reporter() *reporter {
	return &reporter{app: a, lines: &lines{w: a.std.out}, last: time.Now()}
}

// terminal returns stderr where it is one.
func terminal(w io.Writer) (*os.File, bool) {
	f, ok := w.(*os.File)
	return f, ok && term.IsTerminal(int(f.Fd()))
}

// Note implements part of [agent.Reporter].
func (r *reporter) Note(n agent.Note) {
	r.mu.Lock()
	defer r.mu.Unlock()
	word := map[agent.Severity]string{agent.Info: "note", agent.Warning: "warning", agent.Failure: "error"}[n.Severity]
	if r.app.json {
		r.lines.write("note", map[string]any{"severity": word, "path": jsonPath(n.Path), "text": n.Text})
		return
	}
	if r.app.quiet && n.Severity == agent.Info {
		return
	}
	if r.bar != nil {
		r.bar.Clear()
	}
	if n.Path == "" {
		fmt.Fprintf(r.app.std.err, "%s: %s\n", word, n.Text)
	} else {
		fmt.Fprintf(r.app.std.err, "%s: %s: %s\n", word, quote(n.Path), n.Text)
	}
}

// Progress implements part of [agent.Reporter].
func (r *reporter) Progress(p agent.Progress) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch _, tty := terminal(r.app.std.err); {
	case r.app.quiet:
	case r.app.json:
		if r.due(time.Second) {
			r.lines.write("progress", map[string]any{
				"phase": p.Phase, "files": p.Files, "bytes": p.Bytes,
				"total_files": p.TotalFiles, "total_bytes": p.TotalBytes, "current": jsonPath(p.Current),
			})
		}
	case tty:
		r.draw(p)
	case r.due(logEvery):
		fmt.Fprintf(r.app.std.err, "%s: %s, %s\n", p.Phase, count(p.Files, "file"), size(p.Bytes))
	}
}

func (r *reporter) due(every time.Duration) bool {
	if time.Since(r.last) < every {
		return false
	}
	r.last = time.Now()
	return true
}

// draw moves the bar; it has an ETA once the total is known.
func (r *reporter) draw(p agent.Progress) {
	if r.bar == nil {
		r.bar = progressbar.NewOptions64(-1,
			progressbar.OptionSetWriter(r.app.std.err),
			progressbar.OptionShowBytes(true),
			progressbar.OptionShowCount(),
			progressbar.OptionSetPredictTime(true),
			progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionClearOnFinish(),
			progressbar.OptionSetWidth(24),
		)
	}
	if p.TotalBytes > 0 && r.bar.GetMax64() != p.TotalBytes {
		r.bar.ChangeMax64(p.TotalBytes)
	}
	r.bar.Describe(fmt.Sprintf("%s %s", p.Phase, count(p.Files, "file")))
	r.bar.Set64(p.Bytes)
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
