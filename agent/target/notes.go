package target

import (
	"strings"
	"sync"
)

// Note says what the system refused, for all entries that it concerns.
type Note struct {
	What  string // such as "owner" or "attribute trusted.*"
	Count int64
	Path  string // of the first, raw
	Err   error  // of the first
}

// The kinds of notes; attributes have one for each namespace.
const (
	noteOwner    = "owner"
	noteGroup    = "group"
	noteMode     = "mode"
	noteSetID    = "setuid or setgid bit without its owner"
	noteCap      = "security.capability without its owner"
	noteTime     = "time"
	noteDevice   = "device"
	noteLink     = "hard link, restored as a file of its own"
	noteForeign  = "metadata of a file that has other names and another owner"
	noteAttrs    = "attribute "
	noteAttrName = "attribute with a name that is not allowed"
)

type notes struct {
	mu   sync.Mutex
	list []Note // few kinds: searched linearly
}

// note counts a refusal for name in d ("" for d itself).
func (r *Root) note(what string, d *Dir, name string, err error) {
	n := &r.notes
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range n.list {
		if n.list[i].What == what {
			n.list[i].Count++
			return
		}
	}
	n.list = append(n.list, Note{What: what, Count: 1, Path: d.path(name), Err: err})
}

// Notes returns what the system refused so far, once per kind.
func (r *Root) Notes() []Note {
	r.notes.mu.Lock()
	defer r.notes.mu.Unlock()
	return append([]Note(nil), r.notes.list...)
}

// attrNote names the kind of note for an attribute: its namespace if that is a
// known one, since the vault must not choose how many kinds there are.
func attrNote(name string) string {
	for _, ns := range []string{"user.", "trusted.", "security.", "system."} {
		if strings.HasPrefix(name, ns) {
			return noteAttrs + ns + "*"
		}
	}
	return noteAttrName
}
