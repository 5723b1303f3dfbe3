package referral

import (
	"context"
	"errors"
)

// Biller is what this package asks of billing. Every call has an ID and is
// idempotent by it for good, not just as long as the payment provider keeps
// idempotency keys: an implementation looks for the ID in the provider's
// metadata, or makes objects with IDs of their own, before it acts. Amounts
// are minor units of currency, an ISO 4217 code in upper case.
type Biller interface {
	// Coupon makes a coupon for one checkout: percent off the first months
	// months, or, when percent is 0, amount off once. It returns the coupon's
	// ID.
	Coupon(ctx context.Context, call string, percent, months, amount int64, currency string) (coupon string, err error)
	// DiscountInvoice takes one month's price of the account's plan, less what
	// is to be recovered, off a draft renewal invoice, and no more than the
	// invoice's amount. It returns the month's value and what was taken off.
	// An invoice that is no longer a draft is ErrTooLate, and nothing happens.
	DiscountInvoice(ctx context.Context, call, account, invoice string, less int64) (ref string, value, taken int64, currency string, err error)
	// Credit adds to the account's balance, for its next invoices.
	Credit(ctx context.Context, call, account string, amount int64, currency string) (ref string, err error)
	// Debit takes back of the balance what of the amount isn't spent yet, and
	// returns how much that was. It never makes the account owe anything.
	Debit(ctx context.Context, call, account string, amount int64, currency string) (taken int64, err error)
}

// ErrTooLate says that an invoice can't be changed any more: the reward waits
// for the next one.
var ErrTooLate = errors.New("referral: invoice is final")

// Auditor is what a Biller offers in addition if it can tell what the provider
// has. Service.Reconcile needs it.
type Auditor interface {
	// Grants calls each for all that DiscountInvoice, Credit and Debit have
	// left at the provider for an account: with the ID of the call, which
	// stands in the provider's metadata, the provider's object, the invoice
	// ("" for the balance), and the amount: above zero what was given, below
	// what was taken back. The same call twice is told twice.
	Grants(ctx context.Context, account string, each func(call, ref, invoice string, amount int64, currency string) error) error
}
