package main

import (
	"context"
	"path/filepath"
)

// The limits are what the machine's plainest tools need for the same amount of
// work: no dedup, no index, no incremental state.

// limitWalk reads the metadata of all entries, as any run must.
func limitWalk() *tool {
	return limit("walk", versionOf("find", "--version"), func(s step, p place) (string, bool) {
		return `exec find "$1" -printf '%p %s %T@ %C@ %i %m %U %G\n' >/dev/null`, s == stepSame
	})
}

// limitStream reads, compresses and encrypts everything, into one file.
func limitStream() *tool {
	return limit("stream", bothVersions, func(s step, p place) (string, bool) {
		return `set -eo pipefail; mkdir -p "$2"; tar -C "$1" -cf - . | zstd -q -1 | openssl enc -aes-256-ctr -K "$4" -iv "$5" >"$2/stream"`, s == stepFirst
	})
}

// limitCopy reads and writes everything, with plain metadata.
func limitCopy() *tool {
	return limit("copy", versionOf("tar", "--version"), func(s step, p place) (string, bool) {
		return `set -eo pipefail; tar -C "$1" --format=posix --numeric-owner -cSf - . | tar -C "$3" --numeric-owner -xpf -`, s.restores()
	})
}

// limitPrefix begins the name of each limit.
const limitPrefix = "limit:"

func limit(name string, version func(context.Context) (string, error), script func(step, place) (string, bool)) *tool {
	// Any key does: nobody reads the stream again.
	const key, iv = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f", "00000000000000000000000000000000"
	return &tool{
		name:    limitPrefix + name,
		limit:   true,
		version: version,
		prepare: func(place) ([]command, error) { return nil, nil },
		command: func(s step, p place) (command, bool) {
			text, ok := script(s, p)
			return command{argv: []string{"bash", "-c", text, "bash", p.src, p.vault, p.dst, key, iv}}, ok
		},
		restored: func(p place) string { return filepath.Clean(p.dst) },
	}
}

func bothVersions(ctx context.Context) (string, error) {
	zstd, err := versionOf("zstd", "--version")(ctx)
	if err != nil {
		return "", err
	}
	openssl, err := versionOf("openssl", "version")(ctx)
	return zstd + ", " + openssl, err
}
