package revenue

import (
	"slices"
	"time"

	"github.com/kolekt/commerce/billing"
)

// Change is a subscription as it has been since an instant, until its next
// change. An append-only list of changes is all that revenue is computed from:
// it holds what happened and no metric, so that metrics of another convention,
// or as of another day, come from the same list.
type Change struct {
	At           time.Time            `json:"at"`
	Account      string               `json:"account"` // the subscription's own, or its customer, if empty
	Subscription billing.Subscription `json:"subscription"`
}

// Payment is money that came in.
type Payment struct {
	At             time.Time     `json:"at"`
	Account        string        `json:"account"`
	SubscriptionID string        `json:"subscription_id"`
	InvoiceID      string        `json:"invoice_id"`
	Amount         billing.Money `json:"amount"` // less what was refunded
}

// PaymentOf returns the payment of an invoice; false if nothing was paid with
// it, as with those of trials, which are "paid" without any money.
func PaymentOf(account string, inv billing.Invoice) (Payment, bool) {
	if inv.Status != billing.InvoicePaid || inv.AmountPaid <= 0 {
		return Payment{}, false
	}
	at := inv.PaidAt
	if at.IsZero() {
		at = inv.Created
	}
	return Payment{at, account, inv.SubscriptionID, inv.ID, billing.Money{Amount: inv.AmountPaid - inv.AmountRefunded, Currency: inv.Currency}}, true
}

// Reconstruct returns the changes that a subscription has certainly been
// through, from the times that it carries: for whoever begins with
// subscriptions and no list of changes. Prices and quantities are taken to have
// always been what they are, a pause in collection to have always been there,
// and an unpaid renewal to be unpaid since the period began.
func Reconstruct(account string, s billing.Subscription) []Change {
	var changes []Change
	add := func(at time.Time, status billing.Status, pending bool) {
		then := s
		then.Status = status
		if status != billing.StatusCanceled {
			then.EndedAt, then.CancelReason = time.Time{}, ""
		}
		if !pending {
			then.CancelAtPeriodEnd, then.CancelAt, then.CanceledAt = false, time.Time{}, time.Time{}
		}
		changes = append(changes, Change{at, account, then})
	}
	start := first(s.StartDate, s.Created, s.Period.From)
	if s.Status == billing.StatusIncomplete || s.Status == billing.StatusIncompleteExpired {
		add(start, s.Status, true)
		return changes
	}
	trial := !s.TrialEnd.IsZero() && s.TrialEnd.After(start)
	ended := s.Status == billing.StatusCanceled
	end := first(s.EndedAt, s.CanceledAt)
	live := billing.StatusActive
	if trial {
		live = billing.StatusTrialing
	}
	add(start, live, false)
	if trial && s.Status != billing.StatusTrialing && (!ended || s.TrialEnd.Before(end)) {
		add(s.TrialEnd, billing.StatusActive, false)
	}
	asked := s.CanceledAt
	if !asked.IsZero() && asked.After(start) && (!ended || asked.Before(end)) {
		during := billing.StatusActive
		if trial && asked.Before(s.TrialEnd) {
			during = billing.StatusTrialing
		}
		add(asked, during, true)
	}
	switch s.Status {
	case billing.StatusActive, billing.StatusTrialing:
	case billing.StatusCanceled:
		add(end, s.Status, true)
	default:
		add(first(latest(s.Period.From, start), start), s.Status, !asked.IsZero())
	}
	slices.SortStableFunc(changes, func(a, b Change) int { return a.At.Compare(b.At) })
	// A request to end made during a trial is pending after it as well.
	for i := range changes {
		if c := &changes[i]; !asked.IsZero() && !c.At.Before(asked) && c.Subscription.CanceledAt.IsZero() {
			c.Subscription.CancelAtPeriodEnd, c.Subscription.CancelAt, c.Subscription.CanceledAt = s.CancelAtPeriodEnd, s.CancelAt, s.CanceledAt
		}
	}
	return changes
}

// first returns the first time that is set.
func first(times ...time.Time) time.Time {
	for _, t := range times {
		if !t.IsZero() {
			return t
		}
	}
	return time.Time{}
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
