package mem

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
)

// Names lists all objects, sorted.
func (b *Backend) Names() []string {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return slices.Sorted(maps.Keys(b.objects))
}

// Data is the content of an object, which must not be changed, and whether
// there is such an object.
func (b *Backend) Data(name string) ([]byte, bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	data, ok := b.objects[name]
	return data, ok
}

// Set makes data the content of the object name, whether or not there is one.
// The name is not checked.
func (b *Backend) Set(name string, data []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.objects[name] = bytes.Clone(data)
}

// Remove takes an object away and tells whether there was one.
func (b *Backend) Remove(name string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, ok := b.objects[name]
	delete(b.objects, name)
	return ok
}

// Corrupt flips the bits of mask in the byte at off of an object. It panics if
// there is no such byte: the test is wrong.
func (b *Backend) Corrupt(name string, off int64, mask byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	data, ok := b.objects[name]
	if !ok || off < 0 || off >= int64(len(data)) {
		panic(fmt.Sprintf("no byte %d in object %q", off, name))
	}
	data = bytes.Clone(data)
	data[off] ^= mask
	b.objects[name] = data
}
