package backend

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
)

// PutBytes creates the object name with data as its content; see Backend.Put.
func PutBytes(ctx context.Context, b Backend, name string, data []byte) error {
	return b.Put(ctx, name, bytes.NewReader(data), int64(len(data)))
}

// ReadAll reads the whole object name. It is an error if that has more than
// limit bytes; then no more than limit+1 are read. What is allocated follows
// what was received, not limit.
func ReadAll(ctx context.Context, b Backend, name string, limit int64) ([]byte, error) {
	if limit < 0 || limit == math.MaxInt64 {
		return nil, fmt.Errorf("read object %s: limit %d out of range", name, limit)
	}
	r, err := b.Get(ctx, name, 0, limit+1)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read object %s: %w", name, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("read object %s: more than %d bytes", name, limit)
	}
	return data, nil
}

// ReadAt fills p from offset off of the object name. An object that ends before
// is an io.ErrUnexpectedEOF, and p's content is then undefined.
func ReadAt(ctx context.Context, b Backend, name string, off int64, p []byte) error {
	r, err := b.Get(ctx, name, off, int64(len(p)))
	if err != nil {
		return err
	}
	defer r.Close()
	if _, err := io.ReadFull(r, p); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read %d bytes at %d of object %s: %w", len(p), off, name, err)
	}
	return nil
}
