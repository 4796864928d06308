package agent

import (
	"context"

	"github.com/tharsis-backup/tharsis/vault/log"
)

// Hold keeps points, named as for Forget, from being deleted and purged until
// Unhold, and returns those that it changed: a point that is held gets the new
// reason, and one that is held for just this reason is only noted. A deleted point
// stays deleted, but is not purged. Points of other machines need the admin key.
func (s *Session) Hold(ctx context.Context, names []string, reason string) ([]PointInfo, error) {
	if err := checkReason(reason); err != nil {
		return nil, err
	}
	changed, err := s.changePoints(ctx, names, pointChange{
		verb: "hold", same: "is held for this reason already",
		plan: func(_ *log.State, points []log.PointInfo) ([]log.PointID, error) {
			return chosen(points, func(p *log.PointInfo) bool { return !p.Held || p.HoldReason != reason }), nil
		},
		body: func(ids []log.PointID) log.Body { return &log.Hold{Points: ids, Reason: reason} },
	})
	return s.describeAll(changed), err
}

// Unhold ends Hold and returns the points that it changed; one that is not held is
// only noted. Points of other machines need the admin key.
func (s *Session) Unhold(ctx context.Context, names []string) ([]PointInfo, error) {
	changed, err := s.changePoints(ctx, names, pointChange{
		verb: "unhold", same: "is not held",
		plan: func(_ *log.State, points []log.PointInfo) ([]log.PointID, error) {
			return chosen(points, func(p *log.PointInfo) bool { return p.Held }), nil
		},
		body: func(ids []log.PointID) log.Body { return &log.Unhold{Points: ids} },
	})
	return s.describeAll(changed), err
}
