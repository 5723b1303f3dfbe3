package billing

import (
	"context"
	"fmt"
)

// ReferenceLister is what a Gateway offers in addition if it can list what was
// made under a reference. Service.Referenced needs it.
type ReferenceLister interface {
	// Balances lists all changes of a customer's balance, newest first.
	Balances(ctx context.Context, customerID string) ([]BalanceEntry, error)
	// DiscountedInvoices is Invoices, with Invoice.Discounts in full.
	DiscountedInvoices(ctx context.Context, customerID, after string) (invoices []Invoice, more bool, err error)
}

// Referenced is what the gateway has under the reference of a DiscountRenewal,
// a Credit or a Debit.
type Referenced struct {
	Reference string
	ID        string // of the coupon, or of the change of the balance
	InvoiceID string // empty for the balance
	Amount    Money  // given; negative: taken back
}

// Referenced lists what the gateway has of an account under references: each
// change of its balance, and each coupon for an amount on an invoice that isn't
// void. It reads the whole history: for reconciling, not for a request. An
// account without a customer has nothing.
func (s *Service) Referenced(ctx context.Context, account string) ([]Referenced, error) {
	lister, ok := s.gateway.(ReferenceLister)
	if !ok {
		return nil, fmt.Errorf("%w: it implements no ReferenceLister", ErrUnsupported)
	}
	a, err := s.Account(ctx, account)
	if err != nil || a.CustomerID == "" {
		return nil, err
	}
	var all []Referenced
	entries, err := lister.Balances(ctx, a.CustomerID)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.Reference != "" {
			all = append(all, Referenced{Reference: e.Reference, ID: e.ID, Amount: e.Amount.Neg()})
		}
	}
	for after, more := "", true; more; {
		var invoices []Invoice
		if invoices, more, err = lister.DiscountedInvoices(ctx, a.CustomerID, after); err != nil {
			return nil, err
		}
		for _, inv := range invoices {
			after = inv.ID
			if inv.Status == InvoiceVoid {
				continue
			}
			for _, d := range inv.Discounts {
				if d.Reference != "" && d.AmountOff.Amount > 0 {
					all = append(all, Referenced{Reference: d.Reference, ID: d.CouponID, InvoiceID: inv.ID, Amount: d.AmountOff})
				}
			}
		}
		more = more && len(invoices) > 0
	}
	return all, nil
}
