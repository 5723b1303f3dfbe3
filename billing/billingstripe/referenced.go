package billingstripe

import (
	"context"

	"github.com/stripe/stripe-go/v76"

	"github.com/kolekt/commerce/billing"
)

var _ billing.ReferenceLister = (*Gateway)(nil)

// Balances lists all changes of a customer's balance; see
// billing.ReferenceLister.
func (g *Gateway) Balances(ctx context.Context, customerID string) ([]billing.BalanceEntry, error) {
	var all []billing.BalanceEntry
	for entry, err := range g.balances(ctx, "list balances", customerID) {
		if err != nil {
			return nil, err
		}
		all = append(all, entry)
	}
	return all, nil
}

// DiscountedInvoices lists a customer's invoices with their discounts; see
// billing.ReferenceLister.
func (g *Gateway) DiscountedInvoices(ctx context.Context, customerID, after string) ([]billing.Invoice, bool, error) {
	return g.invoices(ctx, customerID, after, func(p *stripe.InvoiceListParams) { p.AddExpand("data.discounts") })
}
