package billing

import (
	"fmt"
	"slices"
	"time"
)

// applyState makes the account what the gateway says. The gateway was asked
// at an instant after the account was read, so that whoever writes on top of
// the version it read writes nothing older than what it overwrites.
func (a *Account) applyState(st State, at time.Time) {
	a.Subscriptions = slices.Clone(st.Subscriptions)
	sortSubscriptions(a.Subscriptions)
	a.Invoices = trimInvoices(slices.Clone(st.Invoices))
	a.Balance, a.Deleted = st.Customer.Balance, st.Customer.Deleted
	if pm := st.Customer.DefaultPaymentMethod; pm != a.PaymentMethod {
		// Whoever brings another payment method wants what is open paid.
		a.Retry = !a.SyncedAt.IsZero() && pm != ""
		a.PaymentMethod = pm
	}
	a.SyncedAt, a.Provisional = at, false
	a.settle()
}

// note keeps what an event tells beyond the state: where the subscription
// stood at that time, and what no state shows.
func (a *Account) note(e *Event) {
	if s := e.Subscription; s != nil {
		a.see(e)
		if e.Type == "customer.subscription.trial_will_end" {
			a.mark(fmt.Sprintf("%s:%s:%d", KindTrialEnding, s.ID, s.TrialEnd.Unix()), Mark{At: e.Created, Subject: s.ID, Kind: KindTrialEnding})
		}
	}
	if inv := e.Invoice; inv != nil && inv.ID != "" && inv.BillingReason != "subscription_create" {
		switch e.Type {
		case "invoice.payment_failed":
			n := max(inv.AttemptCount, 1)
			a.mark(fmt.Sprintf("%s:%s:%d", KindPaymentFailed, inv.ID, n), Mark{At: e.Created, Subject: inv.ID, Kind: KindPaymentFailed, Attempt: n})
		case "invoice.payment_action_required":
			a.mark(fmt.Sprintf("%s:%s", KindPaymentActionRequired, inv.ID), Mark{At: e.Created, Subject: inv.ID, Kind: KindPaymentActionRequired})
		}
	}
	switch {
	case e.ObjectID == "":
	case e.Type == "charge.refunded":
		a.mark(fmt.Sprintf("%s:%s", KindPaymentRefunded, e.ObjectID), Mark{At: e.Created, Subject: e.ObjectID, Kind: KindPaymentRefunded})
	case e.Type == "charge.dispute.created":
		a.mark(fmt.Sprintf("%s:%s", KindPaymentDisputed, e.ObjectID), Mark{At: e.Created, Subject: e.ObjectID, Kind: KindPaymentDisputed})
	}
}

// see puts the event's observation into the trail of its subscription.
func (a *Account) see(e *Event) {
	if a.Trails == nil {
		a.Trails = map[string]Trail{}
	}
	a.Trails[e.Subscription.ID], _ = a.Trails[e.Subscription.ID].with(observe(e.ID, e.Created, e.Subscription))
}

func (a *Account) mark(id string, m Mark) {
	if a.Marks == nil {
		a.Marks = map[string]Mark{}
	}
	if old, ok := a.Marks[id]; !ok || m.At.Before(old.At) {
		a.Marks[id] = m
	}
}

// merge takes an event's snapshot over, for the time in which the gateway
// can't be asked. The result doesn't depend on the order of the events: of a
// subscription's snapshots the last one by (created, lifecycle rank, ID)
// wins, of an invoice's the one furthest on, and what has ended stays so.
func (a *Account) merge(e *Event) {
	a.Provisional = true
	switch {
	case e.Subscription != nil:
		a.mergeSubscription(e)
	case e.Invoice != nil && e.Invoice.ID != "":
		a.mergeInvoice(*e.Invoice)
	case e.Customer != nil && e.Type == "customer.deleted":
		a.Deleted = true
	case e.Customer != nil:
		a.Deleted = a.Deleted || e.Customer.Deleted
	}
	a.settle()
}

func (a *Account) mergeSubscription(e *Event) {
	s := *e.Subscription
	old := a.subscription(s.ID)
	if old == nil {
		a.Subscriptions = append(a.Subscriptions, s)
		sortSubscriptions(a.Subscriptions)
		return
	}
	if old.Status.Terminal() {
		return
	}
	trail := a.Trails[s.ID]
	last := len(trail) > 0 && trail[len(trail)-1].compare(observe(e.ID, e.Created, &s)) <= 0
	// A fetch saw all that had happened before it; created counts in seconds.
	fresh := !e.Created.Before(a.SyncedAt.Truncate(time.Second))
	if s.Status.Terminal() || last && fresh {
		if was := old.Scheduled; was != nil && s.Scheduled != nil && was.ID == s.Scheduled.ID && s.Scheduled.At.IsZero() {
			s.Scheduled = was.clone() // an event names the schedule and no more
		}
		*old = s
	}
}

func (a *Account) mergeInvoice(inv Invoice) {
	if old := a.invoice(inv.ID); old == nil {
		a.Invoices = append(a.Invoices, inv)
	} else if inv.progress().after(old.progress()) {
		*old = inv
	}
	a.Invoices = trimInvoices(a.Invoices)
}

// progress is how far an invoice has come: it never goes back.
type progress [4]int64

func (inv *Invoice) progress() progress {
	rank := int64(slices.Index([]InvoiceStatus{InvoiceDraft, InvoiceOpen, InvoiceUncollectible, InvoiceVoid, InvoicePaid}, inv.Status))
	return progress{rank, inv.AttemptCount, inv.AmountPaid, inv.AmountRefunded}
}

func (p progress) after(q progress) bool { return slices.Compare(p[:], q[:]) > 0 }

// settle drops what the new contents have made obsolete.
func (a *Account) settle() {
	if a.Erased {
		a.anonymize()
	}
	for _, s := range a.Subscriptions {
		if !s.TrialStart.IsZero() && (a.TrialUsed.IsZero() || s.TrialStart.Before(a.TrialUsed)) {
			a.TrialUsed = s.TrialStart
		}
	}
	if !a.waiting() {
		a.Unpaid = nil
	}
	a.Retry = a.Retry && len(a.renewalsUnpaid()) > 0
	if c := a.Checkout; c != nil {
		for _, s := range a.Subscriptions {
			if s.Status.Live() && !s.Status.waits() && !s.Created.Before(c.Created) {
				a.Checkout = nil // paid, or overtaken
				break
			}
		}
	}
}

func sortSubscriptions(subs []Subscription) {
	slices.SortStableFunc(subs, func(x, y Subscription) int {
		if c := y.Created.Compare(x.Created); c != 0 {
			return c
		}
		return compareIDs(y.ID, x.ID)
	})
}
