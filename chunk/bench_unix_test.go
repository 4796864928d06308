//go:build unix

package chunk

import (
	"syscall"
	"time"
)

// cpuTime is what the process has used. On a machine that has other work, it says
// more than the time on the wall.
func cpuTime() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
