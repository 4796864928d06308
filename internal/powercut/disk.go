//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// markSpace is behind the file system on each disk; the guest writes its events to
// the first block of it.
const markSpace = 1 << 20

// fileSystem is how a file system is made and mounted.
type fileSystem struct {
	size    int64    // the least that its mkfs takes, or some more
	mkfs    []string // SIZE stands for the size in bytes, KIB for that in KiB
	modules []string
	noFlush string // the option by which it never flushes the drive; "" if there is none
}

var fileSystems = map[string]fileSystem{
	"ext4":  {96 << 20, []string{"mkfs.ext4", "-q", "-F", "DISK", "KIBk"}, nil, "barrier=0"},
	"xfs":   {320 << 20, []string{"mkfs.xfs", "-q", "-f", "-d", "size=SIZE", "DISK"}, []string{"crc32c_generic", "xfs"}, ""},
	"btrfs": {160 << 20, []string{"mkfs.btrfs", "-q", "-f", "-b", "SIZE", "DISK"}, []string{"crc32c_generic", "btrfs"}, "nobarrier"},
}

func (f fileSystem) mark() int64 { return f.size }
func (f fileSystem) disk() int64 { return f.size + markSpace }

// newDisk makes a disk with an empty file system.
func (f fileSystem) newDisk(path string) error {
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(path, f.disk()); err != nil {
		return err
	}
	var argv []string
	for _, arg := range f.mkfs {
		arg = strings.Replace(arg, "SIZE", strconv.FormatInt(f.size, 10), 1)
		arg = strings.Replace(arg, "KIB", strconv.FormatInt(f.size>>10, 10), 1)
		if arg == "DISK" {
			arg = path
		}
		argv = append(argv, arg)
	}
	return command(argv...)
}

// copyDisk copies a disk's used parts.
func copyDisk(from, to string) error {
	return command("cp", "--sparse=always", "--reflink=auto", from, to)
}

// mounted runs fn while the disk is mounted at dir.
func mounted(disk, dir, fs string, fn func() error) (err error) {
	if err := command("mount", "-t", fs, "-o", "loop", disk, dir); err != nil {
		return err
	}
	defer func() {
		if uerr := command("umount", dir); err == nil {
			err = uerr
		}
	}()
	return fn()
}

// command runs a command of the host; an error says all that it wrote.
func command(argv ...string) error {
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
