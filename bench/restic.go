package main

import "path/filepath"

// restic compresses since its repository format 2, which Debian's version makes
// only on request.
func restic() *tool {
	call := func(p place, args ...string) command {
		return command{
			argv: append([]string{"restic", "--quiet"}, args...),
			env: []string{
				"RESTIC_REPOSITORY=" + p.vault, "RESTIC_PASSWORD=" + benchSecret,
				"RESTIC_CACHE_DIR=" + filepath.Join(p.home, "restic"),
			},
		}
	}
	return &tool{
		name:    "restic",
		version: versionOf("restic", "version"),
		prepare: func(p place) ([]command, error) {
			return []command{call(p, "init", "--repository-version", "2")}, nil
		},
		command: func(s step, p place) (command, bool) {
			switch {
			case s.restores():
				return call(p, "restore", "latest", "--target", p.dst), true
			case s == stepVerify:
				return call(p, "check", "--read-data"), true
			}
			return call(p, "backup", p.src), true
		},
		restored: underFullPath,
		note:     "repository version 2, compression auto; before 0.15 it has no option to restore holes as holes",
	}
}
