//go:build unix

package home

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// checkPrivate refuses a file or folder on which others have forbidden rights, or
// that is another user's: root's is as good as one's own, since root has all
// rights anyway.
func checkPrivate(path string, info fs.FileInfo, forbidden fs.FileMode) error {
	mode := info.Mode().Perm()
	if mode&forbidden != 0 {
		what := "can be read by others"
		if mode&othersWrite != 0 {
			what = "can be changed by others"
		}
		return &ExposedError{path, info.IsDir(), fmt.Sprintf("%s (mode %04o)", what, mode), fmt.Sprintf("chmod %o %s", mode&^forbidden, path)}
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	if own := uint32(os.Geteuid()); st.Uid != own && st.Uid != 0 {
		return &ExposedError{path, info.IsDir(), fmt.Sprintf("belongs to another user (%d)", st.Uid), fmt.Sprintf("chown %d %s", own, path)}
	}
	return nil
}
