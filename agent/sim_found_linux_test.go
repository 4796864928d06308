package agent

import (
	"testing"
)

// simFound are runs that the simulator found something by, shrunk, and what went wrong
// in them before it was mended.
var simFound = []struct{ what, script string }{
	{"a prune took the run of a merge that slept for a dead job's, and the merge superseded the old runs for it", `
seed 8 machines 3
0 prune 35
1 backup 62
1 go:end 0
2 merge 99
2 go:log 0
0 sleep 12000
`},
	{"the run that a prune was about to open was merged into another meanwhile, and deleted", `
seed 8 machines 3
0 prune 35
1 backup 62
1 go:end 0
0 go:write 0
2 merge 99
2 go:log 0
0 sleep 12000
2 go:end 0
1 prune 81
1 go:end 0
`},
	{"a prune looked for what was of a point that another one purged meanwhile", `
seed 50 machines 7
2 backup 68
2 go:end 0
0 prune 14
0 go:write 0
4 forget 63
4 go:end 0
0 sleep 21600
4 prune 1
4 go:end 0
0 sleep 4440
4 prune 0
4 go:end 0
`},
	{"a prune that met a damaged page and looked again took for marked what that page names", `
seed 472 machines 6
0 prune 9
1 backup 56
1 go:end 0
0 damage 177
0 go:write 0
5 forget 336
5 go:end 0
`},
	{"a point was held just before a prune wrote its PURGE, and its packs were condemned all the same", `
seed 1828 machines 4
2 backup 8
2 go:log 0
1 hold 34
2 go:log 0
4 forget 1194
4 go:end 0
0 sleep 21600
1 go:write 0
4 prune 2
0 go:log 0
1 go:round 0
`},
	{"a prune that slept took for needed what another one had ended, condemned and swept meanwhile", `
seed 1767 machines 4
0 backup 75
2 backup 41
2 go:log 0
0 sleep 21600
4 go:end 0
4 prune 1
4 go:end 0
2 go:log 0
0 prune 60
0 sleep 12000
2 go:log 0
0 go:log 0
1 forget 6
3 prune 32
1 go:end 0
0 sleep 21600
1 prune 3
1 go:end 0
0 sleep 21800
3 go:end 0
`},
	{"a prune wrote packs anew in the order of a point that two other ones had ended meanwhile", `
seed 2475 machines 7
4 backup 85
4 go:end 0
3 prune 60
3 go:write 0
3 go:round 0
2 forget 36
6 backup 16
5 forget 493
5 go:end 0
0 sleep 21600
5 prune 3
5 go:end 0
0 sleep 4440
5 prune 1
5 go:end 0
6 go:end 0
3 go:log 0
2 go:end 0
0 sleep 21600
2 prune 3
2 go:end 0
0 sleep 4440
2 prune 2
`},
}

func TestSimulatorFound(t *testing.T) {
	sim := &simulator{first: newSimTemplate(t)}
	for _, f := range simFound {
		t.Run(f.what, func(t *testing.T) {
			s, err := simParse(f.script)
			if err != nil {
				t.Fatal(err)
			}
			if res := sim.script(t, s); res.err != nil {
				t.Errorf("%v\n%s", res.err, res.script)
			}
		})
	}
}
