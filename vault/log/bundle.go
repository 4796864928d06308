package log

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/key"
)

const (
	// BundleEntries is how many entries a bundle holds.
	BundleEntries = 256

	// bundleBuffer is how much of a bundle is read at once.
	bundleBuffer = 64 << 10
)

// scanBundle calls f for the objects in a bundle, in order; what it is given is
// only valid until it returns. Errors of the bundle's form wrap key.ErrDamaged
// or key.ErrNewer.
func scanBundle(r io.Reader, f func(i uint64, object []byte) error) error {
	br := bufio.NewReaderSize(r, bundleBuffer)
	var header [key.ShortHeaderBytes]byte
	if err := readFull(br, header[:]); err != nil {
		return err
	}
	if err := key.CheckShortHeader(header[:], key.TypeBundle); err != nil {
		return err
	}
	var object []byte
	for i := range uint64(BundleEntries) {
		var length [4]byte
		if err := readFull(br, length[:]); err != nil {
			return err
		}
		n := binary.LittleEndian.Uint32(length[:])
		if n > MaxObjectBytes {
			return fmt.Errorf("%w: entry of %d bytes", key.ErrDamaged, n)
		}
		object = slices.Grow(object[:0], int(n))[:n]
		if err := readFull(br, object); err != nil {
			return err
		}
		if err := f(i, object); err != nil {
			return err
		}
	}
	_, err := br.ReadByte()
	switch err {
	case io.EOF:
		return nil
	case nil:
		return fmt.Errorf("%w: trailing bytes", key.ErrDamaged)
	}
	return err
}

// readFull is io.ReadFull, for which an early end is damage and not an I/O error.
func readFull(r io.Reader, b []byte) error {
	_, err := io.ReadFull(r, b)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("%w: it is cut", key.ErrDamaged)
	}
	return err
}

// readBundle reads on with bundle n, in which l.next lies, as far as it goes. A
// bundle that is missing is no error, and a damaged one only costs time, since
// its entries are there one by one; it is logged.
func (l *Log) readBundle(ctx context.Context, n uint64) error {
	err := l.scan(ctx, n, func(seq uint64, object []byte) error {
		if seq < l.next {
			return nil
		}
		return l.acceptNew(object)
	})
	switch {
	case err == nil:
		l.bundled = max(l.bundled, n+1)
	case errors.Is(err, backend.ErrNotFound):
	case isDamage(err):
		l.opts.Logger.Warn("a bundle of the log is damaged; its entries are read one by one", "bundle", n, "err", err)
	default:
		return err
	}
	return nil
}

// errFound ends a scan early.
var errFound = errors.New("found")

// fromBundle gives the object of an entry from its bundle, nil where that is
// missing or damaged.
func (l *Log) fromBundle(ctx context.Context, seq uint64) (object []byte, err error) {
	err = l.scan(ctx, seq/BundleEntries, func(at uint64, o []byte) error {
		if at != seq {
			return nil
		}
		object = slices.Clone(o)
		return errFound
	})
	if err == nil || errors.Is(err, errFound) || errors.Is(err, backend.ErrNotFound) || isDamage(err) {
		return object, nil
	}
	return nil, err
}

func (l *Log) scan(ctx context.Context, n uint64, f func(seq uint64, object []byte) error) error {
	r, err := l.backend.Get(ctx, bundleName(n), 0, -1)
	if err != nil {
		return fmt.Errorf("read %s: %w", bundleName(n), err)
	}
	defer r.Close()
	err = scanBundle(r, func(i uint64, object []byte) error { return f(n*BundleEntries+i, object) })
	if err != nil {
		return fmt.Errorf("read %s: %w", bundleName(n), err)
	}
	return nil
}
