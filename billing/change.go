package billing

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"
)

// Preview is what a change would do and cost.
type Preview struct {
	SubscriptionID string     `json:"subscription_id"`
	Plan           string     `json:"plan"` // after the change
	Kind           ChangeKind `json:"kind"`
	When           When       `json:"when"`
	At             time.Time  `json:"at"`  // when it takes effect
	Due            Money      `json:"due"` // now; negative is a credit for the next invoice
	// Invoice is what is settled now, with its lines. For a change at the end
	// of the period it has what each period costs from then on, before
	// discounts, tax and metered use.
	Invoice   Invoice `json:"invoice"`
	Confirm   Confirm `json:"confirm"`   // for ChangePlan
	Downgrade bool    `json:"downgrade"` // to a plan that allows less
}

// Confirm binds a change to what was shown: the amount, the instant from which
// it was prorated, and when it takes effect. It isn't secret.
type Confirm struct {
	Due  Money     `json:"due"`
	At   time.Time `json:"at"`
	When When      `json:"when,omitempty"` // empty: Now
}

// confirmFor is how long a preview can be confirmed.
const confirmFor = time.Hour

// The kinds of a change's refusal.
var (
	// ErrAmountChanged says that a change would cost something else than its
	// preview said: show a new preview.
	ErrAmountChanged = errors.New("billing: the amount has changed since the preview")
	// ErrRefused says that a rule of the catalogue forbids the change.
	ErrRefused = errors.New("billing: the change is refused")
)

// AmountChangedError says what was shown and what is so now. It is
// ErrAmountChanged.
type AmountChangedError struct {
	Was, Now         Money
	WasWhen, NowWhen When
	Age              time.Duration // of the preview, when that is what is wrong
}

// Error says what has changed.
func (e *AmountChangedError) Error() string {
	switch {
	case e.Age != 0:
		return fmt.Sprintf("%s: it is %v old", ErrAmountChanged, e.Age)
	case e.WasWhen != e.NowWhen:
		return fmt.Sprintf("%s: it was to take effect %s and takes effect %s", ErrAmountChanged, e.WasWhen, e.NowWhen)
	}
	return fmt.Sprintf("%s: it was %s and is %s", ErrAmountChanged, e.Was, e.Now)
}

// Is makes it ErrAmountChanged.
func (e *AmountChangedError) Is(target error) bool { return target == ErrAmountChanged }

// RefusedError says which change a rule forbids. It is ErrRefused, and
// ErrInvalid.
type RefusedError struct {
	From, To string // plans
	Kind     ChangeKind
	Reason   string // the rule's
}

// Error gives the rule's reason.
func (e *RefusedError) Error() string {
	text := fmt.Sprintf("%s: %s from %q to %q", ErrRefused, e.Kind, e.From, e.To)
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	return text
}

// Is makes it ErrRefused and ErrInvalid.
func (e *RefusedError) Is(target error) bool { return target == ErrRefused || target == ErrInvalid }

// Preview says what ChangePlan would do and cost now, without any effect.
func (s *Service) Preview(ctx context.Context, account string, o Order) (Preview, error) {
	return s.preview(ctx, account, &o, s.now().Truncate(time.Second))
}

func (s *Service) preview(ctx context.Context, account string, o *Order, at time.Time) (Preview, error) {
	a, err := s.renewed(ctx, account)
	if err != nil {
		return Preview{}, err
	}
	m, err := s.move(ctx, &a, o)
	if err != nil {
		return Preview{}, err
	}
	p := Preview{
		SubscriptionID: m.sub.ID, Plan: m.plan, Kind: m.kind, When: m.rule.When, At: at,
		Downgrade: m.kind == Downgrade, Due: Money{0, m.currency},
	}
	if m.rule.When == PeriodEnd {
		p.At, p.Invoice = m.sub.Period.To, m.renewal()
	} else {
		call, cancel := s.call(ctx)
		defer cancel()
		if p.Invoice, err = s.gateway.PreviewUpdate(call, a.CustomerID, m.sub.ID, m.request(s, o, at)); err != nil {
			return Preview{}, err
		}
		p.Due = Money{p.Invoice.AmountDue, p.Invoice.Currency}
	}
	p.Confirm = Confirm{Due: p.Due, At: at, When: p.When}
	return p, nil
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

// ChangePlan puts the subscription on another plan, price, number of seats or
// add-ons: when, and how it is settled, is for the catalogue's rules to say
// (see ChangeRule). An order without a plan stays on the plan there is, and a
// subscriber of an older version or price keeps it unless Order.Current is
// set.
//
// A change of now is settled at once: a payment that is refused is ErrDeclined,
// and nothing has changed. One for the end of the period is scheduled at the
// gateway, which makes it whatever becomes of this process or its webhooks;
// until then it shows in Subscription.Scheduled, the next change replaces it,
// and KeepPlan, or a change to what there is, withdraws it.
//
// With a Confirm the change is refused with ErrAmountChanged if it would cost
// something else, or take effect at another time, than the preview said. One
// that a rule forbids is ErrRefused.
func (s *Service) ChangePlan(ctx context.Context, account string, o Order, confirm *Confirm) (Subscription, error) {
	var at time.Time // unset: now, and the same request for all who ask at once
	if confirm != nil {
		if age := s.now().Sub(confirm.At); age < -time.Minute || age > confirmFor {
			return Subscription{}, &AmountChangedError{Age: age}
		}
		at = confirm.At
		now, err := s.preview(ctx, account, &o, at)
		if errors.Is(err, errOnPlan) {
			return s.KeepPlan(ctx, account)
		}
		if err != nil {
			return Subscription{}, err
		}
		if was := cmp.Or(confirm.When, Now); now.Due != confirm.Due || now.When != was {
			return Subscription{}, &AmountChangedError{Was: confirm.Due, Now: now.Due, WasWhen: was, NowWhen: now.When}
		}
	}
	a, err := s.renewed(ctx, account)
	if err != nil {
		return Subscription{}, err
	}
	m, err := s.move(ctx, &a, &o)
	switch {
	case errors.Is(err, errOnPlan):
		return s.KeepPlan(ctx, account)
	case err != nil:
		return Subscription{}, err
	case m.rule.When == PeriodEnd:
		return s.schedule(ctx, account, &o)
	}
	sub, err := s.update(ctx, account, func(a *Account) (string, UpdateRequest, error) {
		m, err := s.move(ctx, a, &o)
		if err == nil && m.rule.When != Now {
			err = errBusy // what it changes is something else by now
		}
		if err != nil {
			return "", UpdateRequest{}, err
		}
		return m.sub.ID, m.request(s, &o, at), nil
	})
	if errors.Is(err, errOnPlan) {
		return s.Subscription(ctx, account) // whoever asked at the same time was first
	}
	return sub, err
}

// renewed is the account as it is to be changed. One whose period has ended
// since the gateway was last heard of is fetched first: what the change costs,
// and when it can take effect, hang on the period.
func (s *Service) renewed(ctx context.Context, account string) (Account, error) {
	a, err := s.Account(ctx, account)
	if err != nil {
		return a, err
	}
	if sub, ok := a.Current(); ok && sub.Status.Live() && !sub.Period.To.IsZero() && !s.now().Before(sub.Period.To) {
		return s.Sync(ctx, account)
	}
	return a, nil
}

var errOnPlan = fmt.Errorf("%w: the subscription is already on plan", ErrInvalid)

// update changes the subscription by an intent and returns it as it is then.
func (s *Service) update(ctx context.Context, account string, decide func(a *Account) (string, UpdateRequest, error)) (Subscription, error) {
	for range maxConflicts {
		out, _, err := s.act(ctx, account, opUpdate, func(a *Account) (any, bool, error) {
			id, req, err := decide(a)
			sub := a.subscription(id)
			if err == nil && sub != nil && sub.Scheduled != nil && (len(req.Items) > 0 || req.CancelAtPeriodEnd != nil) {
				err = errScheduled
			}
			return updateIntent{SubscriptionID: id, Request: req}, false, err
		})
		if !errors.Is(err, errScheduled) {
			return out.subscription, err
		}
		// What is to come would overtake this change, or forbid it.
		if _, err := s.KeepPlan(ctx, account); err != nil {
			return Subscription{}, err
		}
	}
	return Subscription{}, errBusy
}

var errScheduled = fmt.Errorf("%w: a change is scheduled", ErrConflict)

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
