//go:build !unix

package chunk

import "time"

var started = time.Now()

func cpuTime() time.Duration { return time.Since(started) }
