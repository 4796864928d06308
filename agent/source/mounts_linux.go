package source

import (
	"encoding/binary"
	"sync"

	"golang.org/x/sys/unix"
)

// maxForeign bounds the file systems remembered by device.
const maxForeign = 1 << 12

// foreign are the file systems of things that are not folders and lie on
// another device than their folder: files that were mounted over, and most
// files of an overlay.
type foreign struct {
	mu    sync.Mutex
	byDev map[uint64]*fileSystem
}

func (f *foreign) get(dev uint64) *fileSystem {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.byDev[dev]
}

func (f *foreign) put(fs *fileSystem) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.byDev) >= maxForeign {
		clear(f.byDev)
	}
	f.byDev[fs.dev] = fs
}

// devSpace keeps the link keys of foreign files of different devices apart.
func devSpace(dev uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte("device "), dev)
}

// systemOf tells the file system of a file open as fd in a folder on fs.
func (t *Tree) systemOf(fs *fileSystem, fd int, st *unix.Stat_t) *fileSystem {
	if st.Dev == fs.dev {
		return fs
	}
	if fs := t.foreign.get(st.Dev); fs != nil {
		return fs
	}
	var sfs unix.Statfs_t
	if unix.Fstatfs(fd, &sfs) != nil {
		sfs = unix.Statfs_t{} // unknown: nothing about it can be relied on
	}
	fs, err := identify(fd, st, &sfs, devSpace(st.Dev))
	if err != nil { // as above, and looked at again the next time
		return &fileSystem{dev: st.Dev, seed: mix(st.Dev)}
	}
	t.foreign.put(fs)
	return fs
}

// systemAt is systemOf by name, for what may not be opened.
func (t *Tree) systemAt(fs *fileSystem, dirfd int, name string, st *unix.Stat_t) (*fileSystem, error) {
	if st.Dev == fs.dev {
		return fs, nil
	}
	if fs := t.foreign.get(st.Dev); fs != nil {
		return fs, nil
	}
	now, fs, err := probe(dirfd, name, devSpace(st.Dev))
	if err != nil {
		return nil, err
	}
	*st = now
	t.foreign.put(fs)
	return fs, nil
}

// isAutomount tells whether a folder would mount a file system if it were
// entered. File systems other than autofs that do this (NFS, CIFS, AFS) show it
// by an attribute only; local ones don't do it and needn't be asked.
func isAutomount(fs *fileSystem, dirfd int, name string) bool {
	if fs.stable {
		return false
	}
	var x unix.Statx_t
	err := unix.Statx(dirfd, name, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, unix.STATX_TYPE, &x)
	return err == nil && x.Attributes&unix.STATX_ATTR_AUTOMOUNT != 0
}
