package manifest

import (
	"io"
	"testing"
)

// Benchmarks print how long an entry takes, of 200,000.

func BenchmarkBuild(b *testing.B) {
	rows := flat(200000)
	b.ReportAllocs()
	for b.Loop() {
		s := newStore()
		s.check = false
		build(b, s, shape{}, rows)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(rows)), "ns/entry")
}

func BenchmarkCursor(b *testing.B) {
	rows := flat(200000)
	s := newStore()
	root, _ := build(b, s, shape{}, rows)
	b.ReportAllocs()
	for b.Loop() {
		c := NewCursor(s, root)
		c.CheckParents()
		for {
			if _, _, err := c.Next(ctx); err == io.EOF {
				break
			} else if err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(rows)), "ns/entry")
}

// BenchmarkMerge changes 1 % of the entries: scattered, and of one folder.
func BenchmarkMerge(b *testing.B) {
	rows := flat(200000)
	s := newStore()
	s.check = false
	root, _ := build(b, s, shape{}, rows)
	for name, pick := range map[string]func(i int) bool{
		"scattered": func(i int) bool { return i%100 == 50 },
		"together":  func(i int) bool { return i >= 50000 && i < 52000 },
	} {
		var diff records
		for i, r := range rows {
			if pick(i) {
				e := r.entry.Clone()
				e.MTime.Sec++
				diff = append(diff, Record{Key: []byte(r.key), Entry: AppendEntry(nil, e)})
			}
		}
		for _, plain := range []bool{false, true} {
			b.Run(name+map[bool]string{true: "/plain"}[plain], func(b *testing.B) {
				s.reads, s.puts = 0, 0
				for b.Loop() {
					in := diff
					if _, _, err := Merge(ctx, root, &in, s, s, MergeOptions{Plain: plain}); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(s.reads)/float64(b.N), "reads")
				b.ReportMetric(float64(s.puts)/float64(b.N), "puts")
				b.ReportMetric(float64(len(s.pages)), "pages")
			})
		}
	}
}
