package agent

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"

	"github.com/tharsis-backup/tharsis/vault/log"
)

// Errors that callers branch on.
var (
	// ErrHeld is returned where a point that is held was to be deleted.
	ErrHeld = errors.New("it is held")
	// ErrNewest is returned where the newest good point of a source was to be
	// deleted, and it was not said that this is meant.
	ErrNewest = errors.New("it is the newest good point of a source")
)

// ForgetOptions say how to delete points.
type ForgetOptions struct {
	Reason string // kept in the log with the points; at most log.MaxTextBytes of UTF-8
	// Last allows to delete a point that is the newest good one of a source.
	Last bool
}

// ForgetResult is what a deletion did.
type ForgetResult struct {
	// Points were deleted by it, in the order in which they were named; those that
	// were deleted before are not among them.
	Points []PointInfo
	// Noted tells whether the soft-delete period of all that is deleted runs. It
	// begins when the admin key notes the deletion, with the next prune if not now.
	Noted bool
}

// Forget soft-deletes points, which are named by their IDs or by 4 or more of the
// first digits: they are no longer listed, restored as the latest, or found, but
// stay whole until a prune purges them after the vault's soft-delete period, and
// Undelete brings them back until then. Either all are deleted or none; one that
// was deleted already is only noted. Points of other machines need the admin key.
//
// It returns ErrHeld for a point that is held, and ErrNewest for the newest good
// point of a source without ForgetOptions.Last.
func (s *Session) Forget(ctx context.Context, names []string, o ForgetOptions) (res ForgetResult, err error) {
	if err := checkReason(o.Reason); err != nil {
		return res, err
	}
	changed, err := s.changePoints(ctx, names, pointChange{
		verb: "delete", same: "was deleted already",
		plan: func(st *log.State, points []log.PointInfo) ([]log.PointID, error) {
			return toForget(st, points, o.Last)
		},
		body: func(ids []log.PointID) log.Body { return &log.Forget{Points: ids, Reason: o.Reason} },
	})
	// Also where all were deleted before: by a run that was killed before this.
	if err == nil && s.keys.Admin != nil {
		err = s.noteForgets(ctx, ed25519.NewKeyFromSeed(s.keys.Admin), false)
	}
	return ForgetResult{Points: s.describeAll(changed), Noted: len(s.vault.Log.State().Unnoted()) == 0}, err
}

// toForget are the points that are not deleted yet, if all of them may be.
func toForget(st *log.State, points []log.PointInfo, last bool) (todo []log.PointID, err error) {
	newest := newestGood(st.Points())
	for _, p := range points {
		if p.Forgotten != 0 {
			continue
		}
		if p.Held {
			return nil, refuse(&p, ErrHeld, p.HoldReason)
		}
		if of := newestOf(p.Point, newest); of != "" && !last {
			return nil, refuse(&p, ErrNewest, of)
		}
		todo = append(todo, p.Point.ID)
	}
	return todo, nil
}

func refuse(p *log.PointInfo, why error, more string) error {
	if more == "" {
		return fmt.Errorf("point %s: %w", p.Point.ID, why)
	}
	return fmt.Errorf("point %s: %w: %s", p.Point.ID, why, more)
}

// Undelete brings soft-deleted points back, named as for Forget, and returns
// those that it brought back; one that is not deleted is only noted. What was
// purged is gone: that is ErrNoPoint. Points of other machines need the admin key.
func (s *Session) Undelete(ctx context.Context, names []string) ([]PointInfo, error) {
	changed, err := s.changePoints(ctx, names, pointChange{
		verb: "undelete", same: "is not deleted",
		plan: func(_ *log.State, points []log.PointInfo) ([]log.PointID, error) {
			return chosen(points, func(p *log.PointInfo) bool { return p.Forgotten != 0 }), nil
		},
		body: func(ids []log.PointID) log.Body { return &log.Unforget{Points: ids} },
	})
	return s.describeAll(changed), err
}

// chosen are the IDs of the points for which is holds.
func chosen(points []log.PointInfo, is func(*log.PointInfo) bool) (ids []log.PointID) {
	for i := range points {
		if is(&points[i]) {
			ids = append(ids, points[i].Point.ID)
		}
	}
	return ids
}
