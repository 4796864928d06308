//go:build race

package chunk

// underRace: the race detector makes sync.Pool drop things, so that the zstd library
// allocates.
const underRace = true
