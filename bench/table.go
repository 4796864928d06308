package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// report is everything that one run found. It is what the .json file holds.
type report struct {
	Machine  machine           `json:"machine"`
	Versions map[string]string `json:"versions"`
	Seed     uint64            `json:"seed"`
	Scale    float64           `json:"scale"`
	Cold     bool              `json:"cold"`
	Corpora  []corpusInfo      `json:"corpora"`
	Samples  []sample          `json:"samples"`
}

// write prints the tables to w, and to the file out with the raw results
// beside it.
func (r report) write(out string, w io.Writer) error {
	text := r.markdown()
	if _, err := io.WriteString(w, text); err != nil || out == "" {
		return err
	}
	raw, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(out, []byte(text), 0o644); err != nil {
		return err
	}
	return os.WriteFile(strings.TrimSuffix(out, filepath.Ext(out))+".json", append(raw, '\n'), 0o644)
}

// row sums up all rounds of one tool at one step of one corpus.
type row struct {
	tool                   string
	step                   step
	rounds                 int
	wall, cpu, peak, vault float64 // medians: s, s, bytes, bytes
	least, most            float64 // wall
	result                 string  // of a restore, or the failure
	failed                 bool
}

// rowsOf sums up one corpus: by step, then by tool in the order given.
func rowsOf(samples []sample, corpus string, order []string) []row {
	var rows []row
	for _, s := range allSteps {
		for _, name := range order {
			var mine []sample
			for _, x := range samples {
				if x.Corpus == corpus && x.Tool == name && x.Step == s {
					mine = append(mine, x)
				}
			}
			if len(mine) > 0 {
				rows = append(rows, sumUp(mine))
			}
		}
	}
	return rows
}

// sumUp makes one row of the rounds of one tool at one step.
func sumUp(rounds []sample) row {
	r := row{tool: rounds[0].Tool, step: rounds[0].Step, rounds: len(rounds)}
	var wall, cpu, peak, vault []float64
	for _, x := range rounds {
		if x.Error != "" {
			r.failed, r.result = true, "failed"
			continue
		}
		wall = append(wall, x.Wall.Seconds())
		cpu = append(cpu, (x.User + x.System).Seconds())
		peak = append(peak, float64(x.Peak))
		vault = append(vault, float64(x.Vault))
		if x.Step.restores() && !r.failed && (r.result == "" || r.result == "equal") {
			r.result = x.outcome() // the first that isn't equal stays
		}
	}
	if len(wall) > 0 {
		r.wall, r.cpu, r.peak, r.vault = median(wall), median(cpu), median(peak), median(vault)
		r.least, r.most = slices.Min(wall), slices.Max(wall)
	}
	return r
}

// median is the middle value, or the mean of the two in the middle.
func median(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// outcome tells of a restore how it compared, and of any step that it failed.
func (s sample) outcome() string {
	switch {
	case s.Error != "":
		return "FAILED: " + s.Error
	case !s.Step.restores():
		return ""
	case len(s.Diffs) == 0:
		return "equal"
	}
	var parts []string
	for _, aspect := range slices.Sorted(maps.Keys(s.Diffs)) {
		parts = append(parts, fmt.Sprintf("%s %d", aspect, s.Diffs[aspect]))
	}
	return "differs: " + strings.Join(parts, ", ")
}

// markdown is the whole report for a reader.
func (r report) markdown() string {
	var b strings.Builder
	m := r.Machine
	fmt.Fprintf(&b, "Measured %s on %s, %d cores, %s, %s, %s, %s; load at the start %s. ",
		m.Date, m.CPU, m.Cores, m.Memory, m.Kernel, m.Disk, m.Go, m.Load)
	fmt.Fprintf(&b, "Seed %d, scale %g, page cache %s.\n\n", r.Seed, r.Scale, map[bool]string{true: "dropped before each command", false: "warm"}[r.Cold])
	known := tools("")
	var order []string
	for _, t := range known {
		if seen, ok := r.Versions[t.name]; ok {
			order = append(order, t.name)
			fmt.Fprintf(&b, "- %s: %s\n", t.name, strings.Join(slices.DeleteFunc([]string{seen, t.note}, func(s string) bool { return s == "" }), "; "))
		}
	}
	for _, c := range r.Corpora {
		rows := rowsOf(r.Samples, c.Name, order)
		if len(rows) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n### %s: %d files, %.0f MB\n\n", c.Name, c.Files, float64(c.Bytes)/1e6)
		made := fmt.Sprintf("Made of %s. %s", strings.Join(c.Sources, ", "), c.Notes)
		fmt.Fprintf(&b, "%s\n\n", strings.TrimSpace(made))
		writeRows(&b, rows)
		writeRatios(&b, rows)
	}
	return b.String()
}

// writeRows is the table of medians.
func writeRows(b *strings.Builder, rows []row) {
	b.WriteString("| step | tool | wall s | (min–max, n) | CPU s | peak MiB | vault MB | restored |\n")
	b.WriteString("|---|---|--:|--:|--:|--:|--:|---|\n")
	for _, r := range rows {
		vault := ""
		if r.vault > 0 {
			vault = fmt.Sprintf("%.1f", r.vault/1e6)
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s–%s, %d | %s | %.0f | %s | %s |\n", r.step, r.tool, seconds(r.wall),
			seconds(r.least), seconds(r.most), r.rounds, seconds(r.cpu), r.peak/(1<<20), vault, r.result)
	}
}

// seconds gives three digits and more.
func seconds(s float64) string {
	if s < 10 {
		return fmt.Sprintf("%.2f", s)
	}
	return fmt.Sprintf("%.1f", s)
}

// writeRatios is the table of us against the best peer, each measure against
// the peer that is best at it, and against the limits of the same step.
func writeRatios(b *strings.Builder, rows []row) {
	us := ours("").name
	var lines []string
	for _, r := range rows {
		if r.tool != us || r.failed {
			continue
		}
		peers, limits := rivals(rows, r.step)
		cells := []string{
			ratio(r, peers, func(x row) float64 { return x.wall }),
			ratio(r, peers, func(x row) float64 { return x.cpu }),
			ratio(r, peers, func(x row) float64 { return x.peak }),
			ratio(r, peers, func(x row) float64 { return x.vault }),
			ratio(r, limits, func(x row) float64 { return x.wall }),
		}
		lines = append(lines, fmt.Sprintf("| %s | %s |\n", r.step, strings.Join(cells, " | ")))
	}
	if len(lines) > 0 {
		b.WriteString("\nUs, as a multiple of the best peer (below 1 we are ahead) and of the limit:\n\n")
		b.WriteString("| step | wall | CPU | peak memory | vault | wall, of the limit |\n|---|--:|--:|--:|--:|--:|\n")
		b.WriteString(strings.Join(lines, ""))
	}
}

// rivals are the rows of one step that aren't ours and didn't fail.
func rivals(rows []row, s step) (peers, limits []row) {
	for _, r := range rows {
		switch {
		case r.step != s || r.failed || r.tool == ours("").name:
		case strings.HasPrefix(r.tool, limitPrefix):
			limits = append(limits, r)
		default:
			peers = append(peers, r)
		}
	}
	return peers, limits
}

// ratio divides ours by the smallest of the others', and names that one.
func ratio(us row, others []row, measure func(row) float64) string {
	others = slices.DeleteFunc(slices.Clone(others), func(r row) bool { return measure(r) <= 0 })
	if len(others) == 0 || measure(us) <= 0 {
		return ""
	}
	best := slices.MinFunc(others, func(a, b row) int { return cmp.Compare(measure(a), measure(b)) })
	return fmt.Sprintf("%.2f (%s)", measure(us)/measure(best), strings.TrimPrefix(best.tool, limitPrefix))
}
