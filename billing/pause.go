package billing

import (
	"context"
	"fmt"
	"time"
)

// Unpauser is what a Gateway offers in addition if it can take up a
// subscription that was paused because its trial ended without a payment
// method.
type Unpauser interface {
	// UnpauseSubscription begins a period now and charges it.
	UnpauseSubscription(ctx context.Context, id, key string) (Subscription, error)
}

// MetadataPaidUntil is the metadata name under which a paused subscription
// carries the end of what was paid before the pause, in RFC 3339.
const MetadataPaidUntil = "commerce_paid_until"

// The behaviours of a pause: what becomes of invoices while it lasts.
const (
	PauseVoid          = "void"               // there are none to pay
	PauseKeepDrafts    = "keep_as_draft"      // they are collected afterwards
	PauseUncollectible = "mark_uncollectible" // they are written off
)

// PauseOptions say how a subscription is paused.
type PauseOptions struct {
	// Until is when the gateway goes on by itself, with the next period; zero:
	// with Unpause.
	Until time.Time
	// Behavior is one of the Pause constants; empty means PauseVoid.
	Behavior string
}

// Pause stops charging a subscription. The plan stays until the end of what
// was paid, then the account has the catalogue's default plan until Unpause.
// Asked for again, it changes the date alone.
func (s *Service) Pause(ctx context.Context, account string, o PauseOptions) (Subscription, error) {
	behavior := o.Behavior
	if behavior == "" {
		behavior = PauseVoid
	}
	switch behavior {
	case PauseVoid, PauseKeepDrafts, PauseUncollectible:
	default:
		return Subscription{}, fmt.Errorf("%w: pause behaviour %q", ErrInvalid, behavior)
	}
	until := o.Until.UTC().Truncate(time.Second)
	if !o.Until.IsZero() && !until.After(s.now()) {
		return Subscription{}, fmt.Errorf("%w: a pause until %s, which is over", ErrInvalid, until.Format(time.RFC3339))
	}
	if o.Until.IsZero() {
		until = time.Time{}
	}
	var sub Subscription
	out, done, err := s.act(ctx, account, opUpdate, func(a *Account) (any, bool, error) {
		var err error
		if sub, err = a.changeable(); err != nil {
			return nil, false, err
		}
		if sub.PauseCollection == behavior && sub.PauseResumesAt.Equal(until) {
			return nil, true, nil
		}
		paid := sub.Metadata[MetadataPaidUntil]
		if sub.PauseCollection == "" || paid == "" {
			paid = sub.Period.To.Format(time.RFC3339)
		}
		return updateIntent{SubscriptionID: sub.ID, Request: UpdateRequest{
			PauseCollection: &behavior, PauseUntil: until, Metadata: map[string]string{MetadataPaidUntil: paid},
		}}, false, nil
	})
	if done {
		return sub, nil
	}
	return out.subscription, err
}

// Unpause takes a paused subscription up again. Within what was paid before
// the pause it goes on as if nothing had been. Later a period begins now and is
// charged: a payment that is refused is ErrDeclined, and nothing has changed.
// Where a trial had ended without a payment method, one is to be there first.
// Without a pause it changes nothing.
func (s *Service) Unpause(ctx context.Context, account string) (Subscription, error) {
	a, err := s.Account(ctx, account)
	if err != nil {
		return Subscription{}, err
	}
	sub, err := a.live()
	if err != nil {
		return sub, err
	}
	op, none := opUpdate, ""
	update := UpdateRequest{PauseCollection: &none, Metadata: map[string]string{MetadataPaidUntil: ""}}
	if paid := sub.paidUntil(); !paid.IsZero() && !s.now().Before(paid) && sub.PauseCollection == PauseVoid {
		update.AnchorNow, update.Proration = true, "none" // nobody has paid for the period that is running
	}
	var request any = updateIntent{SubscriptionID: sub.ID, Request: update}
	if sub.Status == StatusPaused {
		if a.method(sub.ID) == "" {
			return sub, fmt.Errorf("%w: subscription %s is paused for want of a payment method: bring one first (UsePaymentMethod, Portal)", ErrInvalid, sub.ID)
		}
		op, request = opUnpause, cancelIntent{SubscriptionID: sub.ID}
	}
	out, done, err := s.act(ctx, account, op, func(a *Account) (any, bool, error) {
		now := a.subscription(sub.ID)
		return request, now == nil || now.PauseCollection == "" && now.Status != StatusPaused, nil
	})
	if done {
		return s.Subscription(ctx, account)
	}
	return out.subscription, err
}

// paidUntil is the end of what was paid before a pause that is at work; zero
// without one, and for a pause that wasn't made here: then nobody said that
// the plan is to stop.
func (s *Subscription) paidUntil() time.Time {
	if s.PauseCollection == "" {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, s.Metadata[MetadataPaidUntil])
	if err != nil {
		return time.Time{}
	}
	return t.UTC()
}
