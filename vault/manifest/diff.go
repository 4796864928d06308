package manifest

import (
	"bytes"
	"context"

	"github.com/tharsis-backup/tharsis/chunk"
)

// Diff calls fn for each key whose entry differs between two manifests, in key
// order: a is nil where only the second has it, b where only the first does. The
// arguments are valid until fn returns. Pages that both have are passed by
// unread, so it costs the pages that differ. A zero root is an empty manifest.
func Diff(ctx context.Context, r PageReader, rootA, rootB chunk.ID,
	fn func(key []byte, a, b *Entry) error) error {
	if rootA == rootB {
		return nil
	}
	a, b := &tree{r: r}, &tree{r: r}
	if err := a.start(ctx, rootA); err != nil {
		return err
	}
	if err := b.start(ctx, rootB); err != nil {
		return err
	}
	for a.at != atEnd || b.at != atEnd {
		if err := diffStep(ctx, a, b, fn); err != nil {
			return err
		}
	}
	return nil
}

func diffStep(ctx context.Context, a, b *tree, fn func(key []byte, a, b *Entry) error) error {
	c := compareTrees(a, b)
	switch {
	case a.at == atChild && b.at == atChild && a.child().ID == b.child().ID:
		return advanceBoth(a, b)
	// Of two pages that begin with the same key, the higher one is opened: the
	// other may be below it.
	case c <= 0 && a.at == atChild && (c < 0 || b.at == atRow || a.child().Level >= b.child().Level):
		return a.open(ctx)
	case c >= 0 && b.at == atChild:
		return b.open(ctx)
	case c < 0:
		if err := fn(a.leaf.key, &a.leaf.entry, nil); err != nil {
			return err
		}
		return a.advance()
	case c > 0:
		if err := fn(b.leaf.key, nil, &b.leaf.entry); err != nil {
			return err
		}
		return b.advance()
	}
	if !bytes.Equal(a.leaf.raw, b.leaf.raw) {
		if err := fn(a.leaf.key, &a.leaf.entry, &b.leaf.entry); err != nil {
			return err
		}
	}
	return advanceBoth(a, b)
}

func advanceBoth(a, b *tree) error {
	if err := a.advance(); err != nil {
		return err
	}
	return b.advance()
}

// compareTrees compares the keys that two walks stand at; the end is behind all keys.
func compareTrees(a, b *tree) int {
	switch {
	case a.at == atEnd:
		return 1
	case b.at == atEnd:
		return -1
	}
	return bytes.Compare(a.key(), b.key())
}
