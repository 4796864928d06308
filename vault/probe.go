package vault

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/tharsis-backup/tharsis/vault/backend"
)

// probePrefix begins the names of objects that nothing refers to.
const probePrefix = "probe/"

// probe puts an object of some bytes under a fresh name, which nothing refers to, and
// returns the name and what removes it again, where that is allowed.
func probe(ctx context.Context, b backend.Backend, random io.Reader, data []byte) (name string, remove func(), err error) {
	var r [16]byte
	if _, err := io.ReadFull(random, r[:]); err != nil {
		return "", nil, err
	}
	name = probePrefix + hex.EncodeToString(r[:])
	if err := backend.PutBytes(ctx, b, name, data); err != nil {
		return "", nil, err
	}
	return name, func() { b.Delete(context.WithoutCancel(ctx), name) }, nil
}

// Probe tells whether the backend's Put is create-only, by two Puts under a
// fresh name. It leaves nothing where it may delete.
func Probe(ctx context.Context, b backend.Backend, random io.Reader) error {
	first, second := []byte("first"), []byte("other")
	name, remove, err := probe(ctx, b, random, first)
	if err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	defer remove()
	err = backend.PutBytes(ctx, b, name, second)
	got, rerr := backend.ReadAll(ctx, b, name, int64(len(first)))
	switch {
	case rerr != nil:
		return fmt.Errorf("probe: %w", rerr)
	case errors.Is(err, backend.ErrExists) && bytes.Equal(got, first):
		return nil
	case err != nil && !errors.Is(err, backend.ErrExists):
		return fmt.Errorf("probe: %w", err)
	}
	return ErrNotCreateOnly
}

// StoreTime is the time by the backend's clock, of an object that it just stored; zero
// where it does not tell. It leaves nothing where it may delete.
func StoreTime(ctx context.Context, b backend.Backend, random io.Reader) (t time.Time, err error) {
	name, remove, err := probe(ctx, b, random, nil)
	if err != nil {
		return t, fmt.Errorf("ask the store for its time: %w", err)
	}
	defer remove()
	for info, err := range b.List(ctx, name) {
		if err != nil {
			return t, fmt.Errorf("ask the store for its time: %w", err)
		}
		t = info.Modified
	}
	return t, nil
}

// OldProbes lists what probes left that died, or might not delete: those that were
// stored before a time. A backend that does not tell when has none.
func OldProbes(ctx context.Context, b backend.Backend, before time.Time) (old []backend.Info, err error) {
	for info, err := range b.List(ctx, probePrefix) {
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", probePrefix, err)
		}
		if strings.HasPrefix(info.Name, probePrefix) && !info.Modified.IsZero() && info.Modified.Before(before) {
			old = append(old, info)
		}
	}
	return old, nil
}
