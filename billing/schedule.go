package billing

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Scheduler is what a Gateway offers in addition if it can change a
// subscription by itself when its period ends. Changes of PeriodEnd need it.
type Scheduler interface {
	// Schedule makes the gateway put the subscription on these items, and no
	// others, when its current period ends, without proration; the metadata
	// become the subscription's then. It replaces what was scheduled before,
	// keeps discounts, and changes nothing else.
	Schedule(ctx context.Context, id string, req ScheduleRequest, key string) (Subscription, error)
	// Unschedule withdraws what is scheduled; a subscription without is
	// returned as it is.
	Unschedule(ctx context.Context, id, key string) (Subscription, error)
}

// ScheduleRequest says what a subscription has from the end of its period.
type ScheduleRequest struct {
	Items    []LineItem
	Metadata map[string]string
	// At is the end of the period that the change was decided in. When the
	// period has ended meanwhile, the request is ErrInvalid.
	At time.Time
}

// Scheduled is a change that the gateway is going to make.
type Scheduled struct {
	ID string `json:"id"` // of the gateway's schedule
	// At is when it takes effect; zero: it has, or only its ID is known yet.
	At    time.Time  `json:"at,omitzero"`
	Items []LineItem `json:"items,omitempty"`
	Plan  string     `json:"plan,omitempty"` // empty: one that somebody else scheduled
}

func (s *Scheduled) clone() *Scheduled {
	if s == nil {
		return nil
	}
	copied := *s
	copied.Items = slices.Clone(s.Items)
	return &copied
}

func (s *Service) scheduler() (Scheduler, error) {
	g, ok := s.gateway.(Scheduler)
	if !ok {
		return nil, fmt.Errorf("%w: it can't change a subscription at the end of its period: it implements no Scheduler", ErrUnsupported)
	}
	return g, nil
}

// schedule makes a change at the end of the period.
func (s *Service) schedule(ctx context.Context, account string, o *Order) (Subscription, error) {
	if _, err := s.scheduler(); err != nil {
		return Subscription{}, err
	}
	out, done, err := s.act(ctx, account, opSchedule, func(a *Account) (any, bool, error) {
		m, err := s.move(ctx, a, o)
		if err != nil {
			return nil, false, err
		}
		if m.rule.When != PeriodEnd {
			return nil, false, errBusy // what it changes is something else by now
		}
		if end := m.sub.endsAt(); !end.IsZero() {
			return nil, false, fmt.Errorf("%w: subscription %s ends on %s: resume it first", ErrInvalid, m.sub.ID, end.Format(time.DateOnly))
		}
		if o.CouponID != "" {
			return nil, false, fmt.Errorf("%w: a coupon can't wait for the end of the period", ErrInvalid)
		}
		req := ScheduleRequest{Items: m.lines(), Metadata: s.catalog.marks(m.plan, m.version), At: m.sub.Period.To}
		done := m.sub.Scheduled != nil && m.sub.Scheduled.At.Equal(req.At) && m.sub.Scheduled.Plan == m.plan && sameLines(m.sub.Scheduled.Items, req.Items)
		return scheduleIntent{SubscriptionID: m.sub.ID, Request: req}, done, nil
	})
	if err != nil || done {
		sub, readErr := s.Subscription(ctx, account)
		return sub, errors.Join(err, readErr)
	}
	return out.subscription, nil
}

func sameLines(a, b []LineItem) bool {
	count := map[LineItem]int{}
	for _, l := range a {
		count[l]++
	}
	for _, l := range b {
		count[l]--
	}
	for _, n := range count {
		if n != 0 {
			return false
		}
	}
	return true
}

// KeepPlan withdraws a change that is scheduled for the end of the period.
// Without one it changes nothing.
func (s *Service) KeepPlan(ctx context.Context, account string) (Subscription, error) {
	out, done, err := s.act(ctx, account, opUnschedule, func(a *Account) (any, bool, error) {
		sub, ok := a.Current()
		if !ok || !sub.Status.Live() {
			return nil, false, fmt.Errorf("%w: %s", ErrNoSubscription, account)
		}
		return unscheduleIntent{SubscriptionID: sub.ID, ScheduleID: scheduleOf(&sub)}, sub.Scheduled == nil, nil
	})
	if err != nil || done {
		sub, readErr := s.Subscription(ctx, account)
		return sub, errors.Join(err, readErr)
	}
	return out.subscription, nil
}

func scheduleOf(s *Subscription) string {
	if s.Scheduled == nil {
		return ""
	}
	return s.Scheduled.ID
}

// scheduleIntent and unscheduleIntent are the stored requests.
type (
	scheduleIntent struct {
		SubscriptionID string
		Request        ScheduleRequest
	}
	unscheduleIntent struct {
		SubscriptionID string
		ScheduleID     string
	}
)

// executeSchedule makes the call of an intent.
func (s *Service) executeSchedule(ctx context.Context, it Intent) (Subscription, error) {
	g, err := s.scheduler()
	if err != nil {
		return Subscription{}, err
	}
	if it.Op == opUnschedule {
		var r unscheduleIntent
		if err := json.Unmarshal(it.Request, &r); err != nil {
			return Subscription{}, err
		}
		return g.Unschedule(ctx, r.SubscriptionID, it.Key)
	}
	var r scheduleIntent
	if err := json.Unmarshal(it.Request, &r); err != nil {
		return Subscription{}, err
	}
	return g.Schedule(ctx, r.SubscriptionID, r.Request, it.Key)
}
