package index

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// Source is where the bytes of a run lie: the vault or a local copy. ReadAt fills
// p from off, or returns an error, which wraps key.ErrDamaged where the object
// ends before. It may be called concurrently.
type Source interface {
	ReadAt(ctx context.Context, p []byte, off int64) error
}

// FileSource reads from a local copy. It looks at ctx before each read only.
func FileSource(r io.ReaderAt) Source { return fileSource{r} }

type fileSource struct{ r io.ReaderAt }

func (s fileSource) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	n, err := s.r.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case errors.Is(err, io.EOF):
		return damaged("it ends at byte %d", off+int64(n))
	}
	return fmt.Errorf("read %d bytes at %d: %w", len(p), off, err)
}

// ObjectSource reads from an object of a vault by ranges.
func ObjectSource(b backend.Backend, name string) Source { return objectSource{b, name} }

type objectSource struct {
	b    backend.Backend
	name string
}

func (s objectSource) ReadAt(ctx context.Context, p []byte, off int64) error {
	return pack.ReadRange(ctx, s.b, s.name, off, p)
}
