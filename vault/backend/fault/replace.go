package fault

import (
	"context"
	"errors"
	"io"

	"github.com/tharsis-backup/tharsis/vault/backend"
)

// Replacing decorates a backend so that Put is not create-only: it replaces what
// is there, as stores without conditional writes do. It breaks the contract of
// backend.Backend in just that.
func Replacing(inner backend.Backend) backend.Backend { return replacing{inner} }

type replacing struct{ backend.Backend }

// Put stores an object, in place of any other.
func (r replacing) Put(ctx context.Context, name string, body io.ReaderAt, size int64) error {
	for {
		err := r.Backend.Put(ctx, name, body, size)
		if !errors.Is(err, backend.ErrExists) {
			return err
		}
		if err := r.Delete(ctx, name); err != nil && !errors.Is(err, backend.ErrNotFound) {
			return err
		}
	}
}
