// Command agent backs folders up to an encrypted vault and restores any point
// of them.
//
// This package is the only place for flags, the environment, the terminal and
// exit codes; each subcommand is one file. What it does is in package agent.
//
// Results go to stdout, for people or with --json as lines for programs;
// errors, notes and progress go to stderr. An error is one line with its cause,
// then a "hint:" with the next step.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
)

// memoryLimitBytes asks the garbage collector to stay below what we promise
// for a whole run; it is a goal, not a bound: the bounds are the engine's own.
const memoryLimitBytes = 160 << 20

// gcPercent trades some collector time for a smaller heap than Go's default.
const gcPercent = 60

func main() {
	debug.SetGCPercent(gcPercent)
	debug.SetMemoryLimit(memoryLimitBytes)
	// The first signal ends the job cleanly, a second one the process at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() {
		<-ctx.Done()
		stop()
	}()
	code := run(ctx, os.Args[1:], stdio{os.Stdin, os.Stdout, os.Stderr})
	os.Exit(code)
}
