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

// memoryGoalBytes is where the garbage collector begins to work harder than
// gcPercent says. The bounds are the engine's own; what an index needs comes on top.
const memoryGoalBytes = 96 << 20

// gcPercent trades some collector time for a smaller heap than Go's default.
const gcPercent = 50

func main() { os.Exit(start()) }

// start runs the command of the process and returns its exit code.
func start() int {
	// Who runs it where memory is short, or plentiful, may say so as with any Go program.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryGoalBytes)
	}
	// The first signal ends the job cleanly, a second one the process at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() {
		<-ctx.Done()
		stop()
	}()
	return run(ctx, os.Args[1:], stdio{os.Stdin, os.Stdout, os.Stderr})
}
