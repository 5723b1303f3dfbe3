package referral

import (
	"context"
	"errors"
)

// errUnchanged ends a change that has nothing to change.
var errUnchanged = errors.New("referral: unchanged")

// lapse is what becomes of rewards that haven't been granted when their
// redemption ends.
var lapse = []RewardMove{
	{Side: Referrer, From: []RewardState{RewardPending, RewardQualified}, To: RewardExpired},
	{Side: Referee, From: []RewardState{RewardPending}, To: RewardExpired},
}

func (s *Service) byID(id string) func(context.Context) (Redemption, error) {
	return func(ctx context.Context) (Redemption, error) { return s.store.Redemption(ctx, id) }
}

func (s *Service) ofReferee(account string) func(context.Context) (Redemption, error) {
	return func(ctx context.Context) (Redemption, error) { return s.store.RedemptionOf(ctx, account) }
}

// change applies a change to a redemption as it is stored, and again to what it
// has become when somebody else was faster. It returns the redemption as it is
// then, and whether the change was made.
func (s *Service) change(ctx context.Context, find func(context.Context) (Redemption, error), apply func(r *Redemption) ([]RewardMove, error)) (Redemption, bool, error) {
	for {
		r, err := find(ctx)
		if err != nil {
			return r, false, err
		}
		moves, err := apply(&r)
		if errors.Is(err, errUnchanged) {
			return r, false, nil
		}
		if err != nil {
			return r, false, err
		}
		err = s.store.MoveRedemption(ctx, r, moves)
		if err == nil {
			r.Version++
			return r, true, nil
		}
		if !errors.Is(err, ErrConflict) || ctx.Err() != nil {
			return r, false, err
		}
	}
}
