// Package backend is the interface to the place where a vault's sealed objects
// lie, with its contract. Drivers are in folders below; each, and each
// decorator, passes backendtest.Run.
//
// A backend is not trusted: what it returns is believed only after it was
// opened with the vault's keys. It learns names, sizes and times of objects.
package backend

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"
)

// Errors that callers branch on. Drivers wrap them; all others are I/O errors.
var (
	ErrNotFound = errors.New("object not found")
	ErrExists   = errors.New("object exists already")
	// ErrNotDurable is for an object that was created and may be gone again after
	// a power cut. That it is found there later, by Put even, proves nothing.
	ErrNotDurable = errors.New("object may not be durable")
)

// MaxNameBytes bounds an object's name.
const MaxNameBytes = 128

// Info is what a listing tells of an object.
type Info struct {
	Name string
	Size int64 // bytes
	// Modified is when the object was stored, by the backend's clock; the zero time
	// where a backend does not tell.
	Modified time.Time
}

// Backend stores immutable objects under names of [a-z0-9/] (see CheckName).
// All methods may be called concurrently, also by other processes and
// machines; all but Close return ctx's error soon after it is cancelled, as do
// the streams of Get. A name must not be a folder of another ("a" and "a/b"):
// not every store can hold both, and a Put of the second is then an error.
type Backend interface {
	// Put creates an object of size bytes from body and returns once it is
	// durable. It is create-only: where the name is taken it returns
	// ErrExists and changes nothing. It linearizes where the name appears; a
	// reader sees all of the object or nothing. body may be read several
	// times, and is not kept; one shorter than size is an error, and nothing
	// is made. After another error the object may exist or not; ErrNotDurable is
	// the one that must not be tried again.
	Put(ctx context.Context, name string, body io.ReaderAt, size int64) error
	// Get reads length bytes from offset off; a negative length reads to the
	// end. An object that ends before off+length gives a short stream, not an
	// error. It returns ErrNotFound where there is no such object.
	Get(ctx context.Context, name string, off, length int64) (io.ReadCloser, error)
	// List yields every object whose name starts with prefix, in any order.
	// After an error it stops. Objects put or deleted meanwhile may be missing.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]
	// Delete removes an object durably. It returns ErrNotFound where there is
	// none.
	Delete(ctx context.Context, name string) error
	// Close frees what the backend holds. Nothing may be called after it.
	Close() error
}
