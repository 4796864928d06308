package agent

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"

	"github.com/tharsis-backup/tharsis/vault/log"
)

// entryPoints is how many points one entry names: with a reason of the greatest
// length they fit into a body of log.MaxBodyBytes.
const entryPoints = 64_000

// maxEntryPoints is entryPoints, but tests need fewer.
var maxEntryPoints = entryPoints

// errNothingToDo ends an append that would change nothing.
var errNothingToDo = errors.New("there is nothing to do")

// pointChange is what FORGET, UNFORGET, HOLD and UNHOLD have in common: points
// that a user named change, all of them or none.
type pointChange struct {
	verb string // for messages: "delete"
	same string // what is said of a point that is so already: "was deleted already"
	// plan chooses the points that change, of those that are there. Its error
	// refuses all.
	plan func(*log.State, []log.PointInfo) ([]log.PointID, error)
	body func([]log.PointID) log.Body
}

// changePoints makes a change of the named points and returns those that it
// changed; the others were so already, and a note says so. All names are resolved
// and all rules checked before a key is asked for or an entry written, and the
// rules again as of the state that each entry continues: another machine may have
// been faster.
func (s *Session) changePoints(ctx context.Context, names []string, c pointChange) (changed []log.PointID, err error) {
	if err := s.mayWrite(s.vault.Log.State()); err != nil {
		return nil, fmt.Errorf("%s points: %w", c.verb, err)
	}
	if err := s.refresh(ctx); err != nil {
		return nil, err
	}
	st := s.vault.Log.State()
	ids, err := pointsByID(st, names, c.verb)
	if err != nil {
		return nil, err
	}
	todo, err := c.todo(st, ids)
	if err != nil {
		return nil, err
	}
	if len(todo) > 0 {
		signer, err := s.pointSigner(ctx, ids, c.verb)
		if err != nil {
			return nil, err
		}
		if changed, err = s.appendChange(ctx, signer, ids, c); err != nil {
			return changed, err
		}
	}
	for _, id := range without(ids, changed) {
		s.note(Note{Info, "", fmt.Sprintf("point %s %s", id, c.same)})
	}
	return changed, s.saveHead()
}

// appendChange appends the entries of a change: one, but for very many points.
func (s *Session) appendChange(ctx context.Context, signer ed25519.PrivateKey, ids []log.PointID, c pointChange) (changed []log.PointID, err error) {
	for len(changed) < len(ids) {
		var next []log.PointID
		_, err := s.vault.Log.Append(ctx, signer, func(st *log.State) (log.Body, error) {
			todo, err := c.todo(st, without(ids, changed))
			if err != nil {
				return nil, err
			}
			if len(todo) == 0 {
				return nil, errNothingToDo
			}
			next = todo[:min(len(todo), maxEntryPoints)]
			return c.body(next), nil
		})
		if errors.Is(err, errNothingToDo) {
			break
		}
		if err != nil && len(changed) > 0 {
			err = fmt.Errorf("%d of %d points are done: %w", len(changed), len(ids), err)
		}
		if err != nil {
			return changed, err
		}
		changed = append(changed, next...)
	}
	return changed, nil
}

// without are the IDs that are not among others.
func without(ids, others []log.PointID) []log.PointID {
	skip := make(map[log.PointID]bool, len(others))
	for _, id := range others {
		skip[id] = true
	}
	return slices.DeleteFunc(slices.Clone(ids), func(id log.PointID) bool { return skip[id] })
}

// todo is plan for points by their IDs, none of which may be purged.
func (c *pointChange) todo(st *log.State, ids []log.PointID) ([]log.PointID, error) {
	points := make([]log.PointInfo, len(ids))
	for i, id := range ids {
		p, ok := st.Point(id)
		if !ok || p.Purged {
			return nil, fmt.Errorf("%w any more: %s was purged", ErrNoPoint, id)
		}
		points[i] = p
	}
	return c.plan(st, points)
}

// pointsByID finds points by starts of their IDs, each once. "latest" and times
// name another point tomorrow, or on another machine: what ends points is not
// to be said so.
func pointsByID(st *log.State, names []string, verb string) (ids []log.PointID, err error) {
	seen := map[log.PointID]bool{}
	for _, name := range names {
		if _, isTime := parseTime(name); isTime || name == "latest" {
			return nil, fmt.Errorf("%w: to %s a point by %q is too dangerous, as it may be another one than you think: give its ID", ErrNoPoint, verb, name)
		}
		if !isPointPrefix(name) {
			return nil, fmt.Errorf("%w: %q is not %d or more digits of a point's ID", ErrNoPoint, name, minPointPrefix)
		}
		p, err := byPrefix(st, name)
		if err != nil {
			return nil, err
		}
		if !seen[p.Point.ID] {
			seen[p.Point.ID] = true
			ids = append(ids, p.Point.ID)
		}
	}
	return ids, nil
}

// pointSigner is the key for an entry about points: the machine's own where all of
// them are its, else the vault's admin key.
func (s *Session) pointSigner(ctx context.Context, ids []log.PointID, verb string) (ed25519.PrivateKey, error) {
	st := s.vault.Log.State()
	m, own := st.Machine(s.machine.ID)
	own = own && m.Key == log.PublicOf(s.machine.Key)
	for _, id := range ids {
		p, _ := st.Point(id)
		own = own && p.Point.Machine == s.machine.ID
	}
	if own {
		return s.machine.Key, nil
	}
	return s.admin(ctx, verb+" points of other machines")
}

// describeAll makes points fit for showing, as they are now.
func (s *Session) describeAll(ids []log.PointID) []PointInfo {
	st := s.vault.Log.State()
	out := make([]PointInfo, 0, len(ids))
	for _, id := range ids {
		if p, ok := st.Point(id); ok && !p.Purged {
			out = append(out, describe(st, p))
		}
	}
	return out
}

// checkReason refuses a reason that no entry can hold.
func checkReason(reason string) error {
	if err := log.CheckText(reason); err != nil {
		return fmt.Errorf("the reason is %w", err)
	}
	return nil
}
