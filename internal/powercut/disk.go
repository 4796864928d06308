//go:build linux

package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// A disk has a table of two partitions, then the partitions, then a block to which
// the guest writes its events. They are of one kind of file system: the first has
// the home and the source, the second the vault, as people have it. So no sync of the
// home's makes durable what the vault should have synced itself, as it would if they
// shared a journal.
const (
	partStart = 1 << 20
	markSpace = 1 << 20
)

// fileSystem is how a file system is made and mounted.
type fileSystem struct {
	size    int64    // of a partition: the least that its mkfs takes, or some more
	mkfs    []string // DISK stands for the file
	modules []string
	noFlush string // the option by which it never flushes the drive; "" if there is none
}

var fileSystems = map[string]fileSystem{
	"ext4":  {64 << 20, []string{"mkfs.ext4", "-q", "-F", "DISK"}, nil, "barrier=0"},
	"xfs":   {320 << 20, []string{"mkfs.xfs", "-q", "-f", "DISK"}, []string{"crc32c_generic", "xfs"}, ""},
	"btrfs": {160 << 20, []string{"mkfs.btrfs", "-q", "-f", "DISK"}, []string{"crc32c_generic", "btrfs"}, "nobarrier"},
}

func (f fileSystem) part(i int) int64 { return partStart + int64(i)*f.size }
func (f fileSystem) mark() int64      { return f.part(2) }
func (f fileSystem) disk() int64      { return f.mark() + markSpace }

// newDisk makes a disk with two empty file systems.
func (f fileSystem) newDisk(path string) error {
	d, err := os.Create(path)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Truncate(f.disk()); err != nil {
		return err
	}
	if _, err := d.WriteAt(f.table(), 0); err != nil {
		return err
	}
	part := path + "-part"
	defer os.Remove(part)
	for i := range 2 {
		if err := f.format(part); err != nil {
			return err
		}
		if err := command("dd", "if="+part, "of="+path, "bs=1M", "conv=notrunc,sparse", fmt.Sprint("seek=", f.part(i)>>20), "status=none"); err != nil {
			return err
		}
	}
	return d.Close()
}

// table is the first sector: an MBR.
func (f fileSystem) table() []byte {
	b := make([]byte, sector)
	for i := range 2 {
		entry := b[446+16*i:]
		entry[4] = 0x83 // Linux
		binary.LittleEndian.PutUint32(entry[8:], uint32(f.part(i)/sector))
		binary.LittleEndian.PutUint32(entry[12:], uint32(f.size/sector))
	}
	b[510], b[511] = 0x55, 0xaa
	return b
}

// format makes a file system in a file of its own.
func (f fileSystem) format(path string) error {
	os.Remove(path)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(path, f.size); err != nil {
		return err
	}
	var argv []string
	for _, arg := range f.mkfs {
		argv = append(argv, strings.Replace(arg, "DISK", path, 1))
	}
	return command(argv...)
}

// copyDisk copies a disk's used parts.
func copyDisk(from, to string) error {
	return command("cp", "--sparse=always", "--reflink=auto", from, to)
}

// mounted runs fn while the partitions of the disk are mounted below a root.
func mounted(disk, root, fs string, fn func() error) error {
	for i, dir := range mountDirs {
		f := fileSystems[fs]
		options := fmt.Sprintf("loop,offset=%d,sizelimit=%d", f.part(i), f.size)
		inner := fn
		fn = func() (err error) {
			if err := command("mount", "-t", fs, "-o", options, disk, root+dir); err != nil {
				return err
			}
			defer func() {
				if uerr := command("umount", root+dir); err == nil {
					err = uerr
				}
			}()
			return inner()
		}
	}
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
