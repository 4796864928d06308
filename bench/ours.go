package main

import (
	"os"
	"path/filepath"
)

// ours is the agent, with a vault in a folder and the key kept in its home, as
// after a plain init.
func ours(agent string) *tool {
	call := func(p place, args ...string) command {
		return command{argv: append([]string{agent, "--home", p.home}, args...)}
	}
	return &tool{
		name:    "tharsis",
		ours:    true,
		version: versionOf(agent, "version"),
		prepare: func(p place) ([]command, error) {
			passphrase := filepath.Join(p.tmp, "passphrase")
			if err := os.WriteFile(passphrase, []byte(benchSecret+"\n"), 0o600); err != nil {
				return nil, err
			}
			return []command{call(p, "init", "--vault", p.vault, "--passphrase-file", passphrase,
				"--recovery-key-file", filepath.Join(p.tmp, "recovery-key"))}, nil
		},
		command: func(s step, p place) (command, bool) {
			switch {
			case s.restores():
				return call(p, "restore", "--point", "latest", "--target", p.dst, "--quiet"), true
			case s == stepVerify:
				return call(p, "verify", "--read-data", "--quiet"), true
			}
			return call(p, "backup-now", p.src, "--quiet"), true
		},
		restored: underFullPath,
	}
}
