package main

import "path/filepath"

// kopia doesn't compress by default: it is told to, since all others do.
func kopia() *tool {
	call := func(p place, args ...string) command {
		return command{
			argv: append([]string{"kopia", "--no-progress"}, args...),
			env: []string{
				"KOPIA_PASSWORD=" + benchSecret, "KOPIA_CHECK_FOR_UPDATES=false",
				"KOPIA_CONFIG_PATH=" + filepath.Join(p.home, "kopia.config"),
				"KOPIA_CACHE_DIRECTORY=" + filepath.Join(p.home, "kopia-cache"),
				"KOPIA_LOG_DIR=" + filepath.Join(p.home, "kopia-logs"),
			},
		}
	}
	return &tool{
		name:    "kopia",
		version: versionOf("kopia", "--version"),
		prepare: func(p place) ([]command, error) {
			return []command{
				call(p, "repository", "create", "filesystem", "--path", p.vault),
				call(p, "policy", "set", "--global", "--compression", "zstd-fastest"),
			}, nil
		},
		command: func(s step, p place) (command, bool) {
			switch {
			case s.restores():
				return call(p, "restore", p.src, p.dst), true
			case s == stepVerify:
				return call(p, "snapshot", "verify", "--verify-files-percent=100"), true
			}
			return call(p, "snapshot", "create", p.src), true
		},
		restored: func(p place) string { return p.dst },
		note:     "compression zstd-fastest; keeps neither hard links nor extended attributes",
	}
}
