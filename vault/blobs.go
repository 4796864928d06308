package vault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/index"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// maxOpeners bounds the packs whose keys are kept: each is some 600 bytes, and
// deriving one takes microseconds.
const maxOpeners = 1024

// Blobs reads records of packs. It is safe for concurrent use; each goroutine
// brings a [Scratch] of its own.
type Blobs struct {
	v *Vault

	mu      sync.Mutex // guards openers
	openers map[chunk.ID]*pack.Opener
}

// NewBlobs makes a reader of the vault's packs.
func (v *Vault) NewBlobs() *Blobs { return &Blobs{v: v, openers: map[chunk.ID]*pack.Opener{}} }

// Scratch holds one goroutine's buffers.
type Scratch struct {
	dec   *chunk.Decompressor
	chunk *chunk.Hasher
	page  *chunk.Hasher
	box   []byte
}

// NewScratch makes the buffers of one goroutine.
func (v *Vault) NewScratch() (*Scratch, error) {
	d, err := chunk.NewDecompressor()
	if err != nil {
		return nil, fmt.Errorf("prepare decompressor: %w", err)
	}
	return &Scratch{dec: d, chunk: chunk.NewHasher(v.Ring.ChunkID), page: chunk.NewHasher(v.Ring.PageID)}, nil
}

// Opener gives the keys of a pack.
func (b *Blobs) Opener(typ uint8, id chunk.ID) (*pack.Opener, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if o, ok := b.openers[id]; ok {
		return o, nil
	}
	o, err := pack.NewOpener(b.v.Ring, typ, id)
	if err != nil {
		return nil, err
	}
	if len(b.openers) >= maxOpeners {
		clear(b.openers)
	}
	b.openers[id] = o
	return o, nil
}

// Decode opens and decodes the box of a record into dst. What it returns is
// authentic; the IDs of the chunks in it are still to be checked.
func (b *Blobs) Decode(dst []byte, l *index.Location, box []byte, s *Scratch) ([]byte, error) {
	o, err := b.Opener(l.Type, l.Pack)
	if err != nil {
		return nil, err
	}
	return o.OpenRecord(dst, l.Record(), box, s.dec)
}

// Check tells whether data is the chunk id, or the page id in a manifest pack.
func (s *Scratch) Check(typ uint8, id chunk.ID, data []byte) error {
	h := s.chunk
	if typ == key.TypeManifestPack {
		h = s.page
	}
	if got := h.Sum(data); got != id {
		return fmt.Errorf("%w: chunk %s has other content than its ID says", key.ErrDamaged, id.Short())
	}
	return nil
}

// ReadRange fills p from an object of the vault.
func (b *Blobs) ReadRange(ctx context.Context, name string, off int64, p []byte) error {
	err := backend.ReadAt(ctx, b.v.Backend, name, off, p)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return fmt.Errorf("read %s: %w: it is too short", name, key.ErrDamaged)
	}
	if errors.Is(err, backend.ErrNotFound) {
		return fmt.Errorf("read %s: %w", name, errMissing)
	}
	return err
}

// Chunk reads one chunk or page from any of the places where the index finds it.
// Where none has it, it looks for newer ones once: a prune may have written it
// anew, and deleted it where it was.
func (b *Blobs) Chunk(ctx context.Context, x *Index, id chunk.ID, s *Scratch, dst []byte) ([]byte, error) {
	data, err := b.chunk(ctx, x, id, s, dst)
	if errors.Is(err, errMissing) && x.renew(ctx) {
		return b.chunk(ctx, x, id, s, dst)
	}
	return data, err
}

func (b *Blobs) chunk(ctx context.Context, x *Index, id chunk.ID, s *Scratch, dst []byte) ([]byte, error) {
	locs, err := x.Find(ctx, id, nil)
	if err != nil {
		return nil, err
	}
	if len(locs) == 0 {
		return nil, fmt.Errorf("%w: chunk %s is in no index", key.ErrDamaged, id.Short())
	}
	var first error
	for i := range locs {
		data, err := b.chunkAt(ctx, &locs[i], id, s, dst)
		if err == nil {
			return data, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if first == nil || errors.Is(err, errMissing) {
			first = err
		}
	}
	return nil, first
}

func (b *Blobs) chunkAt(ctx context.Context, l *index.Location, id chunk.ID, s *Scratch, dst []byte) ([]byte, error) {
	name := pack.Name(l.Pack)
	for {
		data, err := b.tryChunk(ctx, name, l, id, s, dst)
		if err == nil || !errors.Is(err, key.ErrDamaged) || !b.v.drop(name) {
			return data, err
		}
	}
}

func (b *Blobs) tryChunk(ctx context.Context, name string, l *index.Location, id chunk.ID, s *Scratch, dst []byte) ([]byte, error) {
	if cap(s.box) < int(l.Stored) {
		s.box = make([]byte, l.Stored)
	}
	box := s.box[:l.Stored]
	if err := b.ReadRange(ctx, name, int64(l.RecordOffset), box); err != nil {
		return nil, err
	}
	plain, err := b.Decode(dst, l, box, s)
	if err != nil {
		return nil, err
	}
	data := plain[l.Offset : l.Offset+l.Length]
	return data, s.Check(l.Type, id, data)
}

// Pages gives manifest pages by their ID. It implements manifest.PageReader and
// is safe for concurrent use.
type Pages struct {
	blobs *Blobs
	index *Index
	pool  sync.Pool
}

// NewPages makes a reader of pages through an index.
func (v *Vault) NewPages(x *Index) *Pages {
	return &Pages{blobs: v.NewBlobs(), index: x}
}

// Page implements [manifest.PageReader].
func (p *Pages) Page(ctx context.Context, id chunk.ID) ([]byte, error) {
	s, _ := p.pool.Get().(*Scratch)
	if s == nil {
		var err error
		if s, err = p.blobs.v.NewScratch(); err != nil {
			return nil, err
		}
	}
	defer p.pool.Put(s)
	return p.blobs.Chunk(ctx, p.index, id, s, nil)
}
