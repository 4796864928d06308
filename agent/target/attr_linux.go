package target

import (
	"math"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tharsis-backup/tharsis/internal/disk"
	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// isPath tells whether fd is one that can't be read or written through.
func isPath(fd int) bool {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	return err == nil && flags&unix.O_PATH != 0
}

func chownFd(h handle, uid, gid uint32) error {
	if err := check(disk.OpMeta, "owner"); err != nil {
		return err
	}
	if h.path {
		return unix.Fchownat(h.fd, "", id(uid), id(gid), unix.AT_EMPTY_PATH)
	}
	return unix.Fchown(h.fd, id(uid), id(gid))
}

// id makes the number for "leave it" of the largest, which is no owner.
func id(n uint32) int {
	if n == math.MaxUint32 {
		return -1
	}
	return int(n)
}

// What follows goes over /proc for descriptors that don't allow it. That leads to
// the open file itself, a symlink included, by no name that anybody could change.

func chmodFd(h handle, mode uint32) error {
	if err := check(disk.OpMeta, "mode"); err != nil {
		return err
	}
	if h.path {
		return unix.Fchmodat(unix.AT_FDCWD, procPath(h.fd), mode, 0)
	}
	return unix.Fchmod(h.fd, mode)
}

func setTime(h handle, t manifest.Time) error {
	if err := check(disk.OpMeta, "times"); err != nil {
		return err
	}
	ts := [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: t.Sec, Nsec: int64(t.Nsec)}}
	err := unix.UtimesNanoAt(h.fd, "", ts[:], unix.AT_EMPTY_PATH)
	if err == unix.EINVAL || err == unix.ENOENT { // a kernel that doesn't know the flag here
		err = unix.UtimesNanoAt(unix.AT_FDCWD, procPath(h.fd), ts[:], 0)
	}
	return err
}

func setXattr(h handle, name string, value []byte) error {
	if err := check(disk.OpMeta, name); err != nil {
		return err
	}
	if h.path {
		return unix.Setxattr(procPath(h.fd), name, value, 0)
	}
	return unix.Fsetxattr(h.fd, name, value, 0)
}

func removeXattr(h handle, name string) error {
	if h.path {
		return unix.Removexattr(procPath(h.fd), name)
	}
	return unix.Fremovexattr(h.fd, name)
}

func hasXattr(h handle, name string) bool {
	var err error
	if h.path {
		_, err = unix.Getxattr(procPath(h.fd), name, nil)
	} else {
		_, err = unix.Fgetxattr(h.fd, name, nil)
	}
	return err == nil
}

// maxXattr is what Linux allows one attribute's value, and the list of names.
const maxXattr = 1 << 16

func getXattr(h handle, name string) ([]byte, error) {
	return grow(func(p []byte) (int, error) {
		if h.path {
			return unix.Getxattr(procPath(h.fd), name, p)
		}
		return unix.Fgetxattr(h.fd, name, p)
	})
}

func listXattrs(h handle) ([]string, error) {
	p, err := grow(func(p []byte) (int, error) {
		if h.path {
			return unix.Listxattr(procPath(h.fd), p)
		}
		return unix.Flistxattr(h.fd, p)
	})
	if err != nil || len(p) == 0 {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(string(p), "\x00"), "\x00"), nil
}

// grow calls f with a small buffer, and with the largest where that was too small.
func grow(f func([]byte) (int, error)) ([]byte, error) {
	p := make([]byte, 256)
	n, err := f(p)
	if err == unix.ERANGE {
		p = make([]byte, maxXattr)
		n, err = f(p)
	}
	if err != nil {
		return nil, err
	}
	return p[:n], nil
}

// refused tells whether the system says no to us, rather than that it broke.
func refused(err error) bool {
	switch err {
	case unix.EPERM, unix.EACCES, unix.EOPNOTSUPP, unix.ENOSYS, unix.EINVAL, unix.EOVERFLOW:
		return true
	}
	return false
}

// refusedAttr is refused for attributes, which also may not fit: some file
// systems have room for few, and say that the disk is full.
func refusedAttr(err error) bool {
	switch err {
	case unix.ERANGE, unix.E2BIG, unix.ENOSPC, unix.EDQUOT, unix.ENODATA:
		return true
	}
	return refused(err)
}
