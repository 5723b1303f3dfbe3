package billing

import (
	"fmt"
	"slices"
	"time"
)

// Kind is what a notice is about.
type Kind string

// The kinds of notices.
const (
	KindSubscriptionStarted   Kind = "subscription.started" // it gives access for the first time
	KindSubscriptionChanged   Kind = "subscription.changed" // prices or quantities became what they are; also once at the start
	KindSubscriptionEnding    Kind = "subscription.ending"  // its end was scheduled
	KindSubscriptionResumed   Kind = "subscription.resumed" // … and withdrawn
	KindSubscriptionPaused    Kind = "subscription.paused"  // by hand, or a trial ended without a payment method
	KindSubscriptionUnpaused  Kind = "subscription.unpaused"
	KindSubscriptionEnded     Kind = "subscription.ended"      // after it had started
	KindSubscriptionDuplicate Kind = "subscription.duplicate"  // a second one started beside a live one
	KindTrialEnding           Kind = "trial.ending"            // soon: see Config.TrialNotice
	KindTrialEnded            Kind = "trial.ended"             // paid for, or not
	KindTrialRefused          Kind = "trial.refused"           // its card had one under another account: see Config.TrialAgain
	KindInvoiceDrafted        Kind = "invoice.drafted"         // of a renewal: it can be changed for about an hour
	KindInvoicePaid           Kind = "invoice.paid"            // with money: not for an amount of zero
	KindPaymentFailed         Kind = "payment.failed"          // an attempt at a renewal
	KindPaymentActionRequired Kind = "payment.action_required" // the customer is to authenticate it
	KindPaymentMethodNeeded   Kind = "payment.method_needed"   // no retry with this one helps
	KindPaymentRecovered      Kind = "payment.recovered"       // paid after a failed attempt
	KindPaymentRefunded       Kind = "payment.refunded"        // for the first time, in whole or in part
	KindPaymentDisputed       Kind = "payment.disputed"
	KindAccessLimited         Kind = "access.limited"   // arrears took the plan away: see Policy
	KindAccessSuspended       Kind = "access.suspended" // … took everything away
	KindSeatsRefused          Kind = "seats.refused"    // the gateway refused the number: who waited for a seat has none
)

// Notice tells the application that something is so. Notices come at least
// once: the ID is derived from what it is about, so that duplicated,
// reordered, coalesced and lost events of the gateway lead to the same IDs.
// They may come late, and a later one first: a handler that sends mail looks
// at what is so now (Service.Access) before it does.
type Notice struct {
	ID             string `json:"id"` // "payment.failed:in_1:2"
	Kind           Kind   `json:"kind"`
	Account        string `json:"account"`
	CustomerID     string `json:"customer_id,omitempty"`
	SubscriptionID string `json:"subscription_id,omitempty"`
	InvoiceID      string `json:"invoice_id,omitempty"`
	ObjectID       string `json:"object_id,omitempty"` // a charge or a dispute
	Plan           string `json:"plan,omitempty"`      // of the subscription when the notice was made
	Amount         Money  `json:"amount,omitzero"`     // paid, due or refunded
	Attempt        int64  `json:"attempt,omitempty"`   // of a failed payment
	// Remedy is what helps after the decline that a notice about a payment is
	// about, and DeclineCode its public code: see PublicDeclineCode.
	Remedy      Remedy `json:"remedy,omitempty"`
	DeclineCode string `json:"decline_code,omitempty"`
	// OnPage says that the person was on a page for payment, where it could be
	// seen: no mail.
	OnPage bool      `json:"on_page,omitempty"`
	At     time.Time `json:"at"` // when it was found out
	// Since is when the subscription or the invoice was made. The first fetch
	// of an existing customer tells of the past too.
	Since time.Time `json:"since,omitzero"`
}

// noticesBetween returns what after says and before didn't.
func noticesBetween(c *Catalog, before, after *Account, now time.Time) []Notice {
	old := map[string]bool{}
	for _, n := range facts(before) {
		old[n.ID] = true
	}
	var fresh []Notice
	for _, n := range facts(after) {
		if old[n.ID] {
			continue
		}
		old[n.ID] = true
		n.Account, n.CustomerID, n.At = after.ID, after.CustomerID, now
		if s := after.subscription(n.SubscriptionID); s != nil {
			n.Plan, _ = c.PlanOf(*s)
			n.Since = s.Created
		}
		if inv := after.invoice(n.InvoiceID); inv != nil {
			n.Since = inv.Created
			switch n.Kind {
			case KindPaymentFailed, KindPaymentActionRequired, KindPaymentMethodNeeded:
				n.Remedy, n.DeclineCode = inv.remedy(), PublicDeclineCode(inv.DeclineCode)
				n.OnPage = now.Before(after.OnPage)
			}
		}
		fresh = append(fresh, n)
	}
	return fresh
}

// facts returns every notice that an account's contents imply. It is monotone:
// more events, or a later truth, never take one away (but for objects that are
// no longer kept at all).
func facts(a *Account) []Notice {
	var all []Notice
	for i := len(a.Subscriptions) - 1; i >= 0; i-- { // oldest first
		all = append(all, subscriptionFacts(a, &a.Subscriptions[i])...)
	}
	for i := len(a.Invoices) - 1; i >= 0; i-- {
		all = append(all, invoiceFacts(a, &a.Invoices[i])...)
	}
	marks := make([]string, 0, len(a.Marks))
	for id := range a.Marks {
		marks = append(marks, id)
	}
	slices.Sort(marks)
	for _, id := range marks {
		n := Notice{ID: id, Kind: a.Marks[id].Kind}
		switch m := a.Marks[id]; m.Kind {
		case KindTrialEnding, KindTrialRefused:
			n.SubscriptionID = m.Subject
		case KindSeatsRefused:
		case KindPaymentActionRequired, KindPaymentMethodNeeded, KindAccessLimited, KindAccessSuspended:
			n.InvoiceID = m.Subject
		case KindPaymentFailed:
			continue // with its invoice
		default:
			n.ObjectID = m.Subject
		}
		all = append(all, n)
	}
	return all
}

func subscriptionFacts(a *Account, s *Subscription) []Notice {
	// The gateway's last word stands behind all that its events told.
	t := append(slices.Clone(a.Trails[s.ID]), observe("", time.Time{}, s))
	if !a.started(s, t) {
		return nil
	}
	tell := func(k Kind, tail string) Notice {
		return Notice{ID: string(k) + ":" + s.ID + tail, Kind: k, SubscriptionID: s.ID}
	}
	all := []Notice{tell(KindSubscriptionStarted, "")}
	for i := range a.Subscriptions {
		older := &a.Subscriptions[i]
		if older.ID != s.ID && beganBefore(older, s) && (older.EndedAt.IsZero() && older.Status.Live() || older.EndedAt.After(s.Created)) &&
			a.started(older, append(slices.Clone(a.Trails[older.ID]), observe("", time.Time{}, older))) {
			all = append(all, tell(KindSubscriptionDuplicate, ""))
			break
		}
	}
	count := map[string]int{}
	for _, items := range runs(t, func(o Observation) (string, bool) {
		return o.Items, o.Status != StatusIncomplete && o.Status != StatusIncompleteExpired
	}) {
		count[items]++
		all = append(all, tell(KindSubscriptionChanged, fmt.Sprintf(":%s:%d", items, count[items])))
	}
	ending, resumed := 0, 0
	for _, on := range runs(t, func(o Observation) (bool, bool) { return o.Ending, !o.Status.Terminal() }) {
		switch {
		case on:
			ending++
			all = append(all, tell(KindSubscriptionEnding, fmt.Sprintf(":%d", ending)))
		case ending > 0:
			resumed++
			all = append(all, tell(KindSubscriptionResumed, fmt.Sprintf(":%d", resumed)))
		}
	}
	paused, unpaused := 0, 0
	for _, on := range runs(t, func(o Observation) (bool, bool) { return o.Paused, !o.Status.Terminal() }) {
		switch {
		case on:
			paused++
			all = append(all, tell(KindSubscriptionPaused, fmt.Sprintf(":%d", paused)))
		case paused > 0:
			unpaused++
			all = append(all, tell(KindSubscriptionUnpaused, fmt.Sprintf(":%d", unpaused)))
		}
	}
	if !s.TrialStart.IsZero() && s.Status.lifecycle() > StatusTrialing.lifecycle() {
		all = append(all, tell(KindTrialEnded, ""))
	}
	if slices.ContainsFunc(t, func(o Observation) bool { return o.Status == StatusCanceled }) {
		all = append(all, tell(KindSubscriptionEnded, ""))
	}
	return all
}

// started reports whether a subscription ever gave access: by what was seen of
// it, by its trial, or by money that was paid for it.
func (a *Account) started(s *Subscription, t Trail) bool {
	if t.granted() || !s.TrialStart.IsZero() {
		return true
	}
	return slices.ContainsFunc(a.Invoices, func(inv Invoice) bool {
		return inv.SubscriptionID == s.ID && inv.Status == InvoicePaid && inv.AmountPaid > 0
	})
}

func beganBefore(s, t *Subscription) bool {
	if c := s.Created.Compare(t.Created); c != 0 {
		return c < 0
	}
	return s.ID < t.ID
}

func invoiceFacts(a *Account, inv *Invoice) []Notice {
	var all []Notice
	tell := func(k Kind, tail string, amount int64) *Notice {
		all = append(all, Notice{
			ID: string(k) + ":" + inv.ID + tail, Kind: k,
			InvoiceID: inv.ID, SubscriptionID: inv.SubscriptionID, Amount: Money{amount, inv.Currency},
		})
		return &all[len(all)-1]
	}
	paid := inv.Status == InvoicePaid && inv.AmountPaid > 0
	if inv.BillingReason == "subscription_cycle" {
		// Every renewal was a draft once, also one that was seen too late.
		tell(KindInvoiceDrafted, "", inv.AmountDue)
	}
	if inv.BillingReason != "subscription_create" { // there, the person is on the payment page
		failed := map[int64]bool{}
		for _, m := range a.Marks {
			if m.Kind == KindPaymentFailed && m.Subject == inv.ID {
				failed[m.Attempt] = true
			}
		}
		// A retry says that the attempts before it failed. Whether the last one
		// did, only its event says: it may be under way.
		for n := int64(1); n < inv.AttemptCount; n++ {
			failed[n] = true
		}
		attempts := make([]int64, 0, len(failed))
		for n := range failed {
			attempts = append(attempts, n)
		}
		slices.Sort(attempts)
		for _, n := range attempts {
			tell(KindPaymentFailed, fmt.Sprintf(":%d", n), inv.AmountDue).Attempt = n
		}
		if paid && len(failed) > 0 {
			tell(KindPaymentRecovered, "", inv.AmountPaid)
		}
	}
	if paid {
		tell(KindInvoicePaid, "", inv.AmountPaid)
	}
	if inv.AmountRefunded > 0 {
		tell(KindPaymentRefunded, "", inv.AmountRefunded)
	}
	return all
}
