package fault

import "math/rand/v2"

// Plan says what goes wrong at a moment. It is asked twice an operation, before
// and after; what only makes sense before (all but Fail and Kill) is ignored
// after, and what doesn't fit the kind of operation is ignored too. It is
// called concurrently if the backend is.
type Plan func(Op) Action

// Action is what goes wrong at a moment. The zero value is nothing.
type Action struct {
	kind actionKind
	err  error
	do   func()
	n    int64
	name string
}

type actionKind int

const (
	none actionKind = iota
	fail
	kill
	shortRead
	wrongObject
	cutList
	staleList
	duplicatePut
)

// Fail makes the operation return err, or ErrInjected if that is nil: before,
// without having taken effect; after, although it did.
func Fail(err error) Action {
	if err == nil {
		err = ErrInjected
	}
	return Action{kind: fail, err: err}
}

// Kill is the death of the process: this operation and all later ones give
// ErrKilled. do, if not nil, is called before this one returns; it may end the
// process for real, panic, or set what makes other things fail from here on.
func Kill(do func()) Action { return Action{kind: kill, do: do} }

// ShortRead ends a Get's stream after n bytes: with err, or without any error
// if that is nil, as of a cut object.
func ShortRead(n int64, err error) Action { return Action{kind: shortRead, n: n, err: err} }

// WrongObject gives another object's content to a Get: name's, or if that is
// empty the one that follows in the same folder (the last one is followed by
// the first).
func WrongObject(name string) Action { return Action{kind: wrongObject, name: name} }

// EmptyList makes a List yield nothing.
func EmptyList() Action { return Action{kind: cutList} }

// PartialList makes a List yield the first n objects by name, and end as if
// they were all.
func PartialList(n int) Action { return Action{kind: cutList, n: int64(max(n, 0))} }

// StaleList makes a List yield the objects as they were before operation n,
// leaving aside what was done to the store in other ways.
func StaleList(n int) Action { return Action{kind: staleList, n: int64(n)} }

// DuplicatePut does a Put twice, as a client that lost the first answer does:
// the object is there, and the caller is told ErrExists.
func DuplicatePut() Action { return Action{kind: duplicatePut} }

// At is the plan that does a at one moment of operation n.
func At(n int, after bool, a Action) Plan {
	return func(op Op) Action {
		if op.N == n && op.After == after {
			return a
		}
		return Action{}
	}
}

// Random is the plan that does one of actions at a moment with the given
// probability. What it does at a moment depends on the seed and the moment
// alone, so that goroutines can't disturb it.
func Random(seed uint64, probability float64, actions ...Action) Plan {
	return func(op Op) Action {
		moment := uint64(op.N) << 1
		if op.After {
			moment++
		}
		r := rand.New(rand.NewPCG(seed, moment))
		if len(actions) == 0 || r.Float64() >= probability {
			return Action{}
		}
		return actions[r.IntN(len(actions))]
	}
}
