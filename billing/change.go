package billing

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Preview is what a change of plan would cost.
type Preview struct {
	SubscriptionID string  `json:"subscription_id"`
	Plan           string  `json:"plan"`      // after the change
	Due            Money   `json:"due"`       // now; negative is a credit for the next invoice
	Invoice        Invoice `json:"invoice"`   // with its lines
	Confirm        Confirm `json:"confirm"`   // for ChangePlan
	Downgrade      bool    `json:"downgrade"` // to a plan that allows less
}

// Confirm binds a change to what was shown: the amount, and the instant from
// which it was prorated. It isn't secret.
type Confirm struct {
	Due Money     `json:"due"`
	At  time.Time `json:"at"`
}

// confirmFor is how long a preview can be confirmed.
const confirmFor = time.Hour

// ErrAmountChanged says that a change would cost something else than its
// preview said: show a new preview.
var ErrAmountChanged = errors.New("billing: the amount has changed since the preview")

// Preview says what ChangePlan would cost now, without any effect.
func (s *Service) Preview(ctx context.Context, account string, o Order) (Preview, error) {
	return s.preview(ctx, account, &o, s.now().Truncate(time.Second))
}

func (s *Service) preview(ctx context.Context, account string, o *Order, at time.Time) (Preview, error) {
	_, price, err := s.price(ctx, o)
	if err != nil {
		return Preview{}, err
	}
	a, err := s.Account(ctx, account)
	if err != nil {
		return Preview{}, err
	}
	sub, req, err := s.changeRequest(&a, o, price.ID, at)
	if err != nil {
		return Preview{}, err
	}
	call, cancel := s.call(ctx)
	defer cancel()
	inv, err := s.gateway.PreviewUpdate(call, a.CustomerID, sub.ID, req)
	if err != nil {
		return Preview{}, err
	}
	due := Money{inv.AmountDue, inv.Currency}
	from, _ := s.catalog.planOf(&sub)
	return Preview{
		SubscriptionID: sub.ID, Plan: o.Plan, Due: due, Invoice: inv, Confirm: Confirm{Due: due, At: at},
		Downgrade: s.catalog.byID[o.Plan] < from,
	}, nil
}

// changeRequest is the update that puts the subscription on the order's price:
// the item of the plan changes, other items stay.
func (s *Service) changeRequest(a *Account, o *Order, price string, at time.Time) (Subscription, UpdateRequest, error) {
	sub, err := a.changeable()
	if err != nil {
		return sub, UpdateRequest{}, err
	}
	n, err := s.quantity(o)
	if err != nil {
		return sub, UpdateRequest{}, err
	}
	_, item := s.catalog.planOf(&sub)
	if item < 0 {
		if len(sub.Items) != 1 {
			return sub, UpdateRequest{}, fmt.Errorf("%w: no item of subscription %s is a plan of the catalogue", ErrUnknownPlan, sub.ID)
		}
		item = 0
	}
	it := sub.Items[item]
	if it.Price.ID == price && it.Quantity == n {
		return sub, UpdateRequest{}, fmt.Errorf("%w %q", errOnPlan, o.Plan)
	}
	return sub, UpdateRequest{
		Items:     []UpdateItem{{ID: it.ID, PriceID: price, Quantity: &n}},
		Proration: "always_invoice", ProrationDate: at, IfUnpaid: "error_if_incomplete",
		CouponID: o.CouponID, Metadata: map[string]string{MetadataPlan: o.Plan},
	}, nil
}

// changeable returns the subscription that changes apply to: a live one that
// is paid for.
func (a *Account) changeable() (Subscription, error) {
	sub, ok := a.Current()
	if !ok || !sub.Status.Live() {
		return sub, fmt.Errorf("%w: %s", ErrNoSubscription, a.ID)
	}
	switch sub.Status {
	case StatusIncomplete, StatusPastDue, StatusUnpaid:
		return sub, fmt.Errorf("%w: subscription %s is %s: its invoice is to be paid first", ErrInvalid, sub.ID, sub.Status)
	case StatusPaused:
		return sub, fmt.Errorf("%w: subscription %s is paused for want of a payment method: order a new one", ErrInvalid, sub.ID)
	}
	return sub, nil
}

// ChangePlan puts the subscription on another plan, price or number of seats
// at once, and settles the difference now. With a Confirm it is refused with
// ErrAmountChanged if it would cost something else than the preview said. A
// payment that is refused is ErrDeclined, and nothing has changed.
func (s *Service) ChangePlan(ctx context.Context, account string, o Order, confirm *Confirm) (Subscription, error) {
	var at time.Time // unset: now, and the same request for all who ask at once
	if confirm != nil {
		if age := s.now().Sub(confirm.At); age < -time.Minute || age > confirmFor {
			return Subscription{}, fmt.Errorf("%w: it is %v old", ErrAmountChanged, age)
		}
		at = confirm.At
		now, err := s.preview(ctx, account, &o, at)
		if errors.Is(err, errOnPlan) {
			return s.Subscription(ctx, account)
		}
		if err != nil {
			return Subscription{}, err
		}
		if now.Due != confirm.Due {
			return Subscription{}, fmt.Errorf("%w: it was %s and is %s", ErrAmountChanged, confirm.Due, now.Due)
		}
	}
	_, price, err := s.price(ctx, &o)
	if err != nil {
		return Subscription{}, err
	}
	sub, err := s.update(ctx, account, func(a *Account) (string, UpdateRequest, error) {
		sub, req, err := s.changeRequest(a, &o, price.ID, at)
		return sub.ID, req, err
	})
	if errors.Is(err, errOnPlan) {
		return s.Subscription(ctx, account) // whoever asked at the same time was first
	}
	return sub, err
}

var errOnPlan = fmt.Errorf("%w: the subscription is already on plan", ErrInvalid)

// update changes the subscription by an intent and returns it as it is then.
func (s *Service) update(ctx context.Context, account string, decide func(a *Account) (string, UpdateRequest, error)) (Subscription, error) {
	out, _, err := s.act(ctx, account, opUpdate, func(a *Account) (any, bool, error) {
		id, req, err := decide(a)
		return updateIntent{SubscriptionID: id, Request: req}, false, err
	})
	return out.subscription, err
}

// CancelOptions say how a subscription ends.
type CancelOptions struct {
	// Now ends it at once; otherwise it ends with its period.
	Now bool
	// Prorate credits the rest of the period, with Now.
	Prorate bool
	// Reason is the customer's, in the gateway's words: "too_expensive".
	Reason string
}

// Cancel ends the subscription: with its period, or now. Asked for again, it
// changes nothing. A subscription that is past due always ends now: nobody is
// charged after saying goodbye.
func (s *Service) Cancel(ctx context.Context, account string, o CancelOptions) (Subscription, error) {
	a, err := s.Account(ctx, account)
	if err != nil {
		return Subscription{}, err
	}
	sub, ok := a.Current()
	if !ok || !sub.Status.Live() {
		return sub, fmt.Errorf("%w: %s", ErrNoSubscription, account)
	}
	switch sub.Status {
	case StatusActive, StatusTrialing:
	default:
		o.Now = true
	}
	if o.Now {
		if err := s.end(ctx, account, sub.ID, CancelRequest{Prorate: o.Prorate, InvoiceNow: o.Prorate, Reason: o.Reason}); err != nil {
			return sub, err
		}
		return s.Subscription(ctx, account)
	}
	if !sub.endsAt().IsZero() {
		return sub, nil
	}
	yes := true
	return s.update(ctx, account, func(*Account) (string, UpdateRequest, error) {
		return sub.ID, UpdateRequest{CancelAtPeriodEnd: &yes, CancelReason: o.Reason}, nil
	})
}

// end cancels one subscription at once; one that has ended is fine.
func (s *Service) end(ctx context.Context, account, id string, req CancelRequest) error {
	_, _, err := s.act(ctx, account, opCancel, func(a *Account) (any, bool, error) {
		sub := a.subscription(id)
		done := sub != nil && sub.Status.Terminal()
		return cancelIntent{SubscriptionID: id, Request: req}, done, nil
	})
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrInvalid) {
		// It may have ended by itself.
		a, syncErr := s.Sync(ctx, account)
		if sub := a.subscription(id); syncErr == nil && (sub == nil || sub.Status.Terminal()) {
			return nil
		}
	}
	return err
}

// Resume withdraws a scheduled end. Without one it changes nothing; a
// subscription that has ended is ErrNoSubscription.
func (s *Service) Resume(ctx context.Context, account string) (Subscription, error) {
	a, err := s.Account(ctx, account)
	if err != nil {
		return Subscription{}, err
	}
	sub, ok := a.Current()
	if !ok || !sub.Status.Live() {
		return sub, fmt.Errorf("%w: %s", ErrNoSubscription, account)
	}
	end := sub.endsAt()
	if end.IsZero() {
		return sub, nil
	}
	if !s.now().Before(end) {
		return sub, fmt.Errorf("%w: it has ended", ErrNoSubscription)
	}
	no := false
	return s.update(ctx, account, func(*Account) (string, UpdateRequest, error) {
		return sub.ID, UpdateRequest{CancelAtPeriodEnd: &no}, nil
	})
}
