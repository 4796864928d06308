package vault

import (
	"fmt"
	"os"
	"runtime"
)

// spoolFile makes a file that is gone when it is closed or the process dies.
// Where the system keeps open files' names, a swept folder removes it.
func spoolFile(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "spool-*")
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	if runtime.GOOS != "windows" {
		os.Remove(f.Name())
	}
	return f, nil
}
