package log

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"sort"
	"sync"

	"github.com/tharsis-backup/tharsis/vault/key"
)

// bundleMemory is how much of a bundle is held while it is written. The entries
// above it are fetched again: 256 of them could be 256 MiB.
const bundleMemory = 16 << 20

// ensureBundle makes sure that the last bundle that the log fills exists, before
// entry l.next, the first of another one, is created.
func (l *Log) ensureBundle(ctx context.Context) error {
	n := l.next/BundleEntries - 1
	if l.next%BundleEntries != 0 || l.next == 0 || n < l.bundled {
		return nil
	}
	name := bundleName(n)
	found, err := l.exists(ctx, name)
	if err == nil && !found {
		var b *bundle
		if b, err = l.collect(ctx, n, bundleMemory); err == nil {
			// Whoever made it: all make the same bytes.
			_, err = l.create(ctx, name, b, b.size, func(ctx context.Context) (bool, bool, error) {
				found, err := l.exists(ctx, name)
				return found, found, err
			})
		}
	}
	if err != nil {
		return err
	}
	l.bundled = n + 1
	return nil
}

// collect fetches the entries of bundle n, the last of which is the newest entry
// read: so the chain tells whether they are the right ones. It holds memory
// bytes of them.
func (l *Log) collect(ctx context.Context, n uint64, memory int) (*bundle, error) {
	b := &bundle{log: l, ctx: ctx, first: n * BundleEntries, memory: memory, size: key.ShortHeaderBytes}
	for from := b.first; from < l.next; from += maxWindow {
		objects, err := l.fetch(ctx, from, maxWindow)
		if err != nil {
			return nil, err
		}
		for i, object := range objects {
			if object == nil {
				return nil, fmt.Errorf("log entry %d: %w: it is missing, although later ones exist", from+uint64(i), key.ErrDamaged)
			}
			if err := b.add(object); err != nil {
				return nil, err
			}
		}
	}
	if b.parts[BundleEntries-1].hash != l.prev {
		return nil, fmt.Errorf("log entry %d: %w: it changed", l.next-1, key.ErrDamaged)
	}
	return b, nil
}

// bundle is the content of a bundle, as an io.ReaderAt. Of the entries that it
// does not hold it fetches the one that is read.
type bundle struct {
	log    *Log
	ctx    context.Context // of the Put that reads it
	first  uint64
	size   int64
	held   int // bytes, at most memory
	memory int
	parts  []part

	mu      sync.Mutex // guards fetched
	fetched struct {
		part   int
		object []byte
	}
}

type part struct {
	at     int64 // of its length field in the bundle
	hash   [32]byte
	length uint32
	object []byte // nil: to be fetched
}

// add appends the next entry.
func (b *bundle) add(object []byte) error {
	seq := b.first + uint64(len(b.parts))
	e, plain, err := openEntry(b.log.ring, seq, object, b.log.plain, true)
	b.log.plain = plain
	if err != nil {
		return fmt.Errorf("log entry %d: %w", seq, err)
	}
	if i := len(b.parts); i > 0 && e.Prev != b.parts[i-1].hash {
		return fmt.Errorf("log entry %d: %w: it does not continue the entry before", seq, key.ErrDamaged)
	}
	p := part{at: b.size, hash: sha256.Sum256(object), length: uint32(len(object))}
	if b.held+len(object) <= b.memory {
		b.held += len(object)
		p.object = object
	}
	b.parts = append(b.parts, p)
	b.size += 4 + int64(len(object))
	return nil
}

// ReadAt implements io.ReaderAt.
func (b *bundle) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 || off > b.size {
		return 0, fmt.Errorf("read bundle at %d: out of range", off)
	}
	if off < key.ShortHeaderBytes {
		n = copy(p, key.AppendShortHeader(nil, key.TypeBundle)[off:])
	}
	for n < len(p) {
		at := off + int64(n)
		if at == b.size {
			return n, io.EOF
		}
		i := sort.Search(len(b.parts), func(i int) bool { return b.parts[i].at > at }) - 1
		in := at - b.parts[i].at
		if in < 4 {
			length := binary.LittleEndian.AppendUint32(nil, b.parts[i].length)
			n += copy(p[n:], length[in:])
			continue
		}
		object, err := b.object(i)
		if err != nil {
			return n, err
		}
		n += copy(p[n:], object[in-4:])
	}
	return n, nil
}

// object gives the object of part i, fetched again where it is not held.
func (b *bundle) object(i int) ([]byte, error) {
	if held := b.parts[i].object; held != nil {
		return held, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fetched.object != nil && b.fetched.part == i {
		return b.fetched.object, nil
	}
	seq := b.first + uint64(i)
	object, err := b.log.get(b.ctx, entryName(seq))
	if err != nil {
		return nil, err
	}
	if sha256.Sum256(object) != b.parts[i].hash {
		return nil, fmt.Errorf("log entry %d: %w: it changed", seq, key.ErrDamaged)
	}
	b.fetched.part, b.fetched.object = i, object
	return object, nil
}
