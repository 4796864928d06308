package target

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/tharsis-backup/tharsis/internal/disk"
	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// Errors that the rest of the package tells apart, whatever the system calls them.
var (
	errIsDir    = errors.New("a folder is in its place")
	errNoLink   = errors.New("can't be linked there")
	errNoDevice = errors.New("making devices is not permitted")
	errNoAttr   = error(unix.ENODATA)
)

// check gives the error, as a system call gives one, that a test wants to see in
// place of a call.
func check(op disk.Op, name string) error {
	err := disk.Check(op, name)
	if err == nil {
		return nil
	}
	if errno := unix.Errno(0); errors.As(err, &errno) {
		return errno
	}
	return err
}

const dirFlags = unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

func whoAmI() identity {
	me := identity{uid: uint32(os.Geteuid()), gid: uint32(os.Getegid()), umask: 0o777}
	me.root = me.uid == 0
	// Asking the system call for the umask means to change it for a moment, for
	// all threads. Without the file nothing is taken for granted of new files.
	status, _ := os.ReadFile("/proc/self/status")
	if _, rest, ok := bytes.Cut(status, []byte("\nUmask:\t")); ok {
		line, _, _ := bytes.Cut(rest, []byte("\n"))
		if n, err := strconv.ParseUint(string(line), 8, 32); err == nil {
			me.umask = uint32(n)
		}
	}
	return me
}

// makeAll makes a folder and its parents, and tells whether it made it.
func makeAll(dir string) (bool, error) {
	if _, err := os.Stat(dir); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if err := disk.MkdirAll(filepath.Dir(filepath.Clean(dir)), 0o777); err != nil {
		return false, err
	}
	err := disk.Mkdir(dir, 0o777)
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	return err == nil, err
}

func openTopDir(dir string) (int, stat, error) {
	return openStat(unix.AT_FDCWD, dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
}

// openat is unix.Openat, again where a signal came between (network file systems).
func openat(fd int, name string, flags int, mode uint32) (int, error) {
	for {
		n, err := unix.Openat(fd, name, flags, mode)
		if err != unix.EINTR {
			return n, err
		}
	}
}

func openStat(dir int, name string, flags int) (int, stat, error) {
	fd, err := openat(dir, name, flags, 0)
	if err != nil {
		return -1, stat{}, err
	}
	st, err := statFd(fd)
	if err != nil {
		unix.Close(fd)
		return -1, stat{}, err
	}
	return fd, st, nil
}

// slowOpen lets one goroutine at a time hold the extra descriptor of openLocked,
// see maxDirs.
var slowOpen sync.Mutex

// openDir opens a folder. Where it is ours but closed to us it is opened up
// (loosened), and st has the mode that it had. It never follows a symlink;
// errNotDir is for all that is no folder.
func (r *Root) openDir(dir int, name string) (fd int, st stat, loosened bool, err error) {
	fd, st, err = openStat(dir, name, unix.O_RDONLY|dirFlags)
	switch {
	case err == unix.ENOTDIR || err == unix.ELOOP:
		return -1, st, false, errNotDir
	case err == unix.EACCES && !r.me.root:
		return r.openLocked(dir, name)
	case err != nil:
		return -1, st, false, err
	}
	if !r.me.root && st.uid == r.me.uid && st.mode&fillMode != fillMode {
		loosened = unix.Fchmod(fd, st.mode|fillMode) == nil
	}
	return fd, st, loosened, nil
}

// openLocked opens a folder that we may not read: ours after a chmod, another's
// by a descriptor that only serves to reach what is below.
func (r *Root) openLocked(dir int, name string) (int, stat, bool, error) {
	slowOpen.Lock()
	defer slowOpen.Unlock()
	path, st, err := openStat(dir, name, unix.O_PATH|dirFlags)
	if err == unix.ENOTDIR || err == unix.ELOOP {
		err = errNotDir
	}
	if err != nil || st.uid != r.me.uid {
		return path, st, false, err
	}
	defer unix.Close(path)
	if err := chmodFd(handle{path, true}, st.mode|fillMode); err != nil {
		return -1, st, false, err
	}
	fd, err := openat(path, ".", unix.O_RDONLY|dirFlags, 0)
	if err != nil {
		chmodFd(handle{path, true}, st.mode)
		return -1, st, false, err
	}
	return fd, st, true, nil
}

func openParent(fd int) (int, stat, error) {
	return openStat(fd, "..", unix.O_RDONLY|dirFlags)
}

func mkdirAt(fd int, name string, mode uint32) error {
	if err := check(disk.OpMkdir, name); err != nil {
		return err
	}
	return unix.Mkdirat(fd, name, mode)
}

func rmdirAt(fd int, name string) error  { return removeAt(fd, name, unix.AT_REMOVEDIR) }
func unlinkAt(fd int, name string) error { return removeAt(fd, name, 0) }

func removeAt(fd int, name string, flags int) error {
	if err := check(disk.OpRemove, name); err != nil {
		return err
	}
	return unix.Unlinkat(fd, name, flags)
}

func createAt(fd int, name string, mode uint32) (int, error) {
	if err := check(disk.OpCreate, name); err != nil {
		return -1, err
	}
	return openat(fd, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
}

// openReadAt opens a file to read it. What isn't one does no harm: a FIFO is
// opened without waiting, and the caller compares.
func openReadAt(fd int, name string) (int, error) {
	return openat(fd, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// openPathAt opens anything, a symlink itself included, for its metadata.
func openPathAt(fd int, name string) (int, error) {
	return openat(fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// closeFd closes a file or folder that was read, or is given up.
func closeFd(fd int) { unix.Close(fd) }

// closeWritten closes a file that was written. An error may be the only word of
// bytes that are lost.
func closeWritten(fd int) error {
	failed := check(disk.OpClose, "")
	if err := unix.Close(fd); err != nil && err != unix.EINTR {
		return err
	}
	return failed
}

func statAt(fd int, name string) (stat, error) {
	var s unix.Stat_t
	if err := unix.Fstatat(fd, name, &s, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return stat{}, err
	}
	return toStat(&s), nil
}

func statFd(fd int) (stat, error) {
	var s unix.Stat_t
	if err := unix.Fstat(fd, &s); err != nil {
		return stat{}, err
	}
	return toStat(&s), nil
}

func toStat(s *unix.Stat_t) stat {
	return stat{
		kind: toKind(s.Mode), mode: s.Mode & 0o7777, uid: s.Uid, gid: s.Gid,
		dev: s.Dev, ino: s.Ino, nlink: uint64(s.Nlink), size: s.Size,
		mtime: manifest.Time{Sec: s.Mtim.Sec, Nsec: uint32(s.Mtim.Nsec)},
		major: unix.Major(s.Rdev), minor: unix.Minor(s.Rdev),
	}
}

func toKind(mode uint32) manifest.Kind {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return manifest.KindDir
	case unix.S_IFREG:
		return manifest.KindFile
	case unix.S_IFLNK:
		return manifest.KindSymlink
	case unix.S_IFBLK:
		return manifest.KindBlock
	case unix.S_IFCHR:
		return manifest.KindChar
	case unix.S_IFIFO:
		return manifest.KindFIFO
	}
	return 0
}

// makeAt makes a symlink, device or FIFO, open to its owner only.
func makeAt(fd int, name string, e *manifest.Entry) error {
	if err := check(disk.OpLink, name); err != nil {
		return err
	}
	kind := uint32(unix.S_IFIFO)
	switch e.Kind {
	case manifest.KindSymlink:
		return unix.Symlinkat(e.Target, fd, name)
	case manifest.KindFIFO:
		return unix.Mknodat(fd, name, kind|0o600, 0)
	case manifest.KindBlock:
		kind = unix.S_IFBLK
	case manifest.KindChar:
		kind = unix.S_IFCHR
	default:
		return errKind
	}
	if e.Major > 1<<12-1 || e.Minor > 1<<20-1 { // the system would cut them silently
		return fmt.Errorf("device number %d:%d: %w", e.Major, e.Minor, unix.EINVAL)
	}
	err := unix.Mknodat(fd, name, kind|0o600, int(unix.Mkdev(e.Major, e.Minor)))
	if err == unix.EPERM {
		return errNoDevice
	}
	return err
}

func readlinkAt(fd int, name string) (string, error) {
	var buf [unix.PathMax]byte
	n, err := unix.Readlinkat(fd, name, buf[:])
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// renameNew renames within a folder where to must not exist. File systems that
// can't do that in one step are asked for a link, which can't replace either; the
// last, without links, leave a moment between look and step.
func renameNew(fd int, from, to string) error {
	if err := check(disk.OpRename, to); err != nil {
		return err
	}
	err := unix.Renameat2(fd, from, fd, to, unix.RENAME_NOREPLACE)
	if err != unix.EINVAL && err != unix.ENOSYS {
		return err
	}
	if err = unix.Linkat(fd, from, fd, to, 0); err == nil {
		return unix.Unlinkat(fd, from, 0)
	}
	if err == unix.EEXIST {
		return err
	}
	if _, err := statAt(fd, to); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = unix.EEXIST
		}
		return err
	}
	return unix.Renameat(fd, from, fd, to)
}

func renameOver(fd int, from, to string) error {
	if err := check(disk.OpRename, to); err != nil {
		return err
	}
	err := unix.Renameat(fd, from, fd, to)
	if err == unix.EISDIR {
		return errIsDir
	}
	return err
}

// linkFd gives what node has open a name. Without the capability for the first
// way there is the detour over /proc, which leads to the same file whatever its
// names are.
func linkFd(node, fd int, name string) error {
	if err := check(disk.OpLink, name); err != nil {
		return err
	}
	err := unix.Linkat(node, "", fd, name, unix.AT_EMPTY_PATH)
	if err == unix.ENOENT || err == unix.EPERM || err == unix.EINVAL {
		err = unix.Linkat(unix.AT_FDCWD, procPath(node), fd, name, unix.AT_SYMLINK_FOLLOW)
	}
	switch err {
	case unix.EXDEV, unix.EMLINK, unix.EPERM, unix.EOPNOTSUPP, unix.ENOSYS:
		return fmt.Errorf("%w: %w", errNoLink, err)
	}
	return err
}

func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

func pwrite(fd int, p []byte, off int64) (int, error) {
	if err := check(disk.OpWrite, ""); err != nil {
		n, _ := unix.Pwrite(fd, p[:len(p)/2], off)
		return n, err
	}
	done := 0
	for done < len(p) {
		n, err := unix.Pwrite(fd, p[done:], off+int64(done))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return done, err
		}
		if n == 0 {
			return done, unix.EIO
		}
		done += n
	}
	return done, nil
}

// pread reads until p is full or the file ends.
func pread(fd int, p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Pread(fd, p[done:], off+int64(done))
		if err == unix.EINTR {
			continue
		}
		if n <= 0 || err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// seekData finds the first data at or after off, or io.EOF. Where the file
// system can't tell, all is data.
func seekData(fd int, off int64) (int64, error) {
	at, err := unix.Seek(fd, off, unix.SEEK_DATA)
	switch err {
	case nil:
		return at, nil
	case unix.ENXIO:
		return 0, io.EOF
	case unix.EINVAL, unix.EOPNOTSUPP:
		return off, nil
	}
	return 0, err
}

func truncate(fd int, size int64) error {
	if err := check(disk.OpTruncate, ""); err != nil {
		return err
	}
	for {
		if err := unix.Ftruncate(fd, size); err != unix.EINTR {
			return err
		}
	}
}
