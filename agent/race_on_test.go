//go:build race

package agent

// raceOn tells that the race detector watches, which makes all some 10 times slower.
const raceOn = true
