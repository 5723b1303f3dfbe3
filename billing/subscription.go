package billing

import (
	"time"
)

// Status is the state of a subscription, in the gateway's words. A status that
// this version doesn't know is kept as it came.
type Status string

// The statuses of Stripe's subscriptions.
const (
	StatusIncomplete        Status = "incomplete"         // the first payment is due within 23 hours
	StatusIncompleteExpired Status = "incomplete_expired" // it never came; terminal
	StatusTrialing          Status = "trialing"
	StatusActive            Status = "active"
	StatusPastDue           Status = "past_due" // a renewal is unpaid and retried
	StatusUnpaid            Status = "unpaid"   // the retries are used up
	StatusCanceled          Status = "canceled" // ended; terminal
	StatusPaused            Status = "paused"   // a trial ended without a payment method
)

// Terminal reports whether a subscription with this status never changes
// again.
func (s Status) Terminal() bool {
	return s == StatusCanceled || s == StatusIncompleteExpired
}

// Live reports whether a subscription with this status still can charge: an
// account has at most one of these.
func (s Status) Live() bool { return s != "" && !s.Terminal() }

// Period is a half-open range [From, To) in UTC.
type Period struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
}

// Contains reports whether t lies in [From, To).
func (p Period) Contains(t time.Time) bool { return !t.Before(p.From) && t.Before(p.To) }

// IsZero reports whether the period is not set.
func (p Period) IsZero() bool { return p.From.IsZero() && p.To.IsZero() }

// Interval is the length in which a price recurs.
type Interval string

// The intervals of recurring prices.
const (
	Day   Interval = "day"
	Week  Interval = "week"
	Month Interval = "month"
	Year  Interval = "year"
)

// Subscription is a subscription as the gateway last showed it, the same for
// every API version of the gateway. Times are UTC; a zero time means "not
// set".
type Subscription struct {
	ID         string            `json:"id"`
	CustomerID string            `json:"customer_id"`
	Account    string            `json:"account,omitempty"` // from the metadata; may be empty
	Status     Status            `json:"status"`
	Items      []Item            `json:"items"`
	Metadata   map[string]string `json:"metadata,omitempty"`
	Livemode   bool              `json:"livemode"`

	// Period spans the periods of all items: items of a flexible subscription
	// may have different ones.
	Period             Period    `json:"period"`
	BillingCycleAnchor time.Time `json:"billing_cycle_anchor,omitzero"`
	Created            time.Time `json:"created,omitzero"`
	StartDate          time.Time `json:"start_date,omitzero"`
	TrialStart         time.Time `json:"trial_start,omitzero"`
	TrialEnd           time.Time `json:"trial_end,omitzero"`
	CancelAtPeriodEnd  bool      `json:"cancel_at_period_end,omitempty"`
	CancelAt           time.Time `json:"cancel_at,omitzero"`
	CanceledAt         time.Time `json:"canceled_at,omitzero"` // when it was asked for
	EndedAt            time.Time `json:"ended_at,omitzero"`    // when it took effect
	CancelReason       string    `json:"cancel_reason,omitempty"`

	// PauseCollection is the behaviour ("keep_as_draft", "mark_uncollectible",
	// "void") while invoices aren't collected; the status stays what it was.
	PauseCollection string    `json:"pause_collection,omitempty"`
	PauseResumesAt  time.Time `json:"pause_resumes_at,omitzero"`

	// Scheduled is the change that the gateway makes when the period ends.
	Scheduled *Scheduled `json:"scheduled,omitempty"`

	LatestInvoiceID      string     `json:"latest_invoice_id,omitempty"`
	DefaultPaymentMethod string     `json:"default_payment_method,omitempty"`
	CollectionMethod     string     `json:"collection_method,omitempty"`
	Discounts            []Discount `json:"discounts,omitempty"`
}

// Item is one price of a subscription.
type Item struct {
	ID       string `json:"id"`
	Price    Price  `json:"price"`
	Quantity int64  `json:"quantity"` // 0 for metered prices
	Period   Period `json:"period"`
}

// Price is a price as the gateway has it.
type Price struct {
	ID        string `json:"id"`
	LookupKey string `json:"lookup_key,omitempty"`
	ProductID string `json:"product_id,omitempty"`
	// UnitAmount is for one unit and interval. It is rounded where the price
	// has fractions of a minor unit; UnitAmountDecimal has them all.
	UnitAmount        Money             `json:"unit_amount"`
	UnitAmountDecimal string            `json:"unit_amount_decimal,omitempty"`
	Interval          Interval          `json:"interval,omitempty"` // empty: a one-off price
	IntervalCount     int64             `json:"interval_count,omitempty"`
	Metered           bool              `json:"metered,omitempty"`
	MeterID           string            `json:"meter_id,omitempty"`
	Active            bool              `json:"active"`
	Metadata          map[string]string `json:"metadata,omitempty"`
}

// Discount is a coupon at work on a subscription, an invoice or a customer.
type Discount struct {
	ID            string    `json:"id"`
	CouponID      string    `json:"coupon_id,omitempty"`
	Reference     string    `json:"reference,omitempty"` // that of Coupon or DiscountRenewal
	PromotionCode string    `json:"promotion_code,omitempty"`
	PercentOff    string    `json:"percent_off,omitempty"` // decimal, "12.5"; empty for an amount
	AmountOff     Money     `json:"amount_off,omitzero"`
	Duration      string    `json:"duration,omitempty"` // once, repeating, forever
	Start         time.Time `json:"start,omitzero"`
	End           time.Time `json:"end,omitzero"`
}

// InvoiceStatus is the state of an invoice, in the gateway's words.
type InvoiceStatus string

// The statuses of Stripe's invoices.
const (
	InvoiceDraft         InvoiceStatus = "draft"
	InvoiceOpen          InvoiceStatus = "open"
	InvoicePaid          InvoiceStatus = "paid"
	InvoiceUncollectible InvoiceStatus = "uncollectible"
	InvoiceVoid          InvoiceStatus = "void"
)

// Invoice is an invoice as the gateway last showed it.
type Invoice struct {
	ID             string        `json:"id"`
	Number         string        `json:"number,omitempty"`
	CustomerID     string        `json:"customer_id"`
	SubscriptionID string        `json:"subscription_id,omitempty"`
	Status         InvoiceStatus `json:"status"`
	BillingReason  string        `json:"billing_reason,omitempty"` // subscription_create, subscription_cycle, …
	Currency       string        `json:"currency"`                 // upper case, of every amount below

	Subtotal        int64 `json:"subtotal"`
	Total           int64 `json:"total"`
	Tax             int64 `json:"tax"`
	AmountDue       int64 `json:"amount_due"`
	AmountPaid      int64 `json:"amount_paid"`
	AmountRemaining int64 `json:"amount_remaining"`
	StartingBalance int64 `json:"starting_balance"`
	EndingBalance   int64 `json:"ending_balance"`
	AmountRefunded  int64 `json:"amount_refunded,omitempty"` // by credit notes

	AttemptCount       int64     `json:"attempt_count"`
	NextPaymentAttempt time.Time `json:"next_payment_attempt,omitzero"`
	Created            time.Time `json:"created,omitzero"`
	FinalizedAt        time.Time `json:"finalized_at,omitzero"`
	PaidAt             time.Time `json:"paid_at,omitzero"`
	Period             Period    `json:"period"` // of the invoice itself, one period behind for renewals: see Lines

	HostedURL       string `json:"hosted_url,omitempty"`
	PDFURL          string `json:"pdf_url,omitempty"`
	PaymentIntentID string `json:"payment_intent_id,omitempty"`
	// DeclineCode, FailedMethod and ActionRequired tell of the last attempt at
	// an open invoice: why it was declined, with which payment method, or that
	// the customer is to authenticate it.
	DeclineCode    string `json:"decline_code,omitempty"`
	FailedMethod   string `json:"failed_method,omitempty"`
	ActionRequired bool   `json:"action_required,omitempty"`

	ChargeID     string            `json:"charge_id,omitempty"`
	ClientSecret string            `json:"-"` // for the one who pays; never stored
	Lines        []InvoiceLine     `json:"lines,omitempty"`
	Discounts    []Discount        `json:"discounts,omitempty"`
	Metadata     map[string]string `json:"metadata,omitempty"`
	Livemode     bool              `json:"livemode"`
}

// InvoiceLine is one line of an invoice.
type InvoiceLine struct {
	ID             string `json:"id"`
	Description    string `json:"description,omitempty"`
	Amount         int64  `json:"amount"` // before discounts and tax
	Quantity       int64  `json:"quantity"`
	PriceID        string `json:"price_id,omitempty"`
	SubscriptionID string `json:"subscription_id,omitempty"`
	ItemID         string `json:"item_id,omitempty"`
	Proration      bool   `json:"proration,omitempty"`
	Discount       int64  `json:"discount,omitempty"` // positive: what discounts took off
	Period         Period `json:"period"`
}

// Customer is the gateway's record of an account.
type Customer struct {
	ID       string            `json:"id"`
	Account  string            `json:"account,omitempty"` // from the metadata
	Email    string            `json:"email,omitempty"`
	Name     string            `json:"name,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
	Balance  Money             `json:"balance,omitzero"` // negative: credit for the next invoice
	Deleted  bool              `json:"deleted,omitempty"`
	Livemode bool              `json:"livemode"`
	Created  time.Time         `json:"created,omitzero"`

	DefaultPaymentMethod string `json:"default_payment_method,omitempty"`
}
