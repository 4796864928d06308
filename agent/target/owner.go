package target

import (
	"os/user"
	"strconv"
	"strings"
	"sync"
)

// maxNames bounds the cache of looked up owners; a machine with more users
// looks them up again.
const maxNames = 4096

// names finds this machine's numbers of users and groups.
type names struct {
	mu           sync.Mutex
	users, group map[string]uint32 // the lookup's result
	noUser       map[string]bool   // "u" or "g" and a name that isn't known
}

func (n *names) uid(name string, otherwise uint32) uint32 {
	return n.find(&n.users, "u", name, otherwise, func(s string) (string, error) {
		u, err := user.Lookup(s)
		if err != nil {
			return "", err
		}
		return u.Uid, nil
	})
}

func (n *names) gid(name string, otherwise uint32) uint32 {
	return n.find(&n.group, "g", name, otherwise, func(s string) (string, error) {
		g, err := user.LookupGroup(s)
		if err != nil {
			return "", err
		}
		return g.Gid, nil
	})
}

func (n *names) find(known *map[string]uint32, kind, name string, otherwise uint32, look func(string) (string, error)) uint32 {
	if name == "" {
		return otherwise
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if id, ok := (*known)[name]; ok {
		return id
	}
	if n.noUser[kind+name] {
		return otherwise
	}
	if *known == nil || len(*known) >= maxNames {
		*known = make(map[string]uint32)
	}
	if n.noUser == nil || len(n.noUser) >= maxNames {
		n.noUser = make(map[string]bool)
	}
	name = strings.Clone(name)
	s, err := look(name)
	if err == nil {
		if id, err := strconv.ParseUint(s, 10, 32); err == nil {
			(*known)[name] = uint32(id)
			return uint32(id)
		}
	}
	n.noUser[kind+name] = true
	return otherwise
}
