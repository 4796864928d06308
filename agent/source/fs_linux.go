package source

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// fileSystem is what the walk needs to know of one mounted file system.
type fileSystem struct {
	dev    uint64
	id     string // see Tree.FSID
	pseudo string // the kind of a pseudo file system, "" for a real one
	stable bool   // inode numbers can be relied on
	seed   uint64 // of link keys: two mounts never share one
}

// pseudo are the file systems that show the kernel's state, by magic.
var pseudo = map[uint32]string{
	unix.PROC_SUPER_MAGIC:      "proc",
	unix.SYSFS_MAGIC:           "sysfs",
	unix.DEVPTS_SUPER_MAGIC:    "devpts",
	unix.CGROUP_SUPER_MAGIC:    "cgroup",
	unix.CGROUP2_SUPER_MAGIC:   "cgroup2",
	unix.DEBUGFS_MAGIC:         "debugfs",
	unix.TRACEFS_MAGIC:         "tracefs",
	unix.SECURITYFS_MAGIC:      "securityfs",
	unix.PSTOREFS_MAGIC:        "pstore",
	unix.BPF_FS_MAGIC:          "bpf",
	0x19800202:                 "mqueue",
	unix.HUGETLBFS_MAGIC:       "hugetlbfs",
	unix.AUTOFS_SUPER_MAGIC:    "autofs",
	0x65735543:                 "fusectl",
	0x62656570:                 "configfs",
	unix.BINFMTFS_MAGIC:        "binfmt_misc",
	unix.EFIVARFS_MAGIC:        "efivarfs",
	0x67596969:                 "rpc_pipefs",
	0x6e667364:                 "nfsd",
	unix.NSFS_MAGIC:            "nsfs",
	unix.SELINUX_MAGIC:         "selinuxfs",
	unix.SMACK_MAGIC:           "smackfs",
	unix.AAFS_MAGIC:            "apparmorfs",
	unix.RDTGROUP_SUPER_MAGIC:  "resctrl",
	unix.OPENPROM_SUPER_MAGIC:  "openpromfs",
	unix.USBDEVICE_SUPER_MAGIC: "usbfs",
	unix.XENFS_SUPER_MAGIC:     "xenfs",
	unix.BINDERFS_SUPER_MAGIC:  "binder",
	unix.PIPEFS_MAGIC:          "pipefs",
	unix.SOCKFS_MAGIC:          "sockfs",
	unix.ANON_INODE_FS_MAGIC:   "anon_inodefs",
	unix.PID_FS_MAGIC:          "pidfs",
	unix.DEVMEM_MAGIC:          "devmem",
	unix.DMA_BUF_MAGIC:         "dmabuf",
	unix.SECRETMEM_MAGIC:       "secretmem",
	unix.GUEST_MEMFD_MAGIC:     "guest_memfd",
	0xa647361:                  "functionfs",
	0x76a9f425:                 "dlmfs",
}

// stable are the file systems whose inode numbers stay with a file for as long
// as it lives. Others make them up (FAT, FUSE, overlay) or pass on what a server
// says; for one that isn't known here, ctime and mtime have to do.
var stable = map[uint32]bool{
	unix.EXT4_SUPER_MAGIC:     true, // ext2 and ext3 too
	unix.XFS_SUPER_MAGIC:      true,
	unix.BTRFS_SUPER_MAGIC:    true,
	unix.BCACHEFS_SUPER_MAGIC: true,
	unix.F2FS_SUPER_MAGIC:     true,
	0x2fc12fc1:                true, // ZFS
	unix.TMPFS_MAGIC:          true,
	unix.RAMFS_MAGIC:          true,
	unix.NILFS_SUPER_MAGIC:    true,
	unix.REISERFS_SUPER_MAGIC: true,
	0x3153464a:                true, // JFS
	unix.OCFS2_SUPER_MAGIC:    true,
	0x01161970:                true, // GFS2
	0x7366746e:                true, // ntfs3
	0x482b:                    true, // HFS+
	unix.SQUASHFS_MAGIC:       true,
	0xe0f5e1e2:                true, // EROFS
}

// probe tells what name in dirfd is and which file system it is on, without
// following a symlink or triggering an automount. space is what link keys are
// to depend on besides the file system.
func probe(dirfd int, name string, space []byte) (unix.Stat_t, *fileSystem, error) {
	var st unix.Stat_t
	// With O_DIRECTORY even O_PATH would trigger an automount.
	fd, err := openat(dirfd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC)
	if err != nil {
		return st, nil, err
	}
	defer unix.Close(fd)
	if err := unix.Fstat(fd, &st); err != nil {
		return st, nil, err
	}
	var sfs unix.Statfs_t
	if err := unix.Fstatfs(fd, &sfs); err != nil {
		return st, nil, fmt.Errorf("statfs: %w", err)
	}
	id, err := identify(fd, &st, &sfs, space)
	return st, id, err
}

// identify makes a fileSystem of an open descriptor's stat and statfs. Where what
// tells it apart cannot be read now, it returns an error: another identity would look
// like another disk.
func identify(fd int, st *unix.Stat_t, sfs *unix.Statfs_t, space []byte) (*fileSystem, error) {
	magic := uint32(sfs.Type)
	fs := &fileSystem{dev: st.Dev, pseudo: pseudo[magic], stable: stable[magic]}
	fsid := uint64(uint32(sfs.Fsid.Val[0])) | uint64(uint32(sfs.Fsid.Val[1]))<<32
	memory := magic == unix.TMPFS_MAGIC || magic == unix.RAMFS_MAGIC
	switch {
	case memory || fsid == 0 || fsid == kernelDev(st.Dev):
		// It has no number of its own (network, FUSE), draws one at each mount
		// (tmpfs), or passes off its device's, which may change with the next
		// boot (XFS, F2FS, FAT).
		m, err := mountOf(fd, st.Dev)
		if err != nil {
			return nil, err
		}
		if memory && m.kind == "devtmpfs" {
			fs.pseudo = m.kind
		}
		u, err := uuidOf(st.Dev)
		if err != nil {
			return nil, err
		}
		if u != "" && !memory {
			fs.id = fmt.Sprintf("%x:uuid:%s", magic, u)
		} else {
			fs.id = fmt.Sprintf("%x:mount:%s", magic, m.label())
		}
	default:
		fs.id = fmt.Sprintf("%x:%016x", magic, fsid)
	}
	h := sha256.New()
	h.Write([]byte(fs.id))
	h.Write([]byte{0})
	h.Write(space)
	fs.seed = binary.BigEndian.Uint64(h.Sum(nil))
	return fs, nil
}

// kernelDev encodes a device number as statfs does on file systems that pass it
// off as their identity.
func kernelDev(dev uint64) uint64 {
	major, minor := uint64(unix.Major(dev)), uint64(unix.Minor(dev))
	return minor&0xff | major<<8 | (minor&^0xff)<<12
}

// mount is a line of mountinfo.
type mount struct {
	kind   string // "ext4"
	source string // "/dev/sda1", "server:/export", "tmpfs"
	point  string
}

// maxLabel bounds a label, since it becomes part of a file system's identity.
const maxLabel = 128

// label names the mount's source, with the mount point where the source is no
// more than a word.
func (m mount) label() string {
	s := m.source
	if !strings.ContainsAny(s, "/:") {
		s += "@" + m.point
	}
	odd := func(r rune) bool { return r <= ' ' || r > '~' }
	if len(s) > maxLabel || strings.ContainsFunc(s, odd) {
		sum := sha256.Sum256([]byte(s))
		return hex.EncodeToString(sum[:16])
	}
	return s
}

// readIfThere reads a file; one that does not exist is empty.
func readIfThere(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil, nil
	}
	return text, err
}

// mountOf finds the mount that fd is on; the zero mount where /proc is missing.
func mountOf(fd int, dev uint64) (mount, error) {
	text, err := readIfThere("/proc/self/mountinfo")
	if err != nil {
		return mount{}, err
	}
	field, want := 2, fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev))
	var x unix.Statx_t
	if unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_NO_AUTOMOUNT, unix.STATX_MNT_ID, &x) == nil &&
		x.Mask&unix.STATX_MNT_ID != 0 {
		field, want = 0, fmt.Sprint(x.Mnt_id)
	}
	var found mount
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 10 || f[field] != want {
			continue
		}
		// After six fields and any number of optional ones comes a dash.
		for i := 6; i+2 < len(f); i++ {
			if f[i] == "-" {
				found = mount{kind: f[i+1], source: unescapeMount(f[i+2]), point: unescapeMount(f[4])}
				break
			}
		}
	}
	return found, nil
}

var mountEscapes = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`, `\043`, "#")

func unescapeMount(s string) string { return mountEscapes.Replace(s) }

// uuidOf finds the UUID of the file system on a block device, as udev knows it.
func uuidOf(dev uint64) (string, error) {
	const links = "/dev/disk/by-uuid"
	if unix.Major(dev) == 0 {
		return "", nil // no device
	}
	entries, err := os.ReadDir(links)
	if err != nil && !errors.Is(err, iofs.ErrNotExist) {
		return "", err
	}
	for _, e := range entries {
		var st unix.Stat_t
		if unix.Stat(filepath.Join(links, e.Name()), &st) == nil &&
			st.Mode&unix.S_IFMT == unix.S_IFBLK && st.Rdev == dev {
			return strings.ToLower(e.Name()), nil
		}
	}
	text, err := readIfThere(fmt.Sprintf("/run/udev/data/b%d:%d", unix.Major(dev), unix.Minor(dev)))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if u, ok := strings.CutPrefix(strings.TrimSpace(line), "E:ID_FS_UUID="); ok {
			return strings.ToLower(u), nil
		}
	}
	return "", nil
}

// mix is a bijection that scrambles (the finalizer of SplitMix64).
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// linkKey is the key of a file with several names, never 0. On one file system
// different inodes have different keys. Where inode numbers can't be relied on,
// the file's size and times count too: better a link lost than two files
// taken for one.
func (fs *fileSystem) linkKey(st *unix.Stat_t) uint64 {
	key := mix(fs.seed ^ mix(st.Ino))
	if !fs.stable {
		for _, v := range [...]int64{st.Size, int64(st.Mtim.Sec), int64(st.Mtim.Nsec), int64(st.Ctim.Sec), int64(st.Ctim.Nsec)} {
			key = mix(key ^ mix(uint64(v)))
		}
	}
	return max(key, 1)
}
