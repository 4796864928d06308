package source

import (
	"os/user"
	"strconv"
	"sync"
)

// maxOwners bounds the names kept; file systems with more owners than this
// would only be slower.
const maxOwners = 1 << 16

// owners looks up names by number and keeps them, also those that don't exist.
type owners struct {
	mu     sync.RWMutex
	names  map[uint32]string
	lookup func(id string) (string, error)
}

func newOwners(lookup func(string) (string, error)) *owners {
	return &owners{names: make(map[uint32]string), lookup: lookup}
}

func userName(id string) (string, error) {
	u, err := user.LookupId(id)
	if err != nil {
		return "", err
	}
	return u.Username, nil
}

func groupName(id string) (string, error) {
	g, err := user.LookupGroupId(id)
	if err != nil {
		return "", err
	}
	return g.Name, nil
}

// name returns the name of id, "" where there is none.
func (o *owners) name(id uint32) string {
	o.mu.RLock()
	name, ok := o.names[id]
	o.mu.RUnlock()
	if ok {
		return name
	}
	name, err := o.lookup(strconv.FormatUint(uint64(id), 10))
	if err != nil {
		name = ""
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.names) >= maxOwners {
		clear(o.names)
	}
	o.names[id] = name
	return name
}
