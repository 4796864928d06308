package manifest

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/tharsis-backup/tharsis/internal/wire"
	"github.com/tharsis-backup/tharsis/vault/key"
)

// Limits of an attribute set (docs/FORMAT.md §8.5).
const (
	maxXattrs         = 16384 // Linux lists at most 64 KiB of names, 9,362 of the shortest
	maxXattrName      = 255
	maxXattrValue     = 65536
	maxXattrsSetBytes = maxChunkBytes // a set is stored as one chunk
)

// ErrXattrs is wrapped by [AppendXattrs] where a set cannot be stored.
var ErrXattrs = errors.New("attributes cannot be stored")

// AppendXattrs appends the encoded set of xattrs, which it sorts in place by
// name. No attributes are no bytes. Sets of more than 16,384 attributes or 8 MiB,
// names and values beyond the limits of Linux and repeated names give ErrXattrs.
func AppendXattrs(dst []byte, xattrs []Xattr) ([]byte, error) {
	if len(xattrs) == 0 {
		return dst, nil
	}
	if len(xattrs) > maxXattrs {
		return nil, fmt.Errorf("%w: %d attributes", ErrXattrs, len(xattrs))
	}
	slices.SortFunc(xattrs, func(a, b Xattr) int { return cmp.Compare(a.Name, b.Name) })
	start := len(dst)
	dst = wire.AppendUvarint(dst, uint64(len(xattrs)))
	for i, x := range xattrs {
		switch {
		case len(x.Name) == 0 || len(x.Name) > maxXattrName:
			return nil, fmt.Errorf("%w: name of %d bytes", ErrXattrs, len(x.Name))
		case len(x.Value) > maxXattrValue:
			return nil, fmt.Errorf("%w: %q has %d bytes", ErrXattrs, x.Name, len(x.Value))
		case i > 0 && xattrs[i-1].Name == x.Name:
			return nil, fmt.Errorf("%w: %q twice", ErrXattrs, x.Name)
		}
		dst = wire.AppendBlob(dst, x.Name)
		dst = wire.AppendBlob(dst, x.Value)
		if len(dst)-start > maxXattrsSetBytes {
			return nil, fmt.Errorf("%w: more than %d bytes", ErrXattrs, maxXattrsSetBytes)
		}
	}
	return dst, nil
}

// DecodeXattrs appends the attributes of an encoded set to dst. The values alias
// set. No bytes are no attributes.
func DecodeXattrs(dst []Xattr, set []byte) ([]Xattr, error) {
	err := eachXattr(set, func(name, value []byte) {
		dst = append(dst, Xattr{Name: string(name), Value: value})
	})
	if err != nil {
		return nil, fmt.Errorf("%w: attribute set: %w", key.ErrDamaged, err)
	}
	return dst, nil
}

func eachXattr(set []byte, fn func(name, value []byte)) error {
	if len(set) == 0 {
		return nil
	}
	if len(set) > maxXattrsSetBytes {
		return fmt.Errorf("%w: %d bytes", wire.ErrMalformed, len(set))
	}
	var d wire.Decoder
	d.Reset(set)
	n := d.Count(maxXattrs, 3)
	if n == 0 {
		d.Fail("no attributes")
	}
	var last []byte
	for range n {
		name := d.Blob(maxXattrName)
		if len(name) == 0 || string(name) <= string(last) {
			d.Fail("attribute names out of order")
		}
		value := d.Blob(maxXattrValue)
		if d.Err() != nil {
			break
		}
		last = name
		fn(name, value)
	}
	return d.Done()
}
