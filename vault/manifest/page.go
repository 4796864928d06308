package manifest

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/internal/wire"
	"github.com/tharsis-backup/tharsis/vault/key"
)

// The kinds of pages (docs/FORMAT.md §8.2, §9).
const (
	pageLeaf       = 1
	pageInner      = 2
	pageTableLeaf  = 3
	pageTableInner = 4
)

// headerRoom is the most that a page's header takes: kind, level and a varint of
// at most 65,536. Builders leave it free before the rows.
const headerRoom = 2 + 3

// pageHeader is what a page begins with.
type pageHeader struct {
	kind  uint8
	level int
	rows  int
}

func (h pageHeader) append(b []byte) []byte {
	return wire.AppendUvarint(append(b, h.kind, uint8(h.level)), uint64(h.rows))
}

func (h pageHeader) size() int { return len(h.append(make([]byte, 0, headerRoom))) }

// seal puts the header right before the rows, which begin at headerRoom in b.
func (h pageHeader) seal(b []byte) []byte {
	start := headerRoom - h.size()
	h.append(b[start:start])
	return b[start:]
}

// decodeHeader points d at page and reads its header. leaf and inner are the
// kinds that the caller takes.
func decodeHeader(d *wire.Decoder, page []byte, leaf, inner uint8, maxRows int) pageHeader {
	d.Reset(page)
	if len(page) > MaxPageBytes {
		d.Fail("page of %d bytes", len(page))
	}
	h := pageHeader{kind: d.U8(), level: int(d.U8())}
	h.rows = d.Count(maxRows, 1)
	switch {
	case h.kind != leaf && h.kind != inner:
		d.Fail("page of kind %d", h.kind)
	case (h.kind == leaf) != (h.level == 0) || h.level > MaxLevel:
		d.Fail("page of kind %d at level %d", h.kind, h.level)
	case h.rows == 0 && h.kind != pageLeaf:
		d.Fail("page without rows")
	}
	return h
}

// keyReader reads the keys of a page's rows, each stored as what it shares with
// the row before it and the rest.
type keyReader struct {
	d    wire.Decoder
	left int    // rows that are still to be read
	any  bool   // a row was read
	key  []byte // of the last row; the buffer is reused
}

func (k *keyReader) reset(d wire.Decoder, rows int) {
	k.d, k.left, k.any, k.key = d, rows, false, k.key[:0]
}

// next reads the next key; errors stick to the decoder.
func (k *keyReader) next() {
	k.left--
	shared := int(k.d.Uvarint(uint64(len(k.key))))
	suffix := k.d.Blob(MaxKeyBytes)
	switch {
	case k.d.Err() != nil:
		return
	case shared+len(suffix) > MaxKeyBytes:
		k.d.Fail("key of %d bytes", shared+len(suffix))
		return
	case k.any && (len(suffix) == 0 || shared < len(k.key) && suffix[0] <= k.key[shared]):
		// Either not ascending, or shared could have been larger.
		k.d.Fail("keys out of order")
		return
	}
	start := bytes.LastIndexByte(k.key[:shared], separator) + 1
	k.key = append(k.key[:shared], suffix...)
	k.any = true
	if len(k.key) == 0 {
		return
	}
	if err := validateNames(k.key[start:]); err != nil {
		k.d.Fail("%v", err)
	}
}

// appendKey appends a row's key as keyReader reads it.
func appendKey(b, last, key []byte) []byte {
	shared := 0
	for n := min(len(last), len(key)); shared < n && last[shared] == key[shared]; {
		shared++
	}
	b = wire.AppendUvarint(b, uint64(shared))
	return wire.AppendBlob(b, key[shared:])
}

// expectation is what the row of an inner page says of the page below it, and
// the key that all keys there are below (nil: none).
type expectation struct {
	child *ChildRef // nil for a root
	bound []byte
}

func (x expectation) first(key []byte) error {
	if x.child != nil && !bytes.Equal(key, x.child.Key) {
		return errors.New("first key is not the one that the page above names")
	}
	return nil
}

func (x expectation) below(key []byte) error {
	if x.bound != nil && bytes.Compare(key, x.bound) >= 0 {
		return errors.New("key belongs into the next page")
	}
	return nil
}

func (x expectation) totals(t Totals) error {
	if x.child != nil && x.child.Totals != t {
		return fmt.Errorf("page holds %d entries and %d bytes, the page above says %d and %d",
			t.Entries, t.Bytes, x.child.Totals.Entries, x.child.Totals.Bytes)
	}
	return nil
}

// CheckPage checks one page of any kind by itself, every row of it: whether it
// is what a writer would have written, not whether it stands in the right place.
func CheckPage(page []byte) error {
	var err error
	if len(page) > 0 && (page[0] == pageTableLeaf || page[0] == pageTableInner) {
		_, err = parseTablePage(page)
	} else {
		err = checkManifestPage(page)
	}
	if err != nil {
		return fmt.Errorf("%w: page: %w", key.ErrDamaged, err)
	}
	return nil
}

func checkManifestPage(page []byte) error {
	var d wire.Decoder
	h := decodeHeader(&d, page, pageLeaf, pageInner, maxPageRows)
	if err := d.Err(); err != nil {
		return err
	}
	if h.kind == pageLeaf {
		var l leaf
		ok, err := l.reset(d, page, h, expectation{})
		for ok && err == nil {
			ok, err = l.next()
		}
		return err
	}
	var n inner
	err := n.reset(d, h, expectation{})
	for ok := true; ok && err == nil; {
		ok, err = n.advance()
	}
	return err
}

// leaf reads the rows of a leaf page in order.
type leaf struct {
	keyReader
	page  []byte
	want  expectation
	sum   Totals
	entry Entry  // of the current row
	raw   []byte // its encoding, within page
	err   error  // sticks
}

// reset starts on a page whose header d has read, at its first row; ok is false
// if there is none.
func (l *leaf) reset(d wire.Decoder, page []byte, h pageHeader, want expectation) (ok bool, err error) {
	l.keyReader.reset(d, h.rows)
	l.page, l.want, l.sum, l.err = page, want, Totals{}, nil
	ok, err = l.next()
	if ok && err == nil {
		err = want.first(l.key)
	}
	return ok, err
}

// next goes to the next row. At the end of the page it checks what only the
// whole page can tell. An error stays.
func (l *leaf) next() (ok bool, err error) {
	if l.err == nil {
		ok, l.err = l.read()
	}
	return ok, l.err
}

func (l *leaf) read() (ok bool, err error) {
	if l.left == 0 {
		if err := l.d.Done(); err != nil {
			return false, err
		}
		return false, l.want.totals(l.sum)
	}
	l.keyReader.next()
	start := l.d.Offset()
	if err := DecodeEntry(&l.d, &l.entry); err != nil {
		return false, err
	}
	l.raw = l.page[start:l.d.Offset()]
	l.sum = l.sum.plus(Totals{Entries: 1, Bytes: l.entry.Size})
	return true, l.want.below(l.key)
}

// inner reads the rows of an inner page in order, one ahead: the key of the next
// row bounds the keys below the current one.
type inner struct {
	ahead   keyReader // its key is that of the next row, if hasNext
	next    ChildRef
	hasNext bool
	cur     ChildRef // Key is curKey
	curKey  []byte
	level   int
	want    expectation
	sum     Totals
	err     error // sticks
}

// reset starts on a page whose header d has read, at its first row.
func (n *inner) reset(d wire.Decoder, h pageHeader, want expectation) error {
	n.ahead.reset(d, h.rows)
	n.level, n.want, n.sum, n.err = h.level, want, Totals{}, nil
	if err := n.look(); err != nil {
		return err
	}
	if err := want.first(n.ahead.key); err != nil {
		return err
	}
	_, err := n.advance()
	return err
}

// advance goes to the next row; ok is false at the end of the page. An error stays.
func (n *inner) advance() (ok bool, err error) {
	if n.err != nil || !n.hasNext {
		return false, n.err
	}
	n.curKey = append(n.curKey[:0], n.ahead.key...)
	n.cur = n.next
	n.cur.Key = n.curKey
	n.err = n.look()
	return n.err == nil, n.err
}

// look reads the row behind the current one.
func (n *inner) look() error {
	n.hasNext = false
	if n.ahead.left == 0 {
		if err := n.ahead.d.Done(); err != nil {
			return err
		}
		return n.want.totals(n.sum)
	}
	n.ahead.next()
	d := &n.ahead.d
	n.next = ChildRef{ID: decodeID(d), Level: n.level - 1}
	n.next.Totals = Totals{Entries: d.Uvarint(1<<64 - 1), Bytes: d.Uvarint(1<<64 - 1)}
	if n.next.Totals.Entries == 0 {
		d.Fail("page without entries")
	}
	if err := d.Err(); err != nil {
		return err
	}
	n.sum = n.sum.plus(n.next.Totals)
	n.hasNext = true
	return n.want.below(n.ahead.key)
}

func appendChildRef(b []byte, id chunk.ID, t Totals) []byte {
	b = append(b, id[:]...)
	return wire.AppendUvarint(wire.AppendUvarint(b, t.Entries), t.Bytes)
}
