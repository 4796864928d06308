package agent

import (
	"fmt"

	"github.com/tharsis-backup/tharsis/vault/log"
)

// newestGood finds the newest good point of each source: the one to go back to
// when all else is in doubt, which neither a policy nor a slip of the hand may
// delete. A good point is not deleted, not suspect, and has the source's content.
// Points are given in the order of their COMMITs, as State.Points has them: clocks
// may lie.
func newestGood(points []log.PointInfo) map[log.SourceID]log.PointID {
	newest := map[log.SourceID]log.PointID{}
	for _, p := range points {
		if p.Purged || p.Forgotten != 0 || p.Point.Suspect {
			continue
		}
		for i := range p.Point.Sources {
			if src := &p.Point.Sources[i]; src.Status == log.StatusComplete || src.Status == log.StatusWarnings {
				newest[src.ID] = p.Point.ID
			}
		}
	}
	return newest
}

// newestOf names the sources that a point is the newest good one of, for a
// message; "" where there is none.
func newestOf(p *log.Point, newest map[log.SourceID]log.PointID) string {
	first, more := "", 0
	for i := range p.Sources {
		if src := &p.Sources[i]; newest[src.ID] != p.ID {
			continue
		} else if first == "" {
			first = fmt.Sprintf("%s on %s", src.Path, p.Host)
		} else {
			more++
		}
	}
	if more > 0 {
		return fmt.Sprintf("%s, and of %d more of its sources", first, more)
	}
	return first
}
