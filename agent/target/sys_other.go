//go:build !linux

package target

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// Nothing but Linux is supported yet. makeAll is the first thing that Open does,
// and refuses; the rest is never called, and says what it would have to do.

var (
	errIsDir    = errors.New("a folder is in its place")
	errNoLink   = errors.New("can't be linked there")
	errNoDevice = errors.New("making devices is not permitted")
	errNoAttr   = errors.New("no such attribute")
	errOS       = fmt.Errorf("restore on %s: %w", runtime.GOOS, errors.ErrUnsupported)
)

func whoAmI() identity { return identity{} }

func makeAll(string) (bool, error)              { return false, errOS }
func openTopDir(string) (int, stat, error)      { return -1, stat{}, errOS }
func openParent(int) (int, stat, error)         { return -1, stat{}, errOS }
func mkdirAt(int, string, uint32) error         { return errOS }
func rmdirAt(int, string) error                 { return errOS }
func unlinkAt(int, string) error                { return errOS }
func createAt(int, string, uint32) (int, error) { return -1, errOS }
func openReadAt(int, string) (int, error)       { return -1, errOS }
func openPathAt(int, string) (int, error)       { return -1, errOS }
func closeFd(int)                               {}
func closeWritten(int) error                    { return errOS }
func statAt(int, string) (stat, error)          { return stat{}, errOS }
func statFd(int) (stat, error)                  { return stat{}, errOS }
func makeAt(int, string, *manifest.Entry) error { return errOS }
func readlinkAt(int, string) (string, error)    { return "", errOS }
func renameNew(int, string, string) error       { return errOS }
func renameOver(int, string, string) error      { return errOS }
func linkFd(int, int, string) error             { return errOS }
func pwrite(int, []byte, int64) (int, error)    { return 0, errOS }
func pread(int, []byte, int64) (int, error)     { return 0, errOS }
func seekData(int, int64) (int64, error)        { return 0, errOS }
func truncate(int, int64) error                 { return errOS }
func isPath(int) bool                           { return false }
func chownFd(handle, uint32, uint32) error      { return errOS }
func chmodFd(handle, uint32) error              { return errOS }
func setTime(handle, manifest.Time) error       { return errOS }
func setXattr(handle, string, []byte) error     { return errOS }
func removeXattr(handle, string) error          { return errOS }
func hasXattr(handle, string) bool              { return false }
func getXattr(handle, string) ([]byte, error)   { return nil, errOS }
func listXattrs(handle) ([]string, error)       { return nil, errOS }
func refused(error) bool                        { return false }
func refusedAttr(error) bool                    { return false }

func (r *Root) openDir(int, string) (int, stat, bool, error) {
	return -1, stat{}, false, errOS
}
