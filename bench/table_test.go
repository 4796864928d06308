package main

import (
	"strings"
	"testing"
	"time"
)

// measured is a sample of a tree's corpus.
func measured(tool string, s step, round int, seconds float64) sample {
	wall := time.Duration(seconds * float64(time.Second))
	return sample{
		Corpus: corpusTree, Tool: tool, Step: s, Round: round,
		usage: usage{Wall: wall, User: wall, Peak: 50 << 20}, Vault: 10_000_000,
	}
}

func TestMarkdown(t *testing.T) {
	r := report{
		Versions: map[string]string{"tharsis": "tharsis 1", "restic": "restic 0", "limit:stream": "zstd", "borg": "borg 1"},
		Corpora:  []corpusInfo{{Name: corpusTree, Files: 3, Bytes: 2_000_000, Sources: []string{"/usr/include"}}},
	}
	for round, seconds := range []float64{9, 1, 2} {
		r.Samples = append(r.Samples,
			measured("restic", stepFirst, round+1, 2*seconds),
			measured("tharsis", stepFirst, round+1, seconds),
			measured("limit:stream", stepFirst, round+1, seconds/2))
	}
	good, bad := measured("restic", stepRestore, 1, 3), measured("restic", stepRestore, 2, 3)
	bad.Diffs = map[string]int{"xattrs": 2, "dirtimes": 7}
	failed := measured("borg", stepFirst, 1, 0.001)
	failed.Error = "exit 2"
	r.Samples = append(r.Samples, good, bad, good, failed)

	text := r.markdown()
	for _, want := range []string{
		"### tree: 3 files, 2 MB",
		"| first | tharsis | 2.00 | 1.00–9.00, 3 | 2.00 | 50 | 10.0 |  |",
		"| first | restic | 4.00 | 2.00–18.0, 3 | 4.00 | 50 | 10.0 |  |",
		"| restore | restic | 3.00 | 3.00–3.00, 3 | 3.00 | 50 | 10.0 | differs: dirtimes 7, xattrs 2 |",
		"| first | borg | 0.00 | 0.00–0.00, 1 | 0.00 | 0 |  | failed |",
		// A failed peer is no rival, however fast it failed.
		"| first | 0.50 (restic) | 0.50 (restic) | 1.00 (restic) | 1.00 (restic) | 2.00 (stream) |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
}

func TestMedian(t *testing.T) {
	for want, values := range map[float64][]float64{2: {3, 1, 2}, 1.5: {2, 1}, 7: {7}} {
		if got := median(values); got != want {
			t.Errorf("median of %v: %v, want %v", values, got, want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, args := range [][]string{{"-corpus", "trees"}, {"-tools", "tar"}, {"-steps", "second"}, {"-rounds", "0"}, {"x"}, {"-scale", "0"}} {
		if _, err := parse(args, new(strings.Builder)); err == nil {
			t.Errorf("%q is accepted", args)
		}
	}
	if o, err := parse([]string{"-tools", "restic,limit:walk"}, new(strings.Builder)); err != nil || len(o.steps) != len(allSteps) {
		t.Errorf("got %+v, %v", o, err)
	}
}
