package main

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
)

// textSource cuts pieces of real text, one after the other, from the text files
// of a tree. No piece comes twice before the last file was used; then it starts
// again, a little further in each file.
type textSource struct {
	files  []string
	next   int    // the next file
	rest   []byte // of the current file
	rounds int    // how often all files were used
}

// textMax leaves out larger files: they are generated tables more often than
// text.
const textMax = 4 << 20

// newTextSource lists the text files below dir.
func newTextSource(dir string) (*textSource, error) {
	t := &textSource{}
	head := make([]byte, 1024)
	err := walkFiles(dir, func(path string, info fs.FileInfo) error {
		if info.Size() == 0 || info.Size() > textMax {
			return nil
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		if n, _ := f.Read(head); isText(head[:n]) {
			t.files = append(t.files, path)
		}
		return nil
	})
	if err == nil && len(t.files) == 0 {
		err = fmt.Errorf("no text below %s", dir)
	}
	return t, err
}

// isText tells text from binary and compressed data by a file's first bytes.
func isText(head []byte) bool {
	odd := 0
	for _, b := range head {
		if b == 0 {
			return false
		}
		if b < '\t' || b >= 0x80 {
			odd++
		}
	}
	return odd*10 <= len(head)
}

// seek goes to a file that belongs to the seed.
func (t *textSource) seek(seed uint64) {
	t.next, t.rest = int(seed*2_654_435_761%uint64(len(t.files))), nil
}

// cut appends the next n bytes of text to b.
func (t *textSource) cut(b []byte, n int) ([]byte, error) {
	const shift = 1777 // of the start of a piece, at each round
	for n > 0 {
		if len(t.rest) == 0 {
			if t.next == len(t.files) {
				t.next, t.rounds = 0, t.rounds+1
			}
			text, err := os.ReadFile(t.files[t.next])
			// An edit of the tree itself may just have removed the file.
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return b, fmt.Errorf("cut text: %w", err)
			}
			t.next++
			t.rest = text[t.rounds*shift%max(1, len(text)):]
		}
		k := min(n, len(t.rest))
		b = append(b, t.rest[:k]...)
		t.rest, n = t.rest[k:], n-k
	}
	return b, nil
}

// filler makes new content: real text, and one time in six random bytes, as
// compressed and encrypted files are.
type filler struct {
	text  *textSource
	rng   *rand.Rand
	noise *rand.ChaCha8
	buf   []byte
}

func newFiller(text *textSource, seed uint64) *filler {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	return &filler{text: text, rng: newRand(seed), noise: rand.NewChaCha8(key)}
}

// newRand gives the same numbers for the same seed, on any machine.
func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0x7468617273697321)) }

// make returns n bytes, valid until the next call.
func (f *filler) make(n int) (b []byte, err error) {
	if f.rng.IntN(6) > 0 {
		f.buf, err = f.text.cut(f.buf[:0], n)
		return f.buf, err
	}
	f.buf = slices.Grow(f.buf[:0], n)[:n]
	_, _ = f.noise.Read(f.buf) // documented never to fail
	return f.buf, nil
}
