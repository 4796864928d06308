package index

import (
	"testing"

	"github.com/tharsis-backup/tharsis/vault/key"
)

// TestAADFields alters each field of the additional data of a block and of a footer,
// bit by bit, under the right key: no box opens in another place than its own.
func TestAADFields(t *testing.T) {
	id := randomID(newRand(t))
	sealer := ring.Sealer(key.TypeIndex, id[:])
	b := binder{ring.Vault, id}
	block := sealer.Seal(nil, []byte("rows"), b.block(tableChunks, 0x01020304, 200))
	footer := sealer.Seal(nil, []byte("footer"), b.footer(1<<40))
	opens := func(box, aad []byte) bool {
		_, err := sealer.Open(nil, box, aad)
		return err == nil
	}
	if !opens(block, b.block(tableChunks, 0x01020304, 200)) || !opens(footer, b.footer(1<<40)) {
		t.Fatal("they do not open")
	}
	tried := 0
	reject := func(what string, bit int, opens bool) {
		if tried++; opens {
			t.Errorf("bit %d of %s", bit, what)
		}
	}
	for bit := range 128 {
		o := b
		o.vault[bit/8] ^= 1 << (bit % 8)
		reject("a block's vault", bit, opens(block, o.block(tableChunks, 0x01020304, 200)))
		reject("a footer's vault", bit, opens(footer, o.footer(1<<40)))
	}
	for bit := range 256 {
		o := b
		o.run[bit/8] ^= 1 << (bit % 8)
		reject("a block's run", bit, opens(block, o.block(tableChunks, 0x01020304, 200)))
		reject("a footer's run", bit, opens(footer, o.footer(1<<40)))
	}
	for bit := range 8 {
		reject("the table", bit, opens(block, b.block(tableChunks^1<<bit, 0x01020304, 200)))
	}
	for bit := range 32 {
		reject("the number", bit, opens(block, b.block(tableChunks, 0x01020304^1<<bit, 200)))
	}
	for bit := range 16 {
		reject("the rows", bit, opens(block, b.block(tableChunks, 0x01020304, 200^1<<bit)))
	}
	for bit := range 63 {
		reject("the length", bit, opens(footer, b.footer(1<<40^1<<bit)))
	}
	reject("the kind of box", 0, opens(footer, b.block(0, 0, 0)) || opens(block, b.footer(1<<40)))
	if tried != 2*128+2*256+8+32+16+63+1 {
		t.Errorf("%d tried", tried)
	}
}
