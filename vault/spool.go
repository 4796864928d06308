package vault

import (
	"fmt"
	"runtime"

	"github.com/tharsis-backup/tharsis/internal/disk"
)

// spoolFile makes a file that is gone when it is closed or the process dies.
// Where the system keeps open files' names, a swept folder removes it.
func spoolFile(dir string) (*disk.File, error) {
	f, err := disk.CreateTemp(dir, "spool-", "")
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	if runtime.GOOS != "windows" {
		disk.Remove(f.Name())
	}
	return f, nil
}
