//go:build linux

// Powercut cuts the power of an emulated machine while the agent in it backs up,
// forgets and prunes, and checks what the disk then holds. scripts/powercut calls
// it, and says what it needs and how to use it.
//
// The guest is a kernel with an initramfs of this very program as init, the agent,
// and the modules of the file system (initramfs.go). It edits a small tree, whose
// content at each state is a function of the seed (tree.go), backs it up to a vault
// on another partition of the disk, and tells of each step before and after
// (guest.go). What it tells goes to the console, and to a block at the disk's end.
//
// A cut is a SIGKILL of the emulator at a chosen moment (vm.go, moments.go): what
// the guest's kernel had not written is gone. A drive with a cache of its own loses
// more: what was written since the last flush, in any choice and order. So the
// emulator also logs all writes and flushes, in the format of dm-log-writes, and
// from the log any number of further disks is made that such a drive could have
// left (writelog.go). The blocks in which the guest told of its steps are in that
// log, so it is known what had been acknowledged before each write.
//
// Each disk is mounted and must hold what was acknowledged (check.go): each point is
// listed and restores exactly, verify finds all whole, and the next backup and prune
// succeed unaided. Then the guest goes on from the disk of the cut.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
)

func main() {
	if os.Getpid() == 1 {
		guestMain()
	}
	if err := run(os.Args[1:]); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "powercut:", err)
		}
		os.Exit(1)
	}
}

func run(args []string) error {
	var o options
	flags := flag.NewFlagSet("powercut", flag.ContinueOnError)
	flags.IntVar(&o.cuts, "cuts", 20, "number of cuts")
	flags.Uint64Var(&o.seed, "seed", 1, "chooses trees, moments and lost writes")
	flags.IntVar(&o.images, "images", 3, "disks that are made from the log of the writes, for each cut")
	flags.IntVar(&o.life, "life", 5, "cuts after which a new disk is begun")
	fs := flags.String("fs", "ext4,xfs,btrfs", "file systems, which the disks have in turn")
	flags.StringVar(&o.broken, "break", "", "show that losses are found: sync, for an agent whose syncs do nothing, or flush, for a file system that never flushes the drive")
	flags.StringVar(&o.agent, "agent", "", "the agent, linked statically")
	flags.StringVar(&o.kernel, "kernel", "", "folder with boot/vmlinuz-* and lib/modules")
	flags.StringVar(&o.work, "work", "", "folder for disks and logs")
	check := flags.String("check", "", "only check again what a failure kept in this folder")
	if err := flags.Parse(args); err != nil {
		return err
	}
	o.fs = strings.Split(*fs, ",")
	switch {
	case flags.NArg() > 0:
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case o.agent == "" || o.work == "" || *check == "" && o.kernel == "":
		return errors.New("-agent, -work and -kernel are needed")
	case o.cuts < 1 || o.life < 1 || o.images < 0:
		return errors.New("-cuts and -life are 1 or more, -images 0 or more")
	case o.broken != "" && o.broken != brokenSync && o.broken != brokenFlush:
		return fmt.Errorf("-break %s: only %s or %s", o.broken, brokenSync, brokenFlush)
	}
	for _, name := range o.fs {
		if _, ok := fileSystems[name]; !ok {
			return fmt.Errorf("-fs %s: not a file system that is known here", name)
		}
	}
	if *check != "" {
		return checkKept(o, *check)
	}
	return cutAll(o)
}
