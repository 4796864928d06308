package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/tharsis-backup/tharsis/internal/treecmp"
)

// bench measures. It does all steps in rounds: in each round each step is done
// by all tools, one right after the other, and each round begins with another
// tool. So a slow minute of the machine hits all tools, not one.
type bench struct {
	o       options
	tools   []*tool
	samples []sample
}

// sample is one measured command.
type sample struct {
	Corpus string `json:"corpus"`
	Tool   string `json:"tool"`
	Step   step   `json:"step"`
	Round  int    `json:"round"`
	usage
	Vault int64          `json:"vault_bytes,omitempty"` // after the step
	Diffs map[string]int `json:"diffs,omitempty"`       // of a restore, by aspect
	Error string         `json:"error,omitempty"`
}

// entrant is one tool in one round.
type entrant struct {
	*tool
	place
	failed bool // the rest of the round is left out
}

// corpus measures all rounds with one corpus.
func (b *bench) corpus(ctx context.Context, c *corpus) error {
	text, err := newTextSource(filepath.Join(filepath.Dir(c.dir), corpusTree))
	if err != nil {
		return err
	}
	if err := warm(c.dir); err != nil {
		return err
	}
	for round := range b.o.rounds {
		err := b.round(ctx, c, text, round)
		if err := errors.Join(err, c.editor.revert(), os.RemoveAll(b.runDir())); err != nil {
			return fmt.Errorf("corpus %s, round %d: %w", c.info.Name, round+1, err)
		}
	}
	return nil
}

func (b *bench) runDir() string { return filepath.Join(b.o.work, "run") }

// round does all steps with new vaults.
func (b *bench) round(ctx context.Context, c *corpus, text *textSource, round int) error {
	entrants, err := b.enter(ctx, c, round)
	if err != nil {
		return err
	}
	settle()
	for _, s := range allSteps {
		if !b.wanted(s) {
			continue
		}
		if s == stepEdit {
			what, err := c.editor.apply(b.o.seed, text)
			if err != nil {
				return fmt.Errorf("edit: %w", err)
			}
			logf("%s: edited %s", c.info.Name, what)
			settle()
		}
		for _, e := range entrants {
			if err := b.step(ctx, c, e, s, round); err != nil {
				return err
			}
		}
	}
	return nil
}

// wanted tells whether a step is done: the first backup always is.
func (b *bench) wanted(s step) bool {
	if s == stepTmpfs && b.o.tmpfs == "" {
		return false
	}
	return s == stepFirst || slices.Contains(b.o.steps, s)
}

// enter makes each tool's folders and vault, and the order of this round.
func (b *bench) enter(ctx context.Context, c *corpus, round int) ([]*entrant, error) {
	if err := os.RemoveAll(b.runDir()); err != nil {
		return nil, err
	}
	var entrants []*entrant
	for i := range b.tools {
		t := b.tools[(i+round)%len(b.tools)]
		base := filepath.Join(b.runDir(), t.name)
		p := place{
			src: c.dir, vault: filepath.Join(base, "vault"), home: filepath.Join(base, "home"),
			tmp: filepath.Join(base, "tmp"), dst: filepath.Join(base, "restored"),
		}
		for _, dir := range []string{p.home, p.tmp} {
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return nil, err
			}
		}
		commands, err := t.prepare(p)
		if err != nil {
			return nil, fmt.Errorf("prepare %s: %w", t.name, err)
		}
		for _, cmd := range commands {
			if _, err := measure(ctx, cmd, p.env()); err != nil {
				return nil, fmt.Errorf("prepare %s: %w", t.name, err)
			}
		}
		entrants = append(entrants, &entrant{tool: t, place: p})
	}
	return entrants, nil
}

// step measures one tool at one step. A tool that fails is reported and is out
// for the round; an error ends the run.
func (b *bench) step(ctx context.Context, c *corpus, e *entrant, s step, round int) error {
	if e.failed {
		return nil
	}
	p := e.place
	if s == stepTmpfs {
		p.dst = filepath.Join(b.o.tmpfs, "tharsis-bench-restored")
	}
	cmd, ok := e.command(s, p)
	if !ok {
		return nil
	}
	if s.restores() {
		if err := emptyDir(p.dst); err != nil {
			return err
		}
		defer os.RemoveAll(p.dst)
	}
	if err := flush(b.o.cold); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	u, err := measure(ctx, cmd, p.env())
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	got := sample{Corpus: c.info.Name, Tool: e.name, Step: s, Round: round + 1, usage: u}
	if err != nil && (e.warned == 0 || u.Exit != e.warned) {
		got.Error = err.Error()
		e.failed = true
	} else if err := e.examine(&got, s, p); err != nil {
		return err
	}
	b.samples = append(b.samples, got)
	logf("%s, round %d: %-13s %-12s %8.2f s %s", got.Corpus, got.Round, s, e.name, u.Wall.Seconds(), got.outcome())
	return nil
}

// examine looks at what a successful step left behind.
func (e *entrant) examine(got *sample, s step, p place) error {
	var err error
	if s.restores() {
		got.Diffs, err = compareRestore(p.src, e.restored(p))
		return err
	}
	if s == stepVerify {
		return nil
	}
	e.last = s
	if _, statErr := os.Stat(p.vault); statErr == nil {
		got.Vault, err = sizeOf(p.vault)
	}
	return err
}

// compareRestore counts the differences of a restore by aspect: none are an
// empty map.
func compareRestore(src, restored string) (map[string]int, error) {
	const most = 1_000_000 // one for each entry, more or less: all are counted
	diffs, err := treecmp.Compare(src, restored, treecmp.Options{Max: most})
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]int{treecmp.Missing.String(): 1}, nil
	}
	if err != nil {
		return nil, err
	}
	counts := map[string]int{}
	for _, d := range diffs {
		counts[d.Aspect.String()]++
	}
	return counts, nil
}

// verdict is an error where one of our own runs failed or restored anything but
// what was there. A peer's are in the table.
func (b *bench) verdict() error {
	var errs []error
	for _, s := range b.samples {
		if s.Tool == ours("").name && (s.Error != "" || len(s.Diffs) > 0) {
			errs = append(errs, fmt.Errorf("%s, round %d, %s: %s", s.Corpus, s.Round, s.Step, s.outcome()))
		}
	}
	return errors.Join(errs...)
}

func emptyDir(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.MkdirAll(dir, 0o755)
}

// warm reads a corpus once, so that the first tool finds it in the page cache
// as the others do.
func warm(dir string) error {
	buf := make([]byte, 256<<10)
	return walkFiles(dir, func(path string, _ fs.FileInfo) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.CopyBuffer(io.Discard, struct{ io.Reader }{f}, buf)
		return err
	})
}

// sizeOf is the sum of the sizes of all files below dir.
func sizeOf(dir string) (int64, error) {
	_, bytes, err := countTree(dir)
	return bytes, err
}
