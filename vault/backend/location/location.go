// Package location reads the URL of a vault and opens the backend there.
//
//	/srv/vault  vault  C:\vault     a folder; a relative path begins at the working one
//	file:///srv/vault               a folder; %XX stands for a byte
//
// In a URL the scheme comes first and is followed by ://, so that everything
// else is a path: ./s3://x is the folder x in the folder s3: of this one. A
// Location holds no secret, and is safe to print. Nothing is expanded (no ~, no
// variables: the shell's business), and no symbolic link is resolved.
package location

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/backend/local"
)

// SchemeFile is the scheme of a folder.
const SchemeFile = "file"

// maxBytes bounds a URL: the longest path that systems take (Linux 4096, where
// %XX triples it; Windows 32767), with room to spare.
const maxBytes = 64 << 10

// supported names the forms for a person who used another.
const supported = "a folder's path or file:///path"

// Location is where a vault lies. Two are the same place if they are equal; the
// same place may have several, by symbolic links.
type Location struct {
	Scheme string // SchemeFile
	Path   string // of a folder: absolute and clean, with the system's separators
}

// String is the canonical form, which Parse gives l back for: of a folder its
// absolute path.
func (l Location) String() string {
	if l.Scheme == SchemeFile {
		return l.Path
	}
	return l.Scheme + "://" + l.Path
}

// Parse reads the URL or path s.
func Parse(s string) (Location, error) {
	switch {
	case s == "":
		return Location{}, errors.New("vault URL is empty")
	case len(s) > maxBytes:
		return Location{}, fmt.Errorf("vault URL has %d bytes, at most %d are allowed", len(s), maxBytes)
	case strings.IndexByte(s, 0) >= 0:
		return Location{}, errors.New("vault URL has a NUL byte")
	}
	path := s
	switch scheme, rest, ok := cutScheme(s); {
	case ok && scheme == SchemeFile:
		var err error
		if path, err = filePath(rest, runtime.GOOS == "windows"); err != nil {
			return Location{}, fmt.Errorf("vault URL %q: %w", s, err)
		}
	case ok:
		// Not the URL itself: it may hold a password.
		return Location{}, fmt.Errorf("vault URL: scheme %q is not supported, give %s", scheme, supported)
	case len(s) >= 5 && strings.EqualFold(s[:5], "file:"):
		return Location{}, fmt.Errorf("vault URL %q: write file:///path (or ./%s for a folder of this name)", s, s)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return Location{}, fmt.Errorf("vault path %q: %w", path, err)
	}
	return Location{Scheme: SchemeFile, Path: abs}, nil
}

// cutScheme cuts "scheme://" off. A scheme has at least two letters, so that
// the drive of a Windows path is none; it is case-insensitive.
func cutScheme(s string) (scheme, rest string, ok bool) {
	scheme, rest, ok = strings.Cut(s, "://")
	if !ok || len(scheme) < 2 {
		return "", "", false
	}
	scheme = strings.ToLower(scheme)
	for i, c := range []byte(scheme) {
		letter := 'a' <= c && c <= 'z'
		if !letter && (i == 0 || !strings.ContainsRune("0123456789+-.", rune(c))) {
			return "", "", false
		}
	}
	return scheme, rest, true
}

// filePath is the path in a file URL, after file://. On Windows /C:/x is C:\x,
// and host/share/x is \\host\share\x.
func filePath(rest string, windows bool) (string, error) {
	if i := strings.IndexAny(rest, "?#"); i >= 0 {
		return "", fmt.Errorf("%q has to be written as %%%02X in a URL", rest[i:i+1], rest[i])
	}
	host, path, _ := strings.Cut(rest, "/")
	path, err := url.PathUnescape("/" + path)
	if err != nil {
		return "", err
	}
	if strings.IndexByte(path, 0) >= 0 {
		return "", errors.New("a NUL byte")
	}
	switch here := host == "" || strings.EqualFold(host, "localhost"); {
	case here && path == "/" && !strings.Contains(rest, "/"):
		return "", errors.New("no path, write file:///path")
	case windows && here && len(path) >= 3 && path[2] == ':':
		path = path[1:]
		if len(path) == 2 {
			path += "/" // C: alone is the drive's working folder
		}
	case windows && !here:
		path = "//" + host + path
	case !here:
		return "", fmt.Errorf("host %q: a folder on another machine has to be mounted; write file:///path", host)
	}
	if windows {
		path = strings.ReplaceAll(path, "/", `\`)
	}
	return path, nil
}

// Opener opens backends. Its zero value works.
type Opener struct {
	Log *slog.Logger // handed to the backends; nil: nobody
}

// Open opens the backend at l. Where there is nothing it returns a
// backend.ErrNotFound, and makes nothing.
func (o Opener) Open(ctx context.Context, l Location) (backend.Backend, error) {
	return o.open(ctx, l, local.Open)
}

// Create makes the place for a vault at l, if it is not there already, and
// opens it. Whether there is a vault in it is for the caller to see.
func (o Opener) Create(ctx context.Context, l Location) (backend.Backend, error) {
	return o.open(ctx, l, local.Create)
}

func (o Opener) open(ctx context.Context, l Location, folder func(string, local.Options) (*local.Backend, error)) (backend.Backend, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open %s: %w", l, err)
	}
	if l.Scheme != SchemeFile {
		return nil, fmt.Errorf("open vault: scheme %q is not supported, give %s", l.Scheme, supported)
	}
	b, err := folder(l.Path, local.Options{Log: o.Log})
	if err != nil {
		return nil, err
	}
	return b, nil
}

// Open is Opener.Open without a log.
func Open(ctx context.Context, l Location) (backend.Backend, error) { return Opener{}.Open(ctx, l) }

// Create is Opener.Create without a log.
func Create(ctx context.Context, l Location) (backend.Backend, error) { return Opener{}.Create(ctx, l) }
