package vault

import (
	"context"
	"fmt"
	"slices"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/stage"
	"github.com/tharsis-backup/tharsis/vault/index"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// spillChunks is how many chunks of confirmed packs are held in memory before
// they go to a run in the spool: some 2 MiB of map and directories.
const spillChunks = 8 << 10

// spillFan is how many spilled runs of one level are merged into one of the
// next. So each row is merged a number of times that grows with the logarithm of
// the job, and a new chunk is looked up in few runs.
const spillFan = 16

// spillCacheBytes bounds decoded blocks of spilled runs.
const spillCacheBytes = 1 << 20

// jobIndex knows the chunks of the packs that a job has stored, in memory
// bounded by constants but for a filter of some 1.5 bytes a chunk.
type jobIndex struct {
	ring   *key.Ring
	dir    string
	mem    map[chunk.ID]struct{}
	packs  []pack.Directory // whose chunks are in mem
	levels [][]spilled      // runs by how often they were merged
	blocks *index.BlockCache
}

type spilled struct {
	run    *index.Run
	filter *index.Filter
	file   *spool
}

func newJobIndex(ring *key.Ring, dir string) *jobIndex {
	return &jobIndex{ring: ring, dir: dir, mem: map[chunk.ID]struct{}{}, blocks: index.NewBlockCache(spillCacheBytes)}
}

func (j *jobIndex) empty() bool { return len(j.packs) == 0 && len(j.levels) == 0 }

func (j *jobIndex) add(ctx context.Context, dir pack.Directory) error {
	for _, r := range dir.Records {
		for _, c := range r.Chunks {
			j.mem[c.ID] = struct{}{}
		}
	}
	j.packs = append(j.packs, dir)
	stage.Pass(stage.Indexed, dir.Records[0].Chunks[0].ID[:])
	if len(j.mem) < spillChunks {
		return nil
	}
	return j.spill(ctx)
}

func (j *jobIndex) has(ctx context.Context, id chunk.ID) (bool, error) {
	if _, ok := j.mem[id]; ok {
		return true, nil
	}
	for _, level := range j.levels {
		for _, s := range level {
			if !s.filter.MayHave(id) {
				continue
			}
			locs, err := s.run.Lookup(ctx, id, nil)
			if err != nil {
				return false, fmt.Errorf("look up chunk %s of this job: %w", id.Short(), err)
			}
			if len(locs) > 0 {
				return true, nil
			}
		}
	}
	return false, nil
}

// spill moves what is in memory to a run in the spool.
func (j *jobIndex) spill(ctx context.Context) error {
	s, err := j.toRun(ctx, runOf(ctx, j.ring, j.packs))
	if err != nil {
		return fmt.Errorf("spill index: %w", err)
	}
	j.mem, j.packs = map[chunk.ID]struct{}{}, nil
	return j.put(ctx, 0, s)
}

// put adds a run to a level, and merges the level when it is full.
func (j *jobIndex) put(ctx context.Context, level int, s spilled) error {
	if level == len(j.levels) {
		j.levels = append(j.levels, nil)
	}
	j.levels[level] = append(j.levels[level], s)
	if len(j.levels[level]) < spillFan {
		return nil
	}
	merged, err := j.toRun(ctx, mergeOf(ctx, j.ring, runsOf(j.levels[level]), nil))
	if err != nil {
		return fmt.Errorf("merge spilled index: %w", err)
	}
	closeRuns(j.levels[level])
	j.levels[level] = nil
	return j.put(ctx, level+1, merged)
}

func runsOf(all []spilled) []*index.Run {
	runs := make([]*index.Run, len(all))
	for i, s := range all {
		runs[i] = s.run
	}
	return runs
}

func closeRuns(all []spilled) {
	for _, s := range all {
		s.file.Close()
	}
}

func (j *jobIndex) toRun(ctx context.Context, m runMaker) (spilled, error) {
	id, err := pack.NewID(nil) // of a file of the job's own
	if err != nil {
		return spilled{}, err
	}
	run, f, err := spoolRun(ctx, j.ring, id, j.dir, m, j.blocks)
	if err != nil {
		return spilled{}, err
	}
	filter, err := index.BuildFilter(ctx, run)
	if err != nil {
		f.Close()
		return spilled{}, err
	}
	return spilled{run, filter, f}, nil
}

// all makes the run of all packs.
func (j *jobIndex) all(ctx context.Context) (runMaker, error) {
	if len(j.levels) == 0 {
		return runOf(ctx, j.ring, j.packs), nil
	}
	if len(j.packs) > 0 {
		if err := j.spill(ctx); err != nil {
			return runMaker{}, err
		}
	}
	return mergeOf(ctx, j.ring, runsOf(slices.Concat(j.levels...)), nil), nil
}

func (j *jobIndex) close() {
	for _, level := range j.levels {
		closeRuns(level)
	}
	j.levels = nil
}
