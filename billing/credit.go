package billing

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// Creditor is what a Gateway offers in addition if it can take money off what
// an account is going to pay. Service.Coupon, DiscountRenewal, Credit and Debit
// need it.
type Creditor interface {
	// CreateCoupon makes a coupon with an ID of the caller's. One that exists
	// is left as it is, and no error: the ID makes the call idempotent for
	// good.
	CreateCoupon(ctx context.Context, req CouponRequest) error
	// Invoice fetches an invoice with its discounts.
	Invoice(ctx context.Context, id string) (Invoice, error)
	// SetDiscounts replaces the discounts of a draft invoice: those with an ID
	// stay, those with a coupon alone are added. An invoice that is no draft
	// is ErrInvalid.
	SetDiscounts(ctx context.Context, invoiceID string, discounts []Discount, key string) (Invoice, error)
	// AddBalance changes a customer's balance: a negative amount is credit
	// for the next invoices. The reference is stored with it.
	AddBalance(ctx context.Context, customerID string, amount Money, reference, key string) (BalanceEntry, error)
	// FindBalance returns the change of a customer's balance that was made
	// with this reference, or ErrNotFound: for a retry after the idempotency
	// key has expired.
	FindBalance(ctx context.Context, customerID, reference string) (BalanceEntry, error)
	// Customer fetches a customer with its balance as it is now.
	Customer(ctx context.Context, customerID string) (Customer, error)
}

// CouponRequest asks for a coupon. Either PercentOff or AmountOff is set.
type CouponRequest struct {
	ID         string // unique for good
	Reference  string // what caused it; stored with the coupon as MetadataReference
	Name       string // what the invoice says
	PercentOff int64
	AmountOff  Money
	// Months is how many months of a subscription a percentage lasts; 0 or 1
	// means once.
	Months         int64
	MaxRedemptions int64
}

// BalanceEntry is one change of a customer's balance.
type BalanceEntry struct {
	ID        string
	Amount    Money // negative: credit
	Reference string
}

// MetadataReference is the metadata name under which a change of a customer's
// balance carries what caused it.
const MetadataReference = "commerce_reference"

func (s *Service) creditor() (Creditor, error) {
	c, ok := s.gateway.(Creditor)
	if !ok {
		return nil, fmt.Errorf("%w: it implements no Creditor", ErrUnsupported)
	}
	return c, nil
}

// couponID makes an ID of the gateway's alphabet of any text, the same one
// again for the same text.
func couponID(reference string) string { return "commerce_" + fingerprint(reference) }

// fingerprint is a short name of a text of any length, the same one again for
// the same text.
func fingerprint(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:16])
}

// Coupon makes a coupon that works once, for a checkout: a percentage of the
// first months, or, when percent is 0, an amount. The same reference gets the
// same coupon, however often and however late it is asked for.
func (s *Service) Coupon(ctx context.Context, reference, name string, percent, months int64, amount Money) (coupon string, err error) {
	c, err := s.creditor()
	if err != nil {
		return "", err
	}
	if reference == "" || percent < 0 || percent > 100 || (percent > 0) == (amount.Amount > 0) {
		return "", fmt.Errorf("%w: a coupon needs a reference, and either a percentage or an amount", ErrInvalid)
	}
	if amount.Amount > 0 {
		if err := amount.Validate(); err != nil {
			return "", fmt.Errorf("%w: %w", ErrInvalid, err)
		}
	}
	ctx, cancel := s.call(ctx)
	defer cancel()
	req := CouponRequest{ID: couponID(reference), Reference: reference, Name: name, PercentOff: percent, AmountOff: amount, Months: months, MaxRedemptions: 1}
	return req.ID, c.CreateCoupon(ctx, req)
}

// Renewal is what DiscountRenewal did.
type Renewal struct {
	Coupon string
	Value  Money // of a month, and no more than the invoice asks for
	Taken  Money // off the invoice: the value, less what was to be recovered
}

// DiscountRenewal takes one month off a draft renewal invoice: the price of the
// account's subscription for a month, a twelfth of a yearly one, less an amount
// that is to be recovered first. Other discounts stay, and what they take off
// is not given twice. The same reference has one effect for good: its coupon
// works once, and an invoice that has it already is found so. An invoice that
// isn't a draft any more is ErrInvalid.
func (s *Service) DiscountRenewal(ctx context.Context, reference, name, account, invoiceID string, less int64) (Renewal, error) {
	c, err := s.creditor()
	if err != nil {
		return Renewal{}, err
	}
	a, err := s.Account(ctx, account)
	if err != nil {
		return Renewal{}, err
	}
	ctx, cancel := s.call(ctx)
	defer cancel()
	inv, err := c.Invoice(ctx, invoiceID)
	if err != nil {
		return Renewal{}, err
	}
	if inv.CustomerID != a.CustomerID {
		return Renewal{}, fmt.Errorf("%w: invoice %s isn't of account %s", ErrInvalid, invoiceID, account)
	}
	sub := a.subscription(inv.SubscriptionID)
	if sub == nil {
		return Renewal{}, fmt.Errorf("%w: invoice %s is of no subscription of the account", ErrInvalid, invoiceID)
	}
	month, err := sub.Monthly()
	if err != nil {
		return Renewal{}, err
	}
	coupon := couponID(reference)
	if i := slices.IndexFunc(inv.Discounts, func(d Discount) bool { return d.CouponID == coupon }); i >= 0 {
		// Done before, and the answer was lost.
		taken := inv.Discounts[i].AmountOff
		return Renewal{Coupon: coupon, Value: Money{min(taken.Amount+max(less, 0), month.Amount), month.Currency}, Taken: taken}, nil
	}
	if inv.Status != InvoiceDraft {
		return Renewal{}, fmt.Errorf("%w: invoice %s is %s, no draft", ErrInvalid, invoiceID, inv.Status)
	}
	value := Money{min(month.Amount, max(inv.Total, 0)), month.Currency}
	taken := Money{max(value.Amount-max(less, 0), 0), month.Currency}
	if taken.Amount == 0 {
		return Renewal{Coupon: coupon, Value: value, Taken: taken}, nil
	}
	if err := c.CreateCoupon(ctx, CouponRequest{ID: coupon, Reference: reference, Name: name, AmountOff: taken, MaxRedemptions: 1}); err != nil {
		return Renewal{}, err
	}
	_, err = c.SetDiscounts(ctx, invoiceID, append(slices.Clone(inv.Discounts), Discount{CouponID: coupon}), KeyPrefix+"discount:"+fingerprint(reference+"\x00"+invoiceID))
	if err != nil {
		return Renewal{}, err
	}
	return Renewal{Coupon: coupon, Value: value, Taken: taken}, nil
}

// Monthly returns what the subscription's licensed items cost for a month: a
// twelfth of a yearly price, 52 twelfths of a weekly one. Metered items cost
// what is used, and count for nothing here.
func (s *Subscription) Monthly() (Money, error) {
	var sum Money
	for _, it := range s.Items {
		if it.Price.Metered || it.Price.Interval == "" {
			continue
		}
		amount, err := it.Price.UnitAmount.Times(max(it.Quantity, 1))
		if err != nil {
			return Money{}, err
		}
		count := max(it.Price.IntervalCount, 1)
		part, whole := int64(1), count
		switch it.Price.Interval {
		case Year:
			whole = 12 * count
		case Week:
			part, whole = 52, 12*count
		case Day:
			part, whole = 365, 12*count
		}
		month, err := amount.Share(part, whole)
		if err != nil {
			return Money{}, err
		}
		if sum, err = sum.Add(month); err != nil {
			return Money{}, err
		}
	}
	if sum.Currency == "" {
		return Money{}, fmt.Errorf("%w: subscription %s has no price for a month", ErrInvalid, s.ID)
	}
	return sum, nil
}

// Credit adds to what an account has to its credit for the next invoices. The
// same reference has one effect for good, also after the gateway has forgotten
// the idempotency key. It returns the gateway's ID of the change.
func (s *Service) Credit(ctx context.Context, reference, account string, amount Money) (string, error) {
	if amount.Amount <= 0 {
		return "", fmt.Errorf("%w: a credit of %s", ErrInvalid, amount)
	}
	entry, err := s.balance(ctx, reference, account, byHand{}, func(Customer) Money { return amount.Neg() })
	return entry.ID, err
}

// Debit takes back of an account's credit what isn't spent yet, and at most
// the amount. It returns how much that was. It never makes the account owe
// anything.
func (s *Service) Debit(ctx context.Context, reference, account string, amount Money) (taken Money, err error) {
	if amount.Amount <= 0 {
		return Money{}, fmt.Errorf("%w: a debit of %s", ErrInvalid, amount)
	}
	entry, err := s.balance(ctx, reference, account, byHand{}, func(c Customer) Money {
		if c.Balance.Currency != amount.Currency {
			return Money{0, amount.Currency}
		}
		return Money{min(amount.Amount, max(-c.Balance.Amount, 0)), amount.Currency}
	})
	return entry.Amount, err
}

// balanceIntent is a change of a balance that is under way. Its reference is
// its key, so that nothing but the gateway needs to remember it.
type balanceIntent struct {
	CustomerID string
	Amount     Money
	Reference  string
	Audit      *Audit `json:",omitempty"`
	What       string `json:",omitempty"`
}

func (r balanceIntent) key() string { return r.Reference }

func (s *Service) balance(ctx context.Context, reference, account string, hand byHand, decide func(Customer) Money) (BalanceEntry, error) {
	c, err := s.creditor()
	if err != nil {
		return BalanceEntry{}, err
	}
	if reference == "" {
		return BalanceEntry{}, fmt.Errorf("%w: a change of the balance needs a reference", ErrInvalid)
	}
	customer, err := s.EnsureCustomer(ctx, account)
	if err != nil {
		return BalanceEntry{}, err
	}
	var found BalanceEntry
	out, done, err := s.act(ctx, account, opBalance, func(a *Account) (any, bool, error) {
		for _, it := range a.Intents {
			var r balanceIntent
			if it.Op == opBalance && json.Unmarshal(it.Request, &r) == nil && r.Reference == reference {
				return it.Request, false, nil // under way: with the amount that was decided then
			}
		}
		call, cancel := s.call(ctx)
		defer cancel()
		// Before every write, not only after a failure: whoever calls may have
		// forgotten the failure, and the gateway the key.
		var err error
		if found, err = c.FindBalance(call, customer, reference); !errors.Is(err, ErrNotFound) {
			return nil, err == nil, err
		}
		now, err := c.Customer(call, customer)
		if err != nil {
			return nil, false, err
		}
		amount := decide(now)
		found = BalanceEntry{Amount: amount, Reference: reference}
		return balanceIntent{CustomerID: customer, Amount: amount, Reference: reference, Audit: hand.Audit, What: hand.What}, amount.Amount == 0, nil
	})
	if err != nil || !done {
		return out.balance, err
	}
	if hand.Audit != nil {
		_, err = s.edit(ctx, account, func(a *Account) bool {
			_, known := a.adjustment(hand.Audit.Key)
			a.adjust(Adjustment{Audit: *hand.Audit, At: s.now(), What: hand.What, Amount: found.Amount.Neg()})
			return !known
		})
	}
	return found, err
}
