package billing

import (
	"encoding/json"
	"maps"
	"slices"
	"time"
)

// Account is all that is kept about an account, written as a whole: what the
// gateway last said about its customer, and what this package has under way.
type Account struct {
	ID         string `json:"-"`
	CustomerID string `json:"-"` // empty until there is one
	// Version counts the writes. 0 says that the account was never written.
	Version int64 `json:"-"`
	// SyncedAt is the instant before the last fetch from the gateway.
	SyncedAt time.Time `json:"-"`
	// DueAt is when the account wants attention again; zero: never.
	DueAt time.Time `json:"-"`

	Created       time.Time      `json:"created,omitzero"`
	Subscriptions []Subscription `json:"subscriptions,omitempty"` // newest first
	Invoices      []Invoice      `json:"invoices,omitempty"`      // newest first, the last MaxInvoices and all open ones
	Balance       Money          `json:"balance,omitzero"`        // negative: credit for the next invoice
	// Deleted says that the customer no longer exists at the gateway.
	Deleted bool `json:"deleted,omitempty"`
	// Erased says that the person behind the account was erased: only amounts
	// are kept.
	Erased bool `json:"erased,omitempty"`
	// Provisional says that snapshots of events were merged since SyncedAt,
	// because the gateway couldn't be asked.
	Provisional bool `json:"provisional,omitempty"`

	// Trails are what the gateway's events showed, by subscription.
	Trails map[string]Trail `json:"trails,omitempty"`
	// Marks are facts that only events tell, by the ID of their notice.
	Marks map[string]Mark `json:"marks,omitempty"`

	// Checkout is the session that the account may pay on, while it is open.
	Checkout *OpenCheckout `json:"checkout,omitempty"`
	// Intents are writes to the gateway that aren't known to be settled.
	Intents []Intent `json:"intents,omitempty"`
	// Unpaid is the intent that made the incomplete subscription: called again
	// it returns what the client needs to pay.
	Unpaid *Intent `json:"unpaid,omitempty"`
	// Sequence numbers the intents.
	Sequence int64 `json:"sequence,omitempty"`
	// TrialUsed is when the account began its one trial.
	TrialUsed time.Time `json:"trial_used,omitzero"`
	// TrialCards are the payment methods with which trials were checked for
	// Config.TrialCardKey, by subscription.
	TrialCards map[string]string `json:"trial_cards,omitempty"`
	// PaymentMethod is the gateway's ID of the customer's default one.
	PaymentMethod string `json:"payment_method,omitempty"`
	// Retry says that open invoices are to be charged to a new payment method.
	Retry bool `json:"retry,omitempty"`
	// OnPage is until when the person is taken to be on a page for payment.
	OnPage time.Time `json:"on_page,omitzero"`

	// Seats are the seats that are taken, in the order in which they were.
	Seats []Seat `json:"seats,omitempty"`
	// SeatOrder is the number of seats that is to be paid for soon.
	SeatOrder *SeatOrder `json:"seat_order,omitempty"`
	// Comp is a plan that the account has without paying for it.
	Comp *Comp `json:"comp,omitempty"`
	// Adjustments were made by hand, oldest first, the last MaxAdjustments.
	Adjustments []Adjustment `json:"adjustments,omitempty"`
}

// MaxInvoices is how many invoices of an account are kept beside the open
// ones; Service.Invoices asks the gateway for the rest.
const MaxInvoices = 24

// Mark is a fact that an event told.
type Mark struct {
	At      time.Time `json:"at"`
	Subject string    `json:"subject"` // the ID of the invoice, subscription or charge
	Kind    Kind      `json:"kind"`
	Attempt int64     `json:"attempt,omitempty"`
}

// OpenCheckout is a checkout session and what it sells.
type OpenCheckout struct {
	Checkout
	Plan  string `json:"plan"`
	Print string `json:"print"` // fingerprint of what was asked for
}

// Intent is a write to the gateway, stored before it is made.
type Intent struct {
	Op      string          `json:"op"`
	Key     string          `json:"key"` // idempotency key
	Request json.RawMessage `json:"request"`
	Print   string          `json:"print"` // fingerprint of the request
	Started time.Time       `json:"started"`
	Called  time.Time       `json:"called"` // when the last attempt began
	// Idle says that the last attempt is known to have had no effect.
	Idle bool `json:"idle,omitempty"`
}

// Current returns the live subscription, or the last one that ended. Of
// several live ones it is the newest one that is paid for, else the newest.
func (a *Account) Current() (Subscription, bool) {
	best := -1
	for i := range a.Subscriptions {
		if best < 0 || standing(a.Subscriptions[i].Status) > standing(a.Subscriptions[best].Status) {
			best = i
		}
	}
	if best < 0 {
		return Subscription{}, false
	}
	return a.Subscriptions[best], true
}

// Live returns the live subscriptions, newest first. Whoever has one of them
// gets no second one.
func (a *Account) Live() []Subscription {
	var live []Subscription
	for _, s := range a.Subscriptions {
		if s.Status.Live() {
			live = append(live, s)
		}
	}
	return live
}

// duplicates returns the live subscriptions beside the newest one that is paid
// for.
func (a *Account) duplicates() []string {
	var ids []string
	for _, s := range a.Subscriptions { // newest first
		if s.Status.Live() && !s.Status.waits() {
			ids = append(ids, s.ID)
		}
	}
	if len(ids) < 2 {
		return nil
	}
	return ids[1:]
}

// standing orders the statuses by how much they are worth.
func standing(s Status) int {
	switch s {
	case StatusActive, StatusTrialing:
		return 6
	case StatusPastDue:
		return 5
	case StatusUnpaid, StatusPaused:
		return 3
	case StatusIncomplete:
		return 2
	case StatusCanceled:
		return 1
	case StatusIncompleteExpired, "":
		return 0
	}
	return 4 // unknown
}

// waits reports whether a subscription with this status gives nothing and
// charges nothing until a payment method comes: another order replaces it.
func (s Status) waits() bool { return s == StatusIncomplete || s == StatusPaused }

// waiting reports whether a subscription waits for a payment method.
func (a *Account) waiting() bool {
	return slices.ContainsFunc(a.Subscriptions, func(s Subscription) bool { return s.Status.waits() })
}

func (a *Account) subscription(id string) *Subscription {
	for i := range a.Subscriptions {
		if a.Subscriptions[i].ID == id {
			return &a.Subscriptions[i]
		}
	}
	return nil
}

func (a *Account) invoice(id string) *Invoice {
	for i := range a.Invoices {
		if a.Invoices[i].ID == id {
			return &a.Invoices[i]
		}
	}
	return nil
}

// UnpaidInvoices returns the open invoices of a subscription that were due
// before now, oldest first: what dunning is about. The first invoice of a
// subscription isn't among them: until it is paid there is no subscription.
func (a *Account) UnpaidInvoices(subscription string) []Invoice {
	var unpaid []Invoice
	for _, inv := range a.Invoices {
		if inv.SubscriptionID == subscription && inv.AmountRemaining > 0 && inv.BillingReason != "subscription_create" &&
			(inv.Status == InvoiceOpen || inv.Status == InvoiceUncollectible) {
			unpaid = append(unpaid, inv)
		}
	}
	slices.SortStableFunc(unpaid, func(x, y Invoice) int { return x.Created.Compare(y.Created) })
	return unpaid
}

// trimInvoices keeps the newest MaxInvoices and the open ones.
func trimInvoices(invoices []Invoice) []Invoice {
	slices.SortStableFunc(invoices, func(x, y Invoice) int {
		if c := y.Created.Compare(x.Created); c != 0 {
			return c
		}
		return compareIDs(y.ID, x.ID)
	})
	kept := invoices[:0:0]
	for i, inv := range invoices {
		if i < MaxInvoices || inv.Status == InvoiceOpen {
			kept = append(kept, inv)
		}
	}
	return kept
}

func compareIDs(x, y string) int {
	switch {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}

// Clone returns a copy that shares nothing with a.
func (a Account) Clone() Account {
	a.Subscriptions = cloneEach(a.Subscriptions, func(s *Subscription) {
		s.Metadata, s.Discounts = maps.Clone(s.Metadata), slices.Clone(s.Discounts)
		s.Scheduled = s.Scheduled.clone()
		s.Items = cloneEach(s.Items, func(it *Item) { it.Price.Metadata = maps.Clone(it.Price.Metadata) })
	})
	a.Invoices = cloneEach(a.Invoices, func(inv *Invoice) {
		inv.ClientSecret = "" // never stored
		inv.Metadata, inv.Discounts, inv.Lines = maps.Clone(inv.Metadata), slices.Clone(inv.Discounts), slices.Clone(inv.Lines)
	})
	a.Intents = cloneEach(a.Intents, (*Intent).unshare)
	a.Trails, a.Marks, a.TrialCards = maps.Clone(a.Trails), maps.Clone(a.Marks), maps.Clone(a.TrialCards)
	a.Seats, a.Adjustments = slices.Clone(a.Seats), slices.Clone(a.Adjustments)
	if a.SeatOrder != nil {
		order := *a.SeatOrder
		a.SeatOrder = &order
	}
	if a.Comp != nil {
		comp := *a.Comp
		a.Comp = &comp
	}
	for id, t := range a.Trails {
		a.Trails[id] = slices.Clone(t)
	}
	if a.Checkout != nil {
		open := *a.Checkout
		open.Metadata = maps.Clone(open.Metadata)
		a.Checkout = &open
	}
	if a.Unpaid != nil {
		unpaid := *a.Unpaid
		unpaid.unshare()
		a.Unpaid = &unpaid
	}
	return a
}

func (it *Intent) unshare() { it.Request = slices.Clone(it.Request) }

func cloneEach[T any](s []T, unshare func(*T)) []T {
	s = slices.Clone(s)
	for i := range s {
		unshare(&s[i])
	}
	return s
}
