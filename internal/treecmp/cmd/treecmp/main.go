// Treecmp prints the differences between two directory trees, one a line, and
// exits 0 where there are none, 1 where there are some and 2 where the trees
// could not be compared. See package treecmp for what is compared.
//
//	treecmp [-ignore owners,dirtimes,...] [-max N] A B
package main

import (
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/tharsis-backup/tharsis/internal/treecmp"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("treecmp", flag.ContinueOnError)
	flags.SetOutput(stderr)
	ignore := flags.String("ignore", "", "aspects that are not compared, comma separated: "+treecmp.Aspect(1<<16-1).String())
	most := flags.Int("max", 0, "end after this many differences (0: 1000)")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	aspects, err := treecmp.ParseAspects(*ignore)
	if err != nil || flags.NArg() != 2 {
		fmt.Fprintln(stderr, "treecmp: two trees are needed, and known aspects:", err)
		return 2
	}
	var stats treecmp.Stats
	diffs, err := treecmp.Compare(flags.Arg(0), flags.Arg(1), treecmp.Options{Ignore: aspects, Max: *most, Stats: &stats})
	for _, d := range diffs {
		fmt.Fprintln(stdout, d)
	}
	if err != nil {
		fmt.Fprintln(stderr, "treecmp:", err)
		return 2
	}
	fmt.Fprintf(stderr, "%d entries compared (%d files, %d bytes), %d differences\n", stats.Entries, stats.Files, stats.Bytes, len(diffs))
	if len(diffs) > 0 {
		return 1
	}
	return 0
}
