package home

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
)

// DefaultDir is where the home is when nobody says otherwise: for the system's
// administrator the place of the system's services, for others one in the
// user's own folder.
func DefaultDir() (string, error) {
	switch runtime.GOOS {
	case "windows":
		if d := os.Getenv("ProgramData"); d != "" {
			return filepath.Join(d, "Tharsis"), nil
		}
	case "darwin":
		if os.Geteuid() == 0 {
			return "/Library/Application Support/Tharsis", nil
		}
		if d, err := os.UserHomeDir(); err == nil {
			return filepath.Join(d, "Library", "Application Support", "Tharsis"), nil
		}
	default:
		if os.Geteuid() == 0 {
			return "/var/lib/tharsis", nil
		}
		if d := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(d) {
			return filepath.Join(d, "tharsis"), nil
		}
		if d, err := os.UserHomeDir(); err == nil {
			return filepath.Join(d, ".local", "state", "tharsis"), nil
		}
	}
	return "", errors.New("find home: no folder of the user is known; give --home")
}
