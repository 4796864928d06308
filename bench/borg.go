package main

import "path/filepath"

// borg's defaults: one thread, lz4, and a files cache that goes by size, ctime
// and inode.
func borg() *tool {
	call := func(p place, args ...string) command {
		return command{
			argv: append([]string{"borg"}, args...),
			env: []string{
				"BORG_REPO=" + p.vault, "BORG_PASSPHRASE=" + benchSecret,
				"BORG_BASE_DIR=" + filepath.Join(p.home, "borg"),
			},
		}
	}
	return &tool{
		name:    "borg",
		version: versionOf("borg", "--version"),
		prepare: func(p place) ([]command, error) {
			return []command{call(p, "init", "--encryption", "repokey")}, nil
		},
		command: func(s step, p place) (command, bool) {
			switch {
			case s.restores():
				c := call(p, "extract", "--numeric-ids", "::"+string(p.last))
				c.dir = p.dst
				return c, true
			case s == stepVerify:
				return call(p, "check", "--verify-data"), true
			}
			return call(p, "create", "::"+string(s), p.src), true
		},
		restored: underFullPath,
		warned:   1,
		note:     "repokey (AES-CTR and HMAC-SHA-256), lz4, one thread; restores holes as zeros unless told --sparse",
	}
}
