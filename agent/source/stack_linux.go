package source

import (
	"fmt"
	"strings"

	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// push enters a folder whose first batch is read. Its key is the last item's.
func (t *Tree) push(k *folder) {
	t.stack = append(t.stack, frame{f: k, b: &k.first, ready: true, key: len(t.key)})
	t.forget()
}

// pop leaves the innermost folder.
func (t *Tree) pop() {
	t.stack[len(t.stack)-1] = frame{}
	t.stack = t.stack[:len(t.stack)-1]
	t.shed = min(t.shed, len(t.stack))
}

// advance goes on to the folder's next batch.
func (t *Tree) advance(top *frame) {
	b := top.b
	top.b, top.i, top.ready = b.next, 0, false
	t.ahead.release(b)
}

// forget frees what the outermost folders hold, where too much is held. They are
// listed again from where they were when the walk is back, which costs no more
// than what was read in between. The innermost one stays.
func (t *Tree) forget() {
	a := &t.ahead
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.held <= a.limit.held {
		return
	}
	for a.held > a.limit.held && t.shed < len(t.stack)-1 {
		fr := &t.stack[t.shed]
		t.shed++
		// It is in the midst of a batch, at the folder that was entered.
		last := &fr.b.recs[fr.i-1]
		fr.after, fr.again = strings.Clone(fr.b.name(last)), true
		a.drop(fr.b)
		fr.b = nil
	}
	a.work.Broadcast()
}

// reread queues a forgotten folder's remaining names.
func (t *Tree) reread(top *frame) {
	top.b = &batch{f: top.f, lists: true, after: top.after}
	top.i, top.ready, top.again = 0, false, false
	t.shed = min(t.shed, len(t.stack)-1)
	t.ahead.again(top.b)
}

// cut reports that a later pass over a folder went wrong, and leaves it.
func (t *Tree) cut(top *frame) (*Item, error) {
	err := top.b.err
	t.ahead.release(top.b)
	top.b = nil
	if len(t.stack) == 1 {
		return nil, t.fail(err)
	}
	it := &t.item
	t.key = t.key[:top.key]
	d := top.f.dir
	*it = Item{
		Key: t.key, State: Cut, Err: fmt.Errorf("list folder: %w", err),
		Entry: manifest.Entry{Kind: manifest.KindDir}, Dir: d.parent, Name: d.name,
	}
	return it, nil
}
